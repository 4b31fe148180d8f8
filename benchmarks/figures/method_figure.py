"""Draw the method in one figure: how one chunk of a generated clip is compressed, with the library's own decisions.

    python benchmarks/figures/method_figure.py docs/figures/method.svg

nano is asked about a generated clip, and `omnisift.inspector` records what is kept. The figure is plain SVG for light
and dark screens, identical on every run.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omnisift.budget import Budget
from omnisift.inspector import Inspection, inspect_clip
from omnisift.inspector.images import frame_image, waveform_envelope
from omnisift.media import SAMPLE_RATE
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.method import compressor_for
from omnisift.tokens import Modality
from omnisift.utils.atomic_io import write_atomic
from omnisift.world import make_scene, questions, write_clip

SEED, CHUNK = 3, 1
WIDTH, HEIGHT, SIDE = 1000, 420, 116
_STYLE = """
.back { fill: #fcfcfa; } .ink { fill: #1c2126; } .soft { fill: #58616b; } .line { stroke: #58616b; fill: none; }
.box { fill: #ffffff; stroke: #b9c0c7; } .video { fill: #0b66c3; } .audio { fill: #c2410c; } .text { fill: #8a939c; }
.dropped { fill: #d4d8dc; } .veil { fill: #fcfcfa; opacity: .82; }
.kept { fill: none; stroke: #0b66c3; stroke-width: 2; } text { font: 14px system-ui, sans-serif; }
.head { font-weight: 700; font-size: 15px; } .big { font-size: 19px; font-weight: 700; }
@media (prefers-color-scheme: dark) {
  .back { fill: #14171a; } .ink { fill: #e7eaed; } .soft { fill: #a3acb5; } .line { stroke: #a3acb5; }
  .box { fill: #1c2024; stroke: #56606a; } .video { fill: #6cb6ff; } .audio { fill: #ffa35c; } .text { fill: #7c8791; }
  .dropped { fill: #39414a; } .veil { fill: #14171a; } .kept { stroke: #6cb6ff; }
}
"""


def main(path: Path) -> None:
    """Write the figure to ``path``."""
    write_atomic(path, drawing(inspected()))


def inspected() -> Inspection:
    """The clip of the figure, at a quarter of its tokens."""
    scene = make_scene(SEED, split="test")
    question = questions(scene, np.random.default_rng(SEED), types=["sound_with"])[0].text
    host = load_host("nano", "cpu", None, None)
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(scene, clip)
        return inspect_clip(host, {"omnisift": compressor_for(host, "omnisift", Budget(retain=0.25))}, clip, question)


def drawing(inspection: Inspection) -> str:
    """The figure as SVG text."""
    parts = [*_clip(inspection), *_stvp(inspection), *_vgas(inspection), *_model(inspection), *_arrows()]
    chunk, selection = inspection.trace.chunks[CHUNK], inspection.trace.methods[1].selection
    assert selection is not None
    video, audio = selection.video_kept[CHUNK], selection.audio_kept[CHUNK]
    description = (
        f"A chunk of two frames with {chunk.video} video and {chunk.audio} audio tokens. STVP keeps {video} patches "
        f"that differ from the mean of their frame or from the previous frame. VGAS scores the audio tokens, guided by "
        f"those patches, and keeps {audio}. The language model reads these {video + audio} tokens."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">\n'
        f'<title id="t">How OmniSIFT works</title>\n<desc id="d">{escape(description)}</desc>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _clip(inspection: Inspection) -> Iterator[str]:
    chunk = inspection.trace.chunks[CHUNK]
    yield _text(20, 34, "A chunk of the clip", "ink head")
    yield _text(20, 54, "two frames and their audio", "soft")
    for position, frame in enumerate(chunk.frames):
        yield _image(inspection, frame, 20 + position * (SIDE + 10), 70)
    yield from _wave(inspection, 20, 268, 2 * SIDE + 10, 56)
    yield _text(20, 348, f"{chunk.video} video tokens", "soft")
    yield _text(20, 368, f"{chunk.audio} audio tokens", "soft")


def _stvp(inspection: Inspection) -> Iterator[str]:
    trace, left = inspection.trace, 350
    selection = trace.methods[1].selection
    assert selection is not None
    assert trace.grid is not None
    yield _text(left, 34, "1. STVP selects video", "ink head")
    yield _text(left, 54, "kept patches are the visual anchors", "soft")
    cell = SIDE / trace.grid.rows
    for position, frame in enumerate(trace.chunks[CHUNK].frames):
        x = left + position * (SIDE + 10)
        yield _image(inspection, frame, x, 70)
        for token in _of_chunk(inspection, Modality.VIDEO).tolist():
            if trace.tokens.frame[token] != frame:
                continue
            corner = x + cell * int(trace.tokens.column[token]), 70 + cell * int(trace.tokens.row[token])
            kind = "kept" if selection.kept[token] else "veil"
            inset = 1 if selection.kept[token] else 0
            yield _rect(kind, corner[0] + inset, corner[1] + inset, cell - 2 * inset, cell - 2 * inset)
    for position, lines in enumerate((("unlike the mean", "of their frame"), ("unlike the", "previous frame"))):
        for row, words in enumerate(lines):
            yield _text(left + position * (SIDE + 10), 204 + 17 * row, words, "soft")


def _vgas(inspection: Inspection) -> Iterator[str]:
    trace, left, width = inspection.trace, 350, 2 * SIDE + 10
    selection = trace.methods[1].selection
    assert selection is not None
    yield _text(left, 262, "2. VGAS selects audio", "ink head")
    tokens = _of_chunk(inspection, Modality.AUDIO)
    step = width / len(tokens)
    for position, token in enumerate(tokens.tolist()):
        height = 4 + 48 * float(selection.score[token])
        kind = "audio" if selection.kept[token] else "dropped"
        yield _rect(kind, left + position * step, 326 - height, step - 1, height)
    yield _text(left, 348, "each audio token attends to the anchors;", "soft")
    yield _text(left, 368, "the highest scores stay", "soft")


def _model(inspection: Inspection) -> Iterator[str]:
    trace, left = inspection.trace, 690
    selection = trace.methods[1].selection
    assert selection is not None
    chunk = trace.chunks[CHUNK]
    kept = np.flatnonzero((trace.tokens.chunk == CHUNK) & selection.kept)
    yield _text(left, 34, "3. What the language model reads", "ink head")
    yield _text(left, 54, f"{len(kept)} of {chunk.video + chunk.audio} tokens, positions unchanged", "soft")
    kinds = ["video" if trace.tokens.modality[token] == Modality.VIDEO else "audio" for token in kept.tolist()]
    for position, kind in enumerate([*kinds, *["text"] * 5]):
        yield _rect(kind, left + 22 * (position % 13), 74 + 24 * (position // 13), 17, 17, 3)
    for position, kind in enumerate(("video", "audio", "text")):
        yield _rect(kind, left + 90 * position, 132, 12, 12, 2)
        yield _text(left + 90 * position + 18, 143, "question" if kind == "text" else kind, "soft")
    yield _rect("box", left, 190, 285, 64, 10)
    yield _text(left + 142, 218, "language model", "ink head", "middle")
    yield _text(left + 142, 239, "unchanged", "soft", "middle")
    yield _text(left, 322, trace.question, "soft")
    yield _text(left, 348, trace.methods[1].answer.text, "ink big")
    full, cut = (method.answer.report.tokens for method in trace.methods[:2])
    yield _text(left, 374, f"from {cut.prompt_kept} of {full.prompt} prompt tokens", "soft")


def _arrows() -> Iterator[str]:
    yield '<defs><marker id="a" markerWidth="9" markerHeight="9" refX="7" refY="4" orient="auto">'
    yield '<path class="soft" d="M0 0 8 4 0 8z"/></marker></defs>'
    for path in (
        "M272 128H338",
        "M272 296H338",
        "M470 226V244",
        "M602 128H678",
        "M602 296H640V150H678",
        "M832 152V182",
    ):
        yield f'<path class="line" stroke-width="1.6" marker-end="url(#a)" d="{path}"/>'
    yield '<path class="line" stroke-width="1.6" marker-end="url(#a)" d="M832 260V300"/>'


def _of_chunk(inspection: Inspection, modality: Modality) -> NDArray[np.int64]:
    tokens = inspection.trace.tokens
    return np.flatnonzero((tokens.modality == modality) & (tokens.chunk == CHUNK))


def _wave(inspection: Inspection, left: float, top: float, width: float, height: float) -> Iterator[str]:
    chunk, wave = inspection.trace.chunks[CHUNK], inspection.media.waveform
    assert wave is not None
    low, high = waveform_envelope(wave[round(chunk.start * SAMPLE_RATE) : round(chunk.end * SAMPLE_RATE)], 121)
    step = width / len(low)
    for position, (bottom, peak) in enumerate(zip(low, high, strict=True)):
        size = max(1.0, height * (peak - bottom) / 200)
        yield _rect("soft", left + position * step, top + height / 2 - height * peak / 200, step * 0.7, size)


def _image(inspection: Inspection, frame: int, x: float, y: float) -> str:
    file = io.BytesIO()
    Image.fromarray(frame_image(inspection.media, frame)).save(file, format="PNG", optimize=True)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<image x="{x:g}" y="{y:g}" width="{SIDE}" height="{SIDE}" href="data:image/png;base64,{data}"/>'


def _rect(kind: str, x: float, y: float, width: float, height: float, round_by: float = 0) -> str:
    rounded = f' rx="{round_by:g}"' if round_by else ""
    return f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"{rounded}/>'


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


if __name__ == "__main__":
    main(Path(sys.argv[1]))
