"""The report of `omnisift inspect` in a browser, opened from disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.browser.accessible import findings, scrolls_sideways


@pytest.fixture(scope="module")
def report(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    command = [
        sys.executable,
        "-m",
        "omnisift.cli",
        "inspect",
        str(clip),
        "--compressor",
        "omnisift",
        "--compare",
        "v_cast",
        "--compare",
        "random",
        "-o",
        str(path),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path.as_uri()


def ready(page: Any) -> Any:
    page.locator("#where", has_text="frame 1 of 6").wait_for()
    return page


def test_the_track_of_text(open_page, clip: Path, tmp_path: Path) -> None:
    talk, path = tmp_path / "talk.mp4", tmp_path / "report.html"
    shutil.copy(clip, talk)
    rows = ("00:00:01,000 --> 00:00:02,000\na red circle", "00:00:04,000 --> 00:00:05,000\nthen a beep")
    talk.with_suffix(".srt").write_text("\n\n".join(f"{n}\n{row}" for n, row in enumerate(rows, 1)))
    command = [sys.executable, "-m", "omnisift.cli", "inspect", str(talk), "-o", str(path), "--compare", "random"]
    subprocess.run([*command, "--text", "subtitles", "--retain-text", "0.5"], check=True, stdout=subprocess.DEVNULL)
    page = ready(open_page(path.as_uri()))
    lanes = page.locator("#lanes .text")
    assert lanes.count() == 2
    boxes = [lanes.first.locator("> span").nth(number).bounding_box() for number in range(2)]
    wide = lanes.first.bounding_box()["width"]
    assert boxes[1]["x"] - boxes[0]["x"] == pytest.approx(wide * 3 / 6, abs=2), "each at its time"
    lanes.first.focus()
    page.keyboard.press("ArrowRight")
    assert re.search(
        r"text .red. at 1 s, chunk 1, text score .*, rank \d of 3 in its chunk, (kept|dropped)", detail(page)
    )
    assert lanes.first.locator("s").count() == 2
    assert findings(page, ("moderate", "serious", "critical")) == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
def test_accessible(report: str, open_page, dark: bool, width: int, shot) -> None:
    page = ready(open_page(report, width=width, dark=dark))
    assert findings(page, ("moderate", "serious", "critical")) == []
    assert not scrolls_sideways(page)
    page.get_by_label("scores").check()
    shot(page, f"report-{'dark' if dark else 'light'}-{width}")


def detail(page: Any) -> str:
    return page.locator("#detail").inner_text()


def test_pointing_at_patches(report: str, open_page) -> None:
    page = ready(open_page(report))
    canvas = page.locator("#panels canvas").first
    box = canvas.bounding_box()
    words = set()
    for row in range(4):
        for column in range(4):
            canvas.hover(position={"x": box["width"] * (column + 0.5) / 4, "y": box["height"] * (row + 0.5) / 4})
            text = detail(page)
            assert f"patch in row {row + 1}, column {column + 1} of frame 1" in text
            words.add(re.search(r"saliency -?[\d.e-]+, rank \d+ of 16 in its frame, (kept|dropped)", text)[1])
    assert words == {"kept", "dropped"}


def test_pointing_at_audio(report: str, open_page) -> None:
    page = ready(open_page(report))
    lane = page.locator("#lanes canvas[aria-label^='v_cast: audio tokens']")
    lane.hover(position={"x": 100, "y": 20})
    assert re.search(r"v_cast: audio at \d+\.\d\d s, chunk \d+", detail(page))
    page.locator("#lanes canvas[aria-label='Waveform']").hover(position={"x": 100, "y": 20})
    text = detail(page)
    assert re.search(r"selector score [\d.e-]+, rank \d+ of 50 in its chunk, (kept|dropped)\.", text)
    assert "Attends most to row" in text


def test_by_keyboard_alone(report: str, open_page) -> None:
    page = ready(open_page(report))
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the viewer"
    page.keyboard.press("Enter")
    slider = page.locator("#frame")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator("#where").inner_text().startswith("frame 3 of 6, 2.00 s, chunk 2 of 3")
    page.keyboard.press("Tab")  # next
    page.keyboard.press("Tab")  # first frame
    assert "row 1, column 1 of frame 3" in detail(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert re.search(r"row 2, column 2 of frame 3, .* rank \d+ of 16 in its frame, (kept|dropped)", detail(page))
    sound = page.locator("canvas[aria-label^='Mel spectrogram']")
    sound.focus()
    page.keyboard.press("PageDown")
    assert "audio at 1.00 s" in detail(page)
    page.keyboard.press("Enter")
    frame = re.search(r"Attends most to row \d+, column \d+ of frame (\d+)", detail(page))[1]
    assert page.locator("#where").inner_text().startswith(f"frame {frame} of 6")


def test_without_script_the_tables_are_there(report: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report)
    assert page.get_by_role("table").count() == 3
    context.close()


def test_a_window_that_changes_while_it_loads(report: str, open_page) -> None:
    """Resizing before the images are loaded raises no error."""
    page = open_page("about:blank")
    page.add_init_script(
        "new MutationObserver(() => dispatchEvent(new Event('resize'))).observe(document, "
        "{childList: true, subtree: true})"
    )
    page.goto(report)
    ready(page)
    assert "patches kept" in page.locator("figcaption").first.inner_text()


def test_wide_tables_fit_or_show_that_they_scroll(report: str, open_page) -> None:
    """Three methods fit at 1280 pixels; on a phone the shadow at the right edge is painted."""
    counts = "document.querySelector('[aria-label^=\"Tokens kept\"]')"
    wide = ready(open_page(report))
    assert wide.evaluate(f"{counts}.scrollWidth <= {counts}.clientWidth")
    phone = ready(open_page(report, width=390))
    assert phone.evaluate(f"{counts}.scrollWidth > {counts}.clientWidth")
    assert "linear-gradient" in phone.evaluate(f"getComputedStyle({counts}).backgroundImage")
