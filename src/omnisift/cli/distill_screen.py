"""What `omnisift distill` shows at its end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def show_agreement(console: Console, report: Mapping[str, Any], skipped: int, folder: Path) -> None:
    """How far the selector chooses as the full-token model does, beside choices that learned nothing."""
    clips = report["clips"]
    console.print(f"{clips['taught']} clips taught, {clips['held out']} held out, {skipped} left out")
    for what, key in (("sound", "agreement"), ("picture", "picture")):
        for retain, ways in report.get(key, {}).items():
            console.print(_table(f"{what} kept: {100 * float(retain):g} %", ways))
    console.print(Text(f"selector: {folder} (omnisift ask CLIP QUESTION --selector {folder})"))


def _table(title: str, ways: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(title)
    for head in ("teacher's choice", "its target", "rank"):
        table.add_column(head, justify="right")
    for name, row in ways.items():
        shares = (f"{100 * row[key]:.1f} %" for key in ("overlap", "attention"))
        table.add_row(name, *shares, f"{row['rank']:.2f}")
    return table
