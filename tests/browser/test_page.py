"""`omnisift ui` in a browser: upload, samples, questions, errors, accessibility."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.browser.accessible import findings, scrolls_sideways
from tests.browser.conftest import serving

from omnisift.utils.assets import nano_path

SAMPLE = "Shapes and sounds, 6 s"


def ask(page: Any, question: str | None = None) -> Any:
    """Press the button and wait for new cards."""
    if question is not None:
        page.get_by_label("Question").fill(question)
    page.evaluate("document.querySelector('#answers .cards')?.remove()")
    page.get_by_role("button", name="Ask").click()
    cards = page.locator("#answers .card")
    cards.first.wait_for()
    return cards


def choose(page: Any, label: str, value: str) -> None:
    page.get_by_label(label).click()
    page.get_by_role("option", name=value, exact=True).click()
    page.get_by_role("listbox").wait_for(state="hidden")


def upload(page: Any, *paths: Path) -> None:
    page.locator("#file input[type=file]").set_input_files([str(path) for path in paths])


def upload_and_see(page: Any, path: Path) -> None:
    upload(page, path)
    page.locator(f"#player [src*='{path.name}']").wait_for()


def loaded(player: Any) -> bool:
    return bool(
        player.evaluate(
            "clip => clip.readyState > 0 || new Promise(done => { clip.onloadedmetadata = () => done(true);"
            " clip.onerror = () => done(false); })"
        )
    )


def test_upload_and_ask_and_ask_again(address: str, open_page, clip: Path, shot) -> None:
    page = open_page(address)
    upload_and_see(page, clip)
    assert loaded(page.locator("#player video"))
    cards = ask(page, "Which colour appears last?")
    assert cards.count() == 3
    assert cards.nth(0).locator("h2").inner_text() == "all tokens"
    assert "63 of 246 (25.6 %)" in cards.nth(1).inner_text()
    assert "Reading and encoding the clip took" in page.locator(".timing").inner_text()
    ask(page, "Is a beep heard?")
    timing = page.locator(".timing").inner_text()
    assert re.search(r"without encoders\. .* The encoded clip was reused: encoding it took \d+\.\d\d s", timing)
    assert page.locator("#answers .question").inner_text() == "Is a beep heard?"
    shot(page, "page")


def test_move_the_slider_and_compare(address: str, open_page) -> None:
    page = open_page(address)
    page.get_by_label(SAMPLE).check()
    page.locator("#player video").wait_for()
    slider = page.locator("#percent input[type=range]")
    slider.focus()
    for _ in range(25):
        slider.press("ArrowRight")
    choose(page, "Method", "stvp")
    choose(page, "Compare with", "uniform")
    cards = ask(page, "What colour is the square?")
    assert [cards.nth(number).locator("h2").inner_text() for number in range(3)] == ["all tokens", "stvp", "uniform"]
    assert "48 of 96" in cards.nth(1).inner_text()
    choose(page, "Compare with", "no second method")
    assert ask(page).count() == 2


def test_subtitles_of_an_uploaded_file(address: str, open_page, clip: Path, tmp_path: Path) -> None:
    words, wrong = tmp_path / "words.srt", tmp_path / "wrong.srt"
    words.write_text("1\n00:00:01,000 --> 00:00:02,000\na red circle and a beep\n")
    wrong.write_text("no times at all")
    page = open_page(address)
    upload_and_see(page, clip)
    cards = ask(page, "Which colour appears last?")
    assert "text" not in cards.nth(1).inner_text()
    page.locator("#subtitles input[type=file]").set_input_files(str(words))
    page.locator("#subtitles", has_text="words").wait_for()
    cards = ask(page)
    assert re.search(r"text\s+6 of 6", cards.nth(1).inner_text())
    report = page.frame_locator("iframe.report")
    assert report.locator("#lanes .text").first.inner_text().startswith("a red circle")
    page.get_by_label("Read subtitles").check()
    upload_and_see(page, Path(shutil.copy(clip, tmp_path / "other.mp4")))
    cards = ask(page)
    assert "text" not in cards.nth(1).inner_text(), "the clip has no track of text"
    assert "no subtitles: " in page.locator("#answers").inner_text()
    page.locator("#subtitles input[type=file]").set_input_files(str(wrong))
    page.locator("#subtitles", has_text="wrong").wait_for()
    page.get_by_role("button", name="Ask").click()
    page.locator("#status .error").wait_for()
    assert "its subtitles wrong.srt: " in page.locator("#status .error").inner_text()


def test_choose_a_model(open_page, tmp_path: Path) -> None:
    """The first model was trained for its selector. The second has none: the default and the methods are others."""
    own, plain = tmp_path / "own", tmp_path / "plain"
    shutil.copytree(nano_path(), own)
    shutil.copytree(nano_path(), plain, ignore=shutil.ignore_patterns("selector"))
    with serving(tmp_path / "stderr", "--model", str(own), "--model", str(plain)) as address:
        from playwright.sync_api import expect

        page = open_page(address)
        page.get_by_label(SAMPLE).check()
        page.locator("#player video").wait_for()
        assert "default: the checkpoint has an OmniSIFT selector" in page.locator("#method").inner_text()
        cards = ask(page, "What colour is the square?")
        assert cards.nth(1).locator("h2").inner_text() == "omnisift+time"
        choose(page, "Model", str(plain))
        method = page.get_by_label("Method")
        expect(method).to_have_value("resift")
        expect(page.locator("#method")).to_contain_text("resift (default)")
        method.click()
        assert page.get_by_role("option", name="omnisift", exact=True).count() == 0
        page.get_by_role("option", name="stvp", exact=True).click()
        page.get_by_role("listbox").wait_for(state="hidden")
        cards = ask(page)
        assert cards.nth(1).locator("h2").inner_text() == "stvp"
        assert "Reading and encoding the clip took" in page.locator(".timing").inner_text()
        assert str(plain) in page.frame_locator("iframe.report").locator("body").inner_text()


def test_a_sample_fills_in_its_question(address: str, open_page) -> None:
    page = open_page(address)
    for title in (SAMPLE, "No audio, 6 s"):
        page.get_by_label(title).check()
        page.locator("#examples button").first.wait_for()
        page.wait_for_function(
            "() => document.querySelector('#question textarea, #question input').value"
            " === document.querySelector('#examples button').textContent.trim()"
        )
    cards = ask(page)
    assert "0 of 0" in cards.nth(1).inner_text()


def test_example_questions_can_be_clicked(address: str, open_page, clip: Path) -> None:
    """A click asks; on the first sample a random choice answers one of them wrongly."""
    page = open_page(address)
    assert page.locator("#examples button:visible").count() == 0
    page.get_by_label(SAMPLE).check()
    examples = page.locator("#examples button")
    examples.first.wait_for()
    right = []
    for number in range(examples.count()):
        question = examples.nth(number).inner_text()
        examples.nth(number).click()
        page.locator("#answers .question", has_text=question).wait_for()
        texts = page.locator("#answers .answer").all_inner_texts()
        right.append([text == texts[0] for text in texts])
    assert [row[1] for row in right] == [True] * 3
    assert [row[2] for row in right].count(False) >= 1
    upload_and_see(page, clip)
    examples.first.wait_for(state="hidden")


def test_the_report_needs_no_scrollbar_of_its_own(address: str, open_page) -> None:
    page = open_page(address)
    page.get_by_label(SAMPLE).check()
    page.locator("#player video").wait_for()
    ask(page, "What colour is the square?")
    body = page.frame_locator("iframe.report").locator("body")
    body.locator("#where", has_text="frame 1").wait_for()
    page.wait_for_timeout(500)
    frame = page.locator("iframe.report").bounding_box()["height"]
    assert body.evaluate("body => body.offsetHeight") <= frame
    assert body.evaluate("() => document.documentElement.scrollHeight <= document.documentElement.clientHeight")


def test_hover_a_patch_and_read_its_score(address: str, open_page, shot) -> None:
    page = open_page(address)
    page.get_by_label(SAMPLE).check()
    page.locator("#player video").wait_for()
    choose(page, "Method", "omnisift")
    ask(page, "What colour is the square?")
    assert page.locator("iframe.report").get_attribute("sandbox") == "allow-scripts"
    report = page.frame_locator("iframe.report")
    canvas = report.locator("#panels canvas").first
    canvas.hover(position={"x": 20, "y": 20})
    text = report.locator("#detail").inner_text()
    assert re.search(r"row 1, column 1 of frame 1, spatial saliency -?[\d.e-]+, rank \d+ of 16", text)
    assert re.search(r"in its frame, (kept|dropped)", text)
    shot(page, "page-report")


def test_mistakes_are_one_sentence_and_the_next_question_works(
    address: str, open_page, clip: Path, tmp_path: Path, shot
) -> None:
    page = open_page(address)
    alert = page.get_by_role("alert")

    def fails(message: str) -> None:
        page.get_by_role("button", name="Ask").click()
        alert.filter(has_text=message).wait_for()
        assert "\n" not in alert.filter(has_text=message).inner_text().strip()
        assert page.locator("#answers .card").count() == 0

    page.get_by_label("Question").fill("What is it?")
    fails("no clip yet; drop a file or choose a sample")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video" * 100)
    upload_and_see(page, broken)
    fails("broken.mp4")
    shot(page, "page-error")
    page.get_by_label(SAMPLE).check()
    page.locator("#player video[src*='base-0.mp4']").wait_for()
    page.get_by_label("Question").fill(" ")
    fails("the question is empty")
    assert ask(page, "What colour is the square?").count() == 3
    assert page.locator("#status .error").count() == 0


def test_large_files_and_other_types_are_refused(address: str, open_page, tmp_path: Path) -> None:
    # Gradio's script asks for the progress of an upload that it has just refused.
    missing = "Failed to load resource: the server responded with a status of 404 (Not Found)"
    page = open_page(address, expected_errors=(missing, "Response"))
    big, notes = tmp_path / "big.mp4", tmp_path / "notes.txt"
    big.write_bytes(bytes((1 << 20) + 1))
    notes.write_text("mine")
    upload(page, big)
    page.get_by_text("exceed the maximum").first.wait_for()
    upload(page, notes)
    page.get_by_text("Invalid file type").first.wait_for()
    assert page.locator("#player .empty").count() == 1


def test_users_do_not_see_each_other(address: str, open_page, clip: Path) -> None:
    one, two = open_page(address), open_page(address)
    upload_and_see(one, clip)
    two.get_by_label("No audio, 6 s").check()
    two.locator("#player video[src*='silent-3.mp4']").wait_for()
    for page in (one, two):
        page.get_by_label("Question").fill("Which colour appears last?")
    for page in (one, two):
        page.get_by_role("button", name="Ask").click()
    for page, audio in ((one, "39 of 150"), (two, "0 of 0")):
        assert audio in page.locator("#answers .card").nth(1).inner_text()


def test_enter_asks_the_question(address: str, open_page) -> None:
    page = open_page(address)
    page.get_by_label(SAMPLE).check()
    page.locator("#player video").wait_for()
    page.get_by_label("Question").fill("What colour is the square?")
    page.get_by_label("Question").press("Enter")
    page.locator("#answers .card").first.wait_for()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
def test_accessible(address: str, open_page, dark: bool, width: int, shot) -> None:
    page = open_page(address, width=width, dark=dark)
    page.get_by_role("button", name="Ask").wait_for()
    assert findings(page) == []
    page.get_by_label(SAMPLE).check()
    page.locator("#player video").wait_for()
    ask(page, "What colour is the square?")
    page.frame_locator("iframe.report").locator("#detail").wait_for()
    assert findings(page) == []
    assert not scrolls_sideways(page)
    shot(page, f"page-{'dark' if dark else 'light'}-{width}")


def test_progress_is_shown(address: str, open_page) -> None:
    page = open_page(address)
    page.get_by_label("Long clip with few events, 24 s").check()
    page.locator("#player video").wait_for()
    page.evaluate(
        "() => { window.texts = []; new MutationObserver(() => texts.push(document.body.innerText))"
        ".observe(document.body, {subtree: true, childList: true, characterData: true}); }"
    )
    ask(page)
    texts = page.evaluate("texts.join()")
    assert re.search(r"(all tokens|omnisift|random): (encoding|reading|preparing|writing|compressing)", texts)
