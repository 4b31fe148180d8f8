"""constraints-ui.txt is complete: nothing that Gradio or Playwright imports is missing after ``make ui-env`` alone."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = Path(__file__).parents[2] / "constraints-ui.txt"


def closure(*names: str) -> set[str]:
    """Names of these distributions and of everything they require, as installed here."""
    waiting, result = [Requirement(name) for name in names], {}
    while waiting:
        requirement = waiting.pop()
        name, extras = canonicalize_name(requirement.name), {"", *requirement.extras}
        if extras <= result.get(name, set()):
            continue
        result[name] = result.get(name, set()) | extras
        waiting += [
            needed
            for needed in map(Requirement, requires(name) or [])
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras)
        ]
    return set(result)


def test_every_requirement_is_pinned_or_in_the_dev_environment() -> None:
    """Packages that only the docs extra installs do not count."""
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", PINNED.read_text(), re.MULTILINE)}
    needed = closure("gradio", "playwright", "axe-playwright-python")
    assert needed - pinned - closure("omnisift[dev]") == set()


def test_gradio_can_be_imported() -> None:
    import gradio
    import playwright.sync_api

    assert f"gradio=={gradio.__version__}" in PINNED.read_text()
    assert playwright.sync_api
