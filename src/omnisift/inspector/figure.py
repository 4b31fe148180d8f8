"""Draw an inspection as a still figure, .png or .svg. Needs the ``eval`` extra (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from omnisift.evaluation.plots import plot_style
from omnisift.inspector.collect import Inspection
from omnisift.inspector.images import frame_image, spectrogram_image
from omnisift.inspector.lines import runs
from omnisift.inspector.page_data import cell_tokens
from omnisift.inspector.trace import MethodTrace, Trace, TraceLine
from omnisift.media import SAMPLE_RATE
from omnisift.tokens import Modality

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_FRAMES = 12
"""Frames shown per method."""
MAX_BARS = 2000
"""Audio tokens shown per method."""
_KEPT, _DROPPED, _TRUTH = "#0b66c3", "#c3c9cf", "#c2410c"
_UNREAD = "#8b949c"
"""Dropped text, which must still be legible."""
MAX_TEXT_ROWS = 4
"""Rows of lines of text per method; lines without room in them are left out."""
_TEXT_SIZE = 6.0
"""Points. A character of the font is 0.602 of it wide."""
_PLAIN: Any = {"aspect": "auto", "interpolation": "none"}
_WIDTH = 7.5
"""Inches: two columns of a page."""


def draw(inspection: Inspection, path: Path) -> None:
    """Write the figure to ``path``, as .svg or .png by its suffix.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    titles: Any = {"axes.titlesize": 8, "axes.titlelocation": "left", "axes.titlepad": 2.0}
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with plot_style(font_size=8), mpl.rc_context(titles):
        compose(inspection).savefig(path, dpi=200, metadata=metadata)


def compose(inspection: Inspection) -> Figure:
    """Frames, waveform, spectrogram and audio tokens over one time axis, with question and answers above."""
    from matplotlib.figure import Figure

    trace = inspection.trace
    chosen = [method for method in trace.methods if method.name != "none"]
    heights = _heights(inspection, len(chosen))
    head = 0.2 + 0.15 * (1 + len(trace.methods))
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.2 * len(heights) + head + 0.45), layout="constrained")
    figure.suptitle(_heading(trace), x=0.01, ha="left", fontsize=8)
    rows = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    axes = iter(rows)
    if trace.grid is not None:
        for method in chosen:
            _strip(next(axes), inspection, method)
    if inspection.mel is not None:
        _wave(next(axes), inspection, chosen[0])
        _mel(next(axes), inspection)
        for method in chosen:
            _tokens(next(axes), trace, method)
    if trace.lines:
        for method in chosen:
            _text(next(axes), trace, method)
    for each in rows:
        each.set_yticks([])
        each.spines[["top", "right", "left"]].set_visible(False)
        for chunk in trace.chunks[1:] if len(trace.chunks) <= 100 else ():
            each.axvline(chunk.start, color="0.5", linewidth=0.5, linestyle=":")
    rows[-1].set_xlim(0, _seconds(trace))
    rows[-1].set_xlabel("seconds (dotted lines: chunk borders)" if trace.chunks else "seconds")
    return figure


def _heights(inspection: Inspection, methods: int) -> list[float]:
    """Height of each row in inches."""
    trace, heights = inspection.trace, []
    if trace.grid is not None:
        wide = _WIDTH * (_end(trace, 0) - _start(trace, 0)) / _seconds(trace)
        heights += [min(1.2, max(0.35, wide * trace.clip.height / trace.clip.width))] * methods
    if inspection.mel is not None:
        heights += [0.4, 0.6, *[0.3] * methods]
    if trace.lines:
        heights += [0.09 * max(2, 1 + max(row for _, row, _ in _placed(trace)))] * methods
    return heights


def _heading(trace: Trace) -> str:
    """The question and the answers, each on one line."""
    answers = [
        f"{method.label} ({100 * method.answer.report.retained_ratio:.0f} %): {method.answer.text}"
        for method in trace.methods
    ]
    lines = [trace.question, *answers]
    # matplotlib reads text between dollar signs as a formula.
    return "\n".join(
        (line if len(line) <= 110 else line[:109] + "…").replace("\n", " ").replace("$", r"\$") for line in lines
    )


def _shown(trace: Trace) -> list[int]:
    """Evenly spaced frame indices."""
    count = 0 if trace.grid is None else trace.grid.frames
    return list(range(0, count, max(1, -(-count // MAX_FRAMES))))


def _seconds(trace: Trace) -> float:
    return max([trace.clip.seconds, *(chunk.end for chunk in trace.chunks)])


def _start(trace: Trace, position: int) -> float:
    assert trace.grid is not None
    return _shown(trace)[position] * trace.grid.seconds


def _end(trace: Trace, position: int) -> float:
    return _start(trace, position + 1) if position + 1 < len(_shown(trace)) else _seconds(trace)


def _strip(axes: Any, inspection: Inspection, method: MethodTrace) -> None:
    """Frames at their times, with dropped patches pale and evidence outlined."""
    trace, shown = inspection.trace, _shown(inspection.trace)
    assert trace.grid is not None
    rows, columns = trace.grid.rows, trace.grid.columns
    axes.set_title(
        f"{method.label}: frames, dropped patches pale" + ("" if len(shown) == trace.grid.frames else " (some of them)")
    )
    for position, frame in enumerate(shown):
        image = frame_image(inspection.media, frame, inspection.images_per_frame)
        cells = cell_tokens(trace, (frame,))
        begin = _start(trace, position)
        width = 0.97 * (_end(trace, position) - begin)
        axes.imshow(
            _dimmed(image, method, cells.reshape(rows, columns)),
            extent=(begin, begin + width, 1, 0),
            aspect="auto",
            interpolation="none",
        )
        for event in trace.evidence.events if trace.evidence is not None else ():
            for cell in np.flatnonzero(np.isin(cells, event.tokens)).tolist():
                corner = begin + width * (cell % columns) / columns, (cell // columns) / rows
                axes.add_patch(_box(corner, width / columns, 1 / rows))
    axes.set_ylim(1, 0)


def _box(corner: tuple[float, float], width: float, height: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, width, height, fill=False, edgecolor=_TRUTH, linewidth=0.9)


def _dimmed(image: NDArray[np.uint8], method: MethodTrace, cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    """``image`` [H, W, 3] with the patches of dropped tokens blended three quarters with white."""
    if method.selection is None:
        return image
    height, width = image.shape[0] // cells.shape[0], image.shape[1] // cells.shape[1]
    kept = method.selection.kept[cells].repeat(height, axis=0).repeat(width, axis=1)
    return np.where(kept[:, :, None], image, 255 - (255 - image.astype(np.int16)) // 4).astype(np.uint8)


def _wave(axes: Any, inspection: Inspection, method: MethodTrace) -> None:
    """The waveform, with the parts that the method kept in colour."""
    waveform, trace = inspection.media.waveform, inspection.trace
    assert waveform is not None
    edges = np.linspace(0, len(waveform), min(1500, len(waveform)) + 1).astype(np.int64)[:-1]
    low, high = np.minimum.reduceat(waveform, edges), np.maximum.reduceat(waveform, edges)
    audio = trace.tokens.indices(int(Modality.AUDIO))
    token = np.clip(np.searchsorted(trace.tokens.time[audio], edges / SAMPLE_RATE, side="right") - 1, 0, None)
    kept = np.ones(len(edges), bool) if method.selection is None else method.selection.kept[audio][token]
    for mask, color in ((~kept, _DROPPED), (kept, _KEPT)):
        axes.vlines(edges[mask] / SAMPLE_RATE, low[mask], high[mask], color=color, linewidth=0.7)
    axes.set_title(f"waveform, kept by {method.label} in colour")


def _mel(axes: Any, inspection: Inspection) -> None:
    assert inspection.mel is not None
    image = spectrogram_image(inspection.mel, columns=1500)
    axes.imshow(image, cmap="gray_r", extent=(0, inspection.media.audio_seconds, 1, 0), **_PLAIN)
    axes.set_title("mel spectrogram")


def _placed(trace: Trace) -> list[tuple[TraceLine, int, float]]:
    """The lines that have room, each with its row and where it begins on the axis, in seconds."""
    unit = 0.602 * _TEXT_SIZE / 72 / _WIDTH * _seconds(trace) * 1.05
    ends: list[float] = []
    placed = []
    for line in trace.lines:
        wide = unit * (2 + sum(len(text) for _, text in runs(line, None)))
        begin = max(0.0, min(line.start, _seconds(trace) - wide))
        row = next((number for number, end in enumerate(ends) if end <= begin), len(ends))
        if row == len(ends) and row < MAX_TEXT_ROWS:
            ends.append(0.0)
        if row < len(ends):
            ends[row] = begin + wide
            placed.append((line, row, begin))
    return placed


def _text(axes: Any, trace: Trace, method: MethodTrace) -> None:
    """Lines at their times: kept tokens in colour, dropped ones pale, over each other in a font of equal widths."""
    placed = _placed(trace)
    kept = None if method.selection is None else method.selection.kept
    font = {"family": "monospace", "fontsize": _TEXT_SIZE, "va": "center", "clip_on": True}
    for line, row, begin in placed:
        parts = runs(line, kept)
        for shown, color in ((True, _KEPT), (False, _UNREAD)):
            text = "".join(part if flag is shown else " " * len(part) for flag, part in parts)
            axes.text(begin, row + 0.5, text.replace("$", r"\$"), color=color, **font)
    axes.set_ylim(1 + max(row for _, row, _ in placed), 0)
    some = "" if len(placed) == len(trace.lines) else " (some of them)"
    axes.set_title(f"{method.label}: lines of text, kept tokens in colour{some}")


def _tokens(axes: Any, trace: Trace, method: MethodTrace) -> None:
    """One bar per audio token, its height the score; evidence marked below."""
    audio = trace.tokens.indices(int(Modality.AUDIO))
    step = max(1, -(-len(audio) // MAX_BARS))
    audio, wide = audio[::step], trace.tokens.audio_seconds * step
    time = trace.tokens.time[audio]
    selection = method.selection
    score = np.full(len(audio), np.nan) if selection is None else selection.score[audio]
    kept = np.ones(len(audio), bool) if selection is None else selection.kept[audio]
    low, high = (np.nanmin(score), np.nanmax(score)) if np.isfinite(score).any() else (0.0, 1.0)
    height = np.nan_to_num(0.08 + 0.92 * (score - low) / max(high - low, 1e-9), nan=0.5)
    axes.bar(time, height, width=wide, align="edge", color=np.where(kept, _KEPT, _DROPPED).tolist())
    for event in trace.evidence.events if trace.evidence is not None else ():
        if event.kind == "sound":
            axes.bar(trace.tokens.time[event.tokens], -0.15, width=wide, align="edge", color=_TRUTH)
    notes = [*([", by score"] if np.isfinite(score).any() else []), *([f" (one in {step})"] if step > 1 else [])]
    axes.set_title(f"{method.label}: audio tokens, kept ones in colour{''.join(notes)}")
