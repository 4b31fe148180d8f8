"""One `omnisift ui`, one Chromium, and pages without console errors. Run by ``nox -s extras``.

Screenshots go to ``build/browser``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.browser.ports import free_port

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "browser"
NAMES = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)


@contextmanager
def serving(log: Path, *arguments: str) -> Iterator[str]:
    """The address of a page started as a user starts it."""
    command = [sys.executable, "-m", "omnisift.cli", "ui", "--port", str(free_port()), *arguments]
    with log.open("w") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith("http://"), line + log.read_text()
        yield line.split()[0].rstrip("/")
        server.terminate()
        assert server.wait(timeout=30) == 143


@pytest.fixture(scope="session")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page with nano."""
    with serving(tmp_path_factory.mktemp("ui") / "stderr", "--max-upload", "1") as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert program is not None, f"none of {NAMES} is installed"
    # Chromium refuses to run its sandbox as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """``open_page(url, width=..., dark=...)``; checks at the end for console errors and requests to other hosts.

    ``expected_errors`` are errors that Gradio's own script reports.
    """
    opened: list[Any] = []
    expected: set[str] = set()
    errors: list[str] = []
    hosts: set[str] = set()

    def on_console(message: Any) -> None:
        if message.type == "error" and message.text not in expected:
            errors.append(message.text)

    def start(url: str, width: int = 1280, dark: bool = False, expected_errors: tuple[str, ...] = ()) -> Any:
        expected.update(expected_errors)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        page = context.new_page()
        page.on("console", on_console)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
        page.goto(url)
        opened.append(context)
        return page

    yield start
    for context in opened:
        context.close()
    assert errors == []
    assert hosts <= {"127.0.0.1", ""}


@pytest.fixture
def shot() -> Callable[..., None]:
    """``shot(page, name)``: the full page, enlarged first because frames do not paint what is out of view."""
    SHOTS.mkdir(parents=True, exist_ok=True)

    def take(page: Any, name: str) -> None:
        size = page.viewport_size
        page.set_viewport_size({**size, "height": page.evaluate("document.documentElement.scrollHeight")})
        page.wait_for_timeout(300)
        page.screenshot(path=SHOTS / f"{name}.png")
        page.set_viewport_size(size)

    return take
