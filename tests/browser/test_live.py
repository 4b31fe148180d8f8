"""The Live tab of `omnisift ui` with Chromium's fake camera, a moving picture, and its fake microphone, which beeps."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.browser.accessible import findings, scrolls_sideways
from tests.browser.conftest import NAMES, serving

FAKES = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
REFUSED = "Failed to load resource: the server responded with a status of 400 (Bad Request)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of its own, with fake devices."""
    from playwright.sync_api import sync_playwright

    program = next(path for name in NAMES if (path := shutil.which(name)))
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=[*flags, *FAKES])
        yield chromium
        chromium.close()


@pytest.fixture
def live(address: str, open_page) -> Any:
    page = open_page(address, expected_errors=(REFUSED,))
    return opened(page)


def opened(page: Any) -> Any:
    page.get_by_role("tab", name="Live").click()
    page.get_by_role("button", name="Start").wait_for()
    return page


def start(page: Any) -> None:
    page.get_by_role("button", name="Start").click()
    page.wait_for_function("parseFloat(document.getElementById('live-held').textContent) > 0", timeout=60_000)


def ask(page: Any, question: str) -> str:
    """Send a question; returns the answer and when it was given."""
    page.get_by_label("Ask the stream").fill(question)
    page.get_by_role("button", name="Send").click()
    card = page.locator("#live-answers .card", has_text=question).first
    card.wait_for(timeout=60_000)
    return f"{card.locator('.answer').inner_text()}\n{card.locator('.when').inner_text()}"


def stop(page: Any) -> None:
    page.get_by_role("button", name="Stop").click()
    page.locator("#live-message", has_text="Stopped.").wait_for()


def number(page: Any, name: str) -> float:
    return float(re.match(r"[\d.]+", page.locator(f"#live-{name}").inner_text())[0])


def test_ask_while_it_runs_and_stop(live: Any, shot) -> None:
    start(live)
    assert live.get_by_role("button", name="Start").is_disabled()
    assert live.locator("#live-preview video").evaluate("video => video.videoWidth > 0 && !video.paused")
    text, when = ask(live, "What colour is the circle?").splitlines()
    assert text
    assert re.fullmatch(r"after [\d.]+ s of the stream, in [\d.]+ s", when)
    seen = number(live, "seconds")
    live.wait_for_function(f"parseFloat(document.getElementById('live-seconds').textContent) > {seen}")
    assert number(live, "tokens") > 0
    assert number(live, "dropped") == 0
    assert live.locator("#live-notices li").count() == 0
    shot(live, "live")
    live.get_by_role("button", name="Forget the dialogue").click()
    live.locator("#live-message", has_text="The dialogue is forgotten").wait_for()
    assert live.locator("#live-answers .card").count() == 0
    stop(live)
    assert live.get_by_role("button", name="Send").is_disabled()
    assert live.locator("#live-preview video").count() == 0


def test_mistakes_are_one_sentence_and_the_stream_goes_on(live: Any) -> None:
    start(live)
    live.get_by_label("Ask the stream").fill(" ")
    live.get_by_role("button", name="Send").click()
    live.locator("#live-message.error", has_text="the question is empty").wait_for()
    assert ask(live, "Is a beep heard?")
    assert live.locator("#live-message.error").count() == 0
    stop(live)


def test_without_microphone_and_start_again(live: Any) -> None:
    live.get_by_label("Use the microphone").uncheck()
    for question in ("What is seen?", "What is seen now?"):
        start(live)
        assert ask(live, question)
        stop(live)


def test_no_more_streams_than_allowed(address: str, open_page, live: Any) -> None:
    others = [opened(open_page(address, expected_errors=(REFUSED,))) for _ in range(2)]
    start(live)
    start(others[0])
    others[1].get_by_role("button", name="Start").click()
    others[1].locator("#live-message.error", has_text="all 2 live streams").wait_for()
    assert others[1].get_by_role("button", name="Start").is_enabled()
    stop(live)
    start(others[1])
    for page in others:
        stop(page)


def test_a_stream_that_is_left_is_closed(tmp_path, open_page) -> None:
    """Another visitor gets its place when the page is closed, or sends nothing for a while."""
    log = tmp_path / "stderr"
    gone = "Failed to load resource: the server responded with a status of 410 (Gone)"
    with serving(log, "--live-streams", "1", "--live-idle", "3") as address:
        first = opened(open_page(address, expected_errors=(REFUSED, gone)))
        start(first)
        first.reload()
        second = opened(first)
        start(second)
        second.evaluate("() => { window.fetch = () => new Promise(() => {}); }")
        third = opened(open_page(address, expected_errors=(REFUSED, gone)))
        third.wait_for_timeout(4500)
        start(third)
        stop(third)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("Object.defineProperty(navigator, 'mediaDevices', {value: undefined})", "only to pages at localhost or over"),
        (
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))",
            "Allow them for this page",
        ),
        (
            "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotFoundError'))",
            "No camera or microphone was found",
        ),
    ],
)
def test_no_camera(live: Any, script: str, says: str) -> None:
    live.evaluate(f"() => {{ {script} }}")
    live.get_by_role("button", name="Start").click()
    live.locator("#live-message.error", has_text=says).wait_for()
    assert live.get_by_role("button", name="Start").is_enabled()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["wide", "phone"])
def test_accessible(address: str, open_page, dark: bool, width: int, shot) -> None:
    page = opened(open_page(address, width=width, dark=dark))
    assert findings(page) == []
    start(page)
    ask(page, "What is seen?")
    assert findings(page) == []
    assert not scrolls_sideways(page)
    shot(page, f"live-{'dark' if dark else 'light'}-{width}")
    stop(page)


RESAMPLED = """async ([rate, tone]) => {
  const context = new OfflineAudioContext(1, rate, rate);
  await context.audioWorklet.addModule("live/live_microphone.js");
  const node = new AudioWorkletNode(context, "microphone", {numberOfOutputs: 1});
  const source = new OscillatorNode(context, {frequency: tone});
  const parts = [];
  node.port.onmessage = ({data}) => parts.push(data);
  source.connect(node).connect(context.destination);
  source.start();
  await context.startRendering();
  await new Promise((done) => setTimeout(done, 200));
  return {times: parts.map((part) => part.time), samples: parts.flatMap((part) => [...part.samples])};
}"""


@pytest.mark.parametrize("rate", [16000, 44100, 48000, 96000])
def test_sound_at_16_khz(live: Any, rate: int) -> None:
    """A tone of 440 Hz keeps frequency, phase and loudness; one of 12 kHz is filtered out instead of folded down."""
    result = live.evaluate(RESAMPLED, [rate, 440])
    samples = np.array(result["samples"]) / 32768
    assert len(samples) >= 14400
    assert result["times"] == pytest.approx(np.arange(len(result["times"])) * 0.1)
    expected = np.sin(2 * np.pi * 440 * np.arange(len(samples)) / 16000)
    np.testing.assert_allclose(samples[100:], expected[100:], atol=0.02)
    if rate > 24000:
        folded = np.array(live.evaluate(RESAMPLED, [rate, 12000])["samples"]) / 32768
        assert np.abs(folded[100:]).max() < 0.01
