"""Lines of text in the trace, on the page and in the figure."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import write_audio
from test_page import Page, part
from test_trace import checked

from omnisift.budget import Budget
from omnisift.inspector import Inspection, figure, inspect_clip
from omnisift.inspector import page_data as module
from omnisift.inspector.figure import compose
from omnisift.inspector.html import render
from omnisift.inspector.lines import runs, token_pieces
from omnisift.inspector.page_data import downsample_trace, page_data
from omnisift.media import Line
from omnisift.models import attach
from omnisift.pipeline import Pipeline
from omnisift.pipeline.encoded_clip import prompt_row
from omnisift.pipeline.loading import Host
from omnisift.pipeline.method import compressor_for
from omnisift.tokens import Modality

TEXT = int(Modality.SUBTITLE)
LINES = (Line(0.5, 1.5, "a red circle"), Line(2.5, 4.0, "then a beep and blue square"), Line(5.0, 6.0, "a red circle"))
BUDGET = Budget(retain=0.25, retain_text=0.5)


@pytest.fixture(scope="module")
def subtitled(host: Host, clip: Path) -> Inspection:
    media = replace(Pipeline(host, None).read(clip), lines=LINES)
    methods = {name: compressor_for(host, name, BUDGET) for name in ("resift", "random")}
    return inspect_clip(host, methods, media, max_new_tokens=4)


def test_lines_and_their_tokens(host: Host, subtitled: Inspection) -> None:
    trace = subtitled.trace
    tokens, index = trace.tokens, trace.tokens.indices(TEXT)
    assert index.tolist() == list(range(246, 258)), "behind those of video and audio"
    assert [(line.start, line.end, "".join(line.pieces)) for line in trace.lines] == [
        (line.start, line.end, line.text) for line in LINES
    ]
    assert np.concatenate([line.tokens for line in trace.lines]).tolist() == index.tolist()
    assert tokens.time[index].tolist() == [0.5] * 3 + [2.5] * 6 + [5.0] * 3
    assert [chunk.text for chunk in trace.chunks] == [3, 6, 3]
    assert set(tokens.frame[index]) == {-1}
    loaded = checked(trace)
    assert loaded["lines"][0] == {
        "start": 0.5, "end": 1.5, "pieces": ["a", " red", " circle"], "tokens": [246, 247, 248]
    }  # fmt: skip
    assert set(loaded["methods"][1]["selection"]["kind"][-12:]) == {"track"}


def test_kept_tokens_are_those_of_the_attachment(host: Host, subtitled: Inspection) -> None:
    trace = subtitled.trace
    compressor = compressor_for(host, "resift", BUDGET).eval()
    row = prompt_row(host, compressor, subtitled.media, trace.question)
    with torch.inference_mode(), attach(host.thinker, compressor) as attachment:
        attachment.lines = [row.lines]
        host.thinker(**row.inputs)
    last = attachment.last
    media = last.modality[0] != Modality.TEXT
    selection = trace.methods[1].selection
    # The trace has the tokens in the order in which the compressor saw them.
    assert sorted(last.modality[0][media].tolist()) == sorted(trace.tokens.modality.tolist())
    assert (sum(selection.text_kept), len(trace.tokens.indices(TEXT))) == (last.kept_text, last.n_text)
    report = trace.methods[1].answer.report.tokens
    assert (report.text, report.text_kept) == (last.n_text, last.kept_text) == (12, 7)
    for chunk, kept in enumerate(selection.text_kept):
        inside = (trace.tokens.modality == TEXT) & (trace.tokens.chunk == chunk)
        assert kept == selection.kept[inside].sum()
        assert sorted(selection.rank[inside]) == list(range(1, int(inside.sum()) + 1))
        assert sorted(selection.rank[inside & selection.kept]) == list(range(1, kept + 1))
    audio = (trace.tokens.modality == Modality.AUDIO) & (trace.tokens.chunk == 0)
    assert max(selection.rank[audio]) <= audio.sum(), "text is ranked apart from audio"


def test_the_page_strikes_out_what_was_dropped(subtitled: Inspection) -> None:
    page = Page(render(subtitled))
    selection = subtitled.trace.methods[1].selection
    for expected in ("Lines of text", "0.5 to 1.5", "text tokens", "7 of 12 (58.3 %)", "kept of all", " all "):
        assert expected in page.text
    struck = [tag for tag, _ in page.found].count("s")
    expected = sum(not flag for m in subtitled.trace.methods[1:] for line in subtitled.trace.lines
                   for flag, _ in runs(line, m.selection.kept))  # fmt: skip
    assert struck == expected > 0
    data = json.loads(page.data)
    assert data["text"]["lines"][1] == [2.5, ["then", " a", " beep", " and", " blue", " square"]]
    assert data["text"]["chunk"] == [0] * 3 + [1] * 6 + [2] * 3
    assert data["methods"][1]["text"]["kept"].count("1") == sum(selection.text_kept)
    assert data["methods"][0]["text"] is None


def test_a_clip_without_lines_has_no_track_of_text(compared: Inspection) -> None:
    page = Page(render(compared))
    assert compared.trace.lines == ()
    assert "Lines of text" not in page.text
    assert "text tokens" not in page.text
    assert json.loads(page.data)["text"] == {"lines": [], "chunk": []}


def test_text_of_lines_is_escaped(subtitled: Inspection) -> None:
    nasty = "</script><script>alert(1)</script> & $x$"
    first = subtitled.trace.lines[0]
    lines = (replace(first, pieces=(nasty, " red\n", "")), *subtitled.trace.lines[1:])
    inspection = replace(subtitled, trace=replace(subtitled.trace, lines=lines))
    page = Page(render(inspection))
    assert [tag for tag, _ in page.found].count("script") == 2
    assert nasty in page.text.replace("  ", " ")
    assert "\u21b5" in page.text
    texts = [text.get_text() for axes in compose(inspection).axes for text in axes.texts]
    assert any(r"\$x\$" in text for text in texts)


def test_the_figure_has_kept_and_dropped_words_over_each_other(subtitled: Inspection) -> None:
    axes = compose(subtitled).axes
    assert len(axes) == 2 + 2 + 2 + 2
    texts = [text.get_text() for text in axes[-1].texts]
    for line, kept, dropped in zip(LINES, texts[::2], texts[1::2], strict=True):
        assert len(kept) == len(dropped) == len(line.text)
        assert "".join(b if a == " " else a for a, b in zip(kept, dropped, strict=True)) == line.text
    assert [text.get_position()[0] for text in axes[-1].texts[::2]] == [0.5, 2.5, 5.0]


def test_lines_without_room_are_left_out(subtitled: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = subtitled.trace.lines * 200
    crowded = replace(subtitled, trace=replace(subtitled.trace, lines=lines))
    axes = compose(crowded).axes[-1]
    assert len(axes.texts) // 2 < 20
    assert "(some of them)" in axes.get_title()
    monkeypatch.setattr(figure, "MAX_TEXT_ROWS", 1)
    assert len(compose(subtitled).axes[-1].texts) == 6
    monkeypatch.setattr(module, "MAX_CELLS", 400)
    shown = downsample_trace(crowded.trace)
    assert 0 < shown.lines < len(lines)
    assert f"The first {shown.lines} of 600 lines of text are shown." in shown.notes
    assert len(page_data(crowded, shown)["text"]["lines"]) == shown.lines


def test_a_sound_that_is_not_compressed_keeps_its_lines(host: Host, tmp_path: Path) -> None:
    """Its lines are text of the prompt: they have no chunk, and nothing is dropped."""
    media = replace(Pipeline(host, None).read(write_audio(tmp_path / "tone.m4a")), lines=LINES[:1])
    inspection = inspect_clip(host, {"resift": compressor_for(host, "resift", BUDGET)}, media, max_new_tokens=2)
    (line,) = inspection.trace.lines
    checked(inspection.trace)
    assert len(line.tokens) == 0
    page = Page(render(inspection))
    assert "a red circle" in page.text
    assert "s" not in [tag for tag, _ in page.found]
    assert len(compose(inspection).axes[-1].texts) == 2


def test_pieces_of_bytes_join_to_the_text() -> None:
    """A tokenizer of bytes: a character of several tokens is in the piece of its last one."""

    class Bytes:
        def decode(self, ids: list[int], **_: object) -> str:
            return bytes(ids).decode(errors="replace")

    for text in ("abc", "h\u00e9llo \u4e2d\U0001f600\n", ""):
        pieces = token_pieces(Bytes(), list(text.encode()))
        assert "".join(pieces) == text
        assert len(pieces) == len(text.encode())
    assert token_pieces(Bytes(), [0xE4, 0xB8]) == ("", "\ufffd")


RUN = """
const lanes = {children: []}, detail = {textContent: ""};
class Element {
  constructor(tag) { this.tag = tag; this.children = []; this.style = {}; this.dataset = {}; this.on = {};
    this.text = ""; this.names = new Set();
    this.classList = { add: (n) => this.names.add(n), remove: (n) => this.names.delete(n) }; }
  appendChild(child) { this.children.push(child); child.parentElement = this; return child; }
  setAttribute(name, value) { if (name.startsWith("data-")) this.dataset[name.slice(5)] = String(value); }
  addEventListener(name, listener) { this.on[name] = listener; }
  set textContent(text) { this.text = text; }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }
  get offsetWidth() { return 6 * this.textContent.length; }
}
const box = new Element("div"), said = [];
const document = { getElementById: () => ({ textContent: process.argv[2] }) };
const byId = () => box, announce = (text) => said.push(text), reveal = () => {};
function make(tag, parent, attributes) {
  const element = parent.appendChild(new Element(tag));
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  return element;
}
"""
ACT = """
buildText(); placeText(600);
const first = textLanes[0];
first.lane.on.focus();
first.lane.on.keydown({ key: "ArrowRight", preventDefault() {} });
first.lane.on.pointerover({ target: first.words[5] });
const places = first.boxes.map(([, each]) => [each.style.left, each.style.top, each.hidden]);
placeText(120);
const narrow = first.boxes.map(([, each]) => each.style.top);
console.log(JSON.stringify({ tags: first.words.map((word) => word.tag), said, places, narrow }));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which can run scripts, is not installed")
def test_the_track_of_text(subtitled: Inspection) -> None:
    """In a stand-in for a browser, which knows neither fonts nor style sheets."""
    data = json.dumps(page_data(subtitled, downsample_trace(subtitled.trace)))
    script = RUN + part("data.js").replace('"use strict";', "") + part("text.js") + ACT
    done = subprocess.run(["node", "-", data], input=script, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    kept = subtitled.trace.methods[1].selection.kept[subtitled.trace.tokens.indices(TEXT)]
    assert found["tags"] == ["span" if flag else "s" for flag in kept.tolist()]
    assert [text.partition(", text score")[0] for text in found["said"]] == [
        "resift: text \u201ca\u201d at 0.5 s, chunk 1",
        "resift: text \u201cred\u201d at 0.5 s, chunk 1",
        "resift: text \u201cbeep\u201d at 2.5 s, chunk 2",
    ]
    assert found["said"][2].endswith(" of 6 in its chunk, " + ("kept" if kept[5] else "dropped"))
    assert found["places"] == [["50px", "0px", False], ["250px", "0px", False], ["500px", "0px", False]]
    assert found["narrow"] == ["0px", "20px", "40px"], "without room beside each other they stand below each other"
