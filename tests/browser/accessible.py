"""Accessibility checks of a page by axe."""

from __future__ import annotations

from typing import Any


def findings(page: Any, impacts: tuple[str, ...] = ("serious", "critical")) -> list[str]:
    """Rule, impact and element of each violation of these impacts."""
    from axe_playwright_python.sync_playwright import Axe  # only where these tests run

    violations = Axe().run(page).response["violations"]
    return [
        f"{rule['id']} ({rule['impact']}): {node['html'][:160]}"
        for rule in violations
        if rule["impact"] in impacts
        for node in rule["nodes"]
    ]


def scrolls_sideways(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
