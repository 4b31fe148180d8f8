"""MkDocs hook: a menu item appears once its page exists. Benchmarks write some pages, so a checkout may lack them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def present(items: list[Any], docs: Path) -> list[Any]:
    """Menu items whose page exists; sections that would be empty go."""
    kept: list[Any] = []
    for item in items:
        ((title, target),) = item.items()
        if isinstance(target, list):
            target = present(target, docs)
        elif not (docs / target).is_file():
            target = None
        if target:
            kept.append({title: target})
    return kept


def on_config(config: Any) -> Any:
    """Called by MkDocs before it builds the menu."""
    config["nav"] = present(config["nav"], Path(config["docs_dir"]))
    return config
