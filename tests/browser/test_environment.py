"""constraints-ui.txt and constraints.txt together pin all that Gradio, Playwright and DeepSpeed need."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PINNED = "\n".join((ROOT / name).read_text() for name in ("constraints-ui.txt", "constraints.txt"))


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


def test_every_requirement_is_pinned() -> None:
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", PINNED, re.MULTILINE)}
    needed = closure("omnisift[dev,ray,ui]", "playwright", "axe-playwright-python", "deepspeed")
    assert needed - pinned == {"omnisift"}


def test_gradio_can_be_imported() -> None:
    import gradio
    import playwright.sync_api

    assert f"gradio=={gradio.__version__}" in PINNED
    assert playwright.sync_api
