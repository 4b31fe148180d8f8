"""The report page: one file, no network access, small, usable by keyboard and screen reader."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from media_files import write_audio, write_video

from omnisift.inspector import Inspection
from omnisift.inspector import page_data as module
from omnisift.inspector.html import render
from omnisift.inspector.images import encode_jpegs, spectrogram_image, waveform_envelope
from omnisift.inspector.page_data import downsample_trace, page_data

VOID = {"meta", "input", "link", "br", "img"}
PARTS = ("page.html", "page.css", "data.js", "draw.js", "text.js", "page.js")


def part(name: str) -> str:
    return files("omnisift.inspector").joinpath("page").joinpath(name).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that elements are closed in order; collects elements, text and the embedded data."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        if self.open[-1:] == ["script"]:
            self.data = self.data or data  # the first script element holds the data
        elif self.open[-1:] != ["style"]:
            self.text += data + " "

    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.found if attributes.get("id")]


@pytest.fixture(scope="module")
def html(compared: Inspection) -> str:
    return render(compared)


def test_no_network_requests(html: str) -> None:
    assert "default-src 'none'" in html
    for pattern in (r"https?:", r"//[a-z]+\.", r"url\(", r"@import", r"fetch\(", r"XMLHttp", r"import\(", r"<link"):
        assert re.search(pattern, re.sub(r"base64,[\w+/=]+", "", html)) is None, pattern
    for tag, attributes in Page(html).found:
        assert not attributes.get("src"), tag
        assert (attributes.get("href") or "#").startswith("#"), tag


def test_it_parses_and_ids_are_unique_and_used(html: str) -> None:
    page = Page(html)
    assert len(page.ids()) == len(set(page.ids()))
    script = "".join(map(part, PARTS[2:]))
    assert set(re.findall(r'byId\("(\w+)"\)', script)) <= {*page.ids(), "frameCursor", "audioCursor"}
    for _, attributes in page.found:
        for name in ("for", "aria-labelledby"):
            assert attributes.get(name) is None or attributes[name] in page.ids()


def test_accessible_markup(html: str) -> None:
    page = Page(html)
    attributes = [result for _, result in page.found]
    assert ("html", {"lang": "en"}) in page.found
    assert any(result.get("aria-live") == "polite" for result in attributes)
    assert any(result.get("name") == "viewport" for result in attributes)
    assert "prefers-color-scheme: dark" in html
    assert [tag for tag, _ in page.found if tag in ("header", "h1", "main")] == ["header", "h1", "main"]
    for tag, result in page.found:
        if tag == "th":
            assert result.get("scope") in ("col", "row", "colgroup")
    for key in ("ArrowLeft", "ArrowUp", "Enter"):
        assert key in html


def test_tables_match_the_trace(compared: Inspection, html: str) -> None:
    text = Page(html).text
    for asked in compared.trace.methods:
        assert asked.label in text
        assert asked.answer.text in text
    for expected in (
        "24 of 96 (25.0 %)",
        "39 of 150 (26.0 %)",
        "evidence tokens",
        "True answer:",
        "0 to 2",
        "encode audio",
    ):
        assert expected in text


def test_data_match_the_trace(compared: Inspection, html: str) -> None:
    data = json.loads(Page(html).data)
    trace = compared.trace
    assert data["frames"] == list(range(6))
    assert len(data["images"]) == 6
    for shown, method in zip(data["methods"], trace.methods, strict=True):
        if method.selection is None:
            assert shown["video"] is None
            continue
        assert shown["video"]["kept"].count("1") == sum(method.selection.video_kept)
        assert shown["audio"]["kept"].count("1") == sum(method.selection.audio_kept)
        assert shown["merged"] == list(method.selection.merged)
    cell = 2 * 16 + 1 * 4 + 3
    index = np.flatnonzero((trace.tokens.frame == 2) & (trace.tokens.row == 1) & (trace.tokens.column == 3))[0]
    assert data["methods"][1]["video"]["rank"][cell] == trace.methods[1].selection.rank[index]
    anchor = trace.methods[1].selection.anchor_attention.anchors[60, 0]
    frame, where, share = data["methods"][1]["anchors"][60][0]
    assert (frame, where) == (trace.tokens.frame[anchor], 4 * trace.tokens.row[anchor] + trace.tokens.column[anchor])
    assert share == pytest.approx(100 * trace.methods[1].selection.anchor_attention.share[60, 0], abs=0.06)
    assert {event["kind"] for event in data["evidence"]} == {"shape", "sound"}


def test_user_text_is_escaped(compared: Inspection) -> None:
    nasty = '</script><script>alert(1)</script> & "quotes" $data'
    trace = replace(compared.trace, question=nasty, notices=(nasty,), clip=replace(compared.trace.clip, path=nasty))
    html = render(replace(compared, trace=trace))
    page = Page(html)
    assert [tag for tag, _ in page.found].count("script") == 2
    assert nasty in page.text


@pytest.mark.slow
def test_sixty_seconds_of_natural_size_stay_under_eight_megabytes(inspected, tmp_path: Path) -> None:
    video = write_video(tmp_path / "minute.mp4", 60, size=(448, 252))
    inspection = inspected(video, "omnisift", "random", max_pixels=320 * 784, max_new_tokens=2, max_length=20_000)
    assert (inspection.trace.grid.rows, inspection.trace.grid.columns) == (9, 16)
    assert len(downsample_trace(inspection.trace).frames) == 60, "all frames are shown"
    size = len(render(inspection).encode())
    assert 1_000_000 < size < 8_000_000


def test_images_fit_their_byte_budget(compared: Inspection) -> None:
    plenty, few = encode_jpegs(compared.media, range(6), 10**7), encode_jpegs(compared.media, range(6), 4000)
    assert sum(map(len, few)) <= 4000 < sum(map(len, plenty))


def test_long_clips_are_downsampled_with_a_note(compared: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_FRAMES", 2)
    monkeypatch.setattr(module, "MAX_CELLS", 150)
    shown = downsample_trace(compared.trace)
    assert shown.frames == (0, 1), "frames of a chunk stay together"
    assert list(shown.audio) == list(compared.trace.tokens.indices(2)[::9])
    html = render(compared)
    text = Page(html).text
    assert "2 of 6 frames are shown" in text
    assert "One in 9 of 150 audio tokens is shown" in text
    data = json.loads(Page(html).data)
    assert len(data["methods"][1]["video"]["rank"]) == 32
    assert len(data["audio"]["time"]) == 17 == len(data["methods"][1]["anchors"])
    assert len(compared.trace.to_dict()["tokens"]["time"]) == 246, "the trace keeps every token"


@pytest.mark.slow
def test_ten_minutes(inspected, tmp_path: Path) -> None:
    """Sampled at a lower rate, with a note."""
    inspection = inspected(write_video(tmp_path / "long.mp4", 600), "omnisift", max_new_tokens=2, max_length=20_000)
    assert inspection.trace.grid.frames == 128
    html = render(inspection)
    assert "over max_frames=256; sampled at 0.4267 images per second" in Page(html).text
    assert len(html) < 8_000_000


def test_video_only_and_audio_only(inspected, tmp_path: Path) -> None:
    silent = render(inspected(write_video(tmp_path / "silent.mp4", 2, audio=False), "omnisift"))
    assert json.loads(Page(silent).data)["wave"] is None
    assert "no audio" in Page(silent).text
    heard = render(inspected(write_audio(tmp_path / "tone.m4a"), "omnisift"))
    data = json.loads(Page(heard).data)
    assert data["grid"] is None
    assert data["images"] == []
    assert data["methods"][1]["audio"] is None
    assert "no video" in Page(heard).text


def test_outline_and_spectrogram_image() -> None:
    wave = np.zeros(1000, np.float32)
    wave[500] = -0.5
    low, high = waveform_envelope(wave, columns=10)
    assert (low, high) == ([0] * 5 + [-100] + [0] * 4, [0] * 10)
    assert waveform_envelope(np.zeros(5, np.float32))[0] == [0] * 5
    mel = np.zeros((128, 300), np.float32)
    mel[:2] = 1  # the lowest bands end at the bottom
    image = spectrogram_image(mel, columns=30)
    assert image.shape == (64, 30)
    assert (image[-1] == 255).all()
    assert (image[0] == 0).all()


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which can parse scripts, is not installed")
def test_the_script_parses(tmp_path: Path) -> None:
    (tmp_path / "all.js").write_text("".join(map(part, PARTS[2:])))
    subprocess.run(["node", "--check", str(tmp_path / "all.js")], check=True, timeout=60)


def test_data_are_json(compared: Inspection) -> None:
    data = page_data(compared, downsample_trace(compared.trace))
    assert json.loads(json.dumps(data, allow_nan=False)).keys() == data.keys()
