"""Render an inspection as one self-contained .html file: HTML tables, and drawings by its own script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from omnisift.inspector.collect import Inspection
from omnisift.inspector.page_data import downsample_trace, page_data
from omnisift.inspector.trace import MethodTrace, Trace
from omnisift.pipeline.report import with_reason
from omnisift.utils.stages import STAGES

_TITLES = {name: stage.title for name, stage in STAGES.items()} | {"read": "read (once for all)", "total": "total"}
_GROUP = 3
"""Columns per method in the counts: video, audio, both."""


def render(inspection: Inspection) -> str:
    """The report as HTML text. It loads nothing from the network."""
    trace, shown = inspection.trace, downsample_trace(inspection.trace)
    notes = (*trace.notices, *shown.notes)
    data = json.dumps(page_data(inspection, shown), separators=(",", ":"), allow_nan=False)
    return Template(_part("page.html")).substitute(
        title=escape(f"What was kept of {trace.clip.path.replace(chr(92), '/').rpartition('/')[2]}"),
        style=_part("page.css"),
        script=_part("data.js") + _part("draw.js") + _part("page.js"),
        # "</" inside a string would end the script element.
        data=data.replace("<", "\\u003c"),
        facts=facts(trace),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        question=escape(trace.question),
        answers=answers(trace),
        evidence=evidence(trace),
        counts=counts(trace),
        seconds=seconds(trace),
    )


def _part(name: str) -> str:
    return files("omnisift.inspector").joinpath("page").joinpath(name).read_text(encoding="utf-8")


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], groups: Sequence[str] = ()) -> str:
    """A table that scrolls sideways inside its own box; all cells are escaped.

    Args:
        caption: title of the table.
        head: column titles.
        rows: cells of each row; the first one is the row's title.
        groups: titles over the last columns, each over the same number of them; ``head`` lists the columns of one
            group once.
    """
    plain = len(head) - _GROUP if groups else len(head)
    columns = "".join(_head(cell, ' rowspan="2"' if groups else "") for cell in head[:plain])
    columns += "".join(_head(group, f' colspan="{_GROUP}"', "colgroup") for group in groups)
    second = "".join(_head(cell) for cell in head[plain:]) * len(groups)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr>"
        f"{f'<tr>{second}</tr>' if second else ''}</thead><tbody>{body}</tbody></table></div>"
    )


def _head(text: str, attributes: str = "", scope: str = "col") -> str:
    return f'<th scope="{scope}"{attributes}>{escape(text)}</th>'


def facts(trace: Trace) -> str:
    """Model, duration, sampling and layout of the clip in one line."""
    clip, parts = trace.clip, [trace.model, f"{trace.clip.seconds:.1f} s"]
    if clip.has_video:
        parts.append(f"{clip.images} images at {clip.fps:.3g} per second, {clip.width} x {clip.height}")
    parts.append(f"audio {clip.audio_seconds:.1f} s" if clip.has_audio else "no audio")
    if trace.grid is not None:
        grid = trace.grid
        parts.append(f"{grid.frames} frames of {grid.rows} x {grid.columns} patches in {len(trace.chunks)} chunks")
    if not clip.has_video:
        parts.append("no video")
    return escape(" · ".join(parts))


def answers(trace: Trace) -> str:
    """What each method answered, and how many tokens it kept."""
    head = ["method", "answer", "video tokens", "audio tokens", "kept of both", "seconds"]
    head += ["evidence tokens", "evidence events"] if trace.evidence is not None else []
    return table("Answers", head, [_answer(method) for method in trace.methods])


def _answer(method: MethodTrace) -> list[str]:
    report = method.answer.report
    tokens, evidence = report.tokens, method.kept_evidence
    cells = [
        with_reason(method.label, report.compressor_reason),
        method.answer.text or "(nothing)",
        _of(tokens.video_kept, tokens.video),
        _of(tokens.audio_kept, tokens.audio),
        f"{100 * tokens.retained_ratio:.1f} %",
        f"{report.seconds.total:.3f}",
    ]
    if evidence is not None:
        cells += [_of(evidence.tokens, evidence.tokens_all), _of(evidence.events, evidence.events_all)]
    return cells


def evidence(trace: Trace) -> str:
    """The true answer and the events that prove it, where they are known."""
    if trace.evidence is None:
        return ""
    events = ", ".join(f"{event.kind} {event.name} ({len(event.tokens)} tokens)" for event in trace.evidence.events)
    text = f"True answer: {trace.evidence.answer}. Evidence: {events or 'none, because nothing can show an absence'}."
    return f'<p class="truth">{escape(text)} It is outlined in the frames and marked under the audio tokens.</p>'


def counts(trace: Trace) -> str:
    """Tokens of every chunk, and how many each method kept."""
    if not trace.chunks:
        return "<p>No chunks: without video every audio token is read.</p>"
    chosen = [(method.label, method.selection) for method in trace.methods if method.selection is not None]
    rows = []
    for number, chunk in enumerate(trace.chunks):
        row = [str(number + 1), f"{chunk.start:.4g} to {chunk.end:.4g}", str(chunk.video), str(chunk.audio)]
        for _, selection in chosen:
            video, audio = selection.video_kept[number], selection.audio_kept[number]
            row += [str(video), str(audio), _percent(video + audio, chunk.video + chunk.audio)]
        rows.append(row)
    head = ["chunk", "seconds", "video tokens", "audio tokens", "video", "audio", "both"]
    return table("Tokens kept, chunk by chunk", head, rows, [label for label, _ in chosen])


def seconds(trace: Trace) -> str:
    """Stage times of each answer."""
    times = [method.answer.to_dict()["seconds"] for method in trace.methods]
    rows = [[title, *(f"{row_times[stage]:.3f}" for row_times in times)] for stage, title in _TITLES.items()]
    return table("Seconds by stage", ["stage", *(method.label for method in trace.methods)], rows)


def _of(kept: int, total: int) -> str:
    return f"{kept} of {total}" + (f" ({_percent(kept, total)})" if total else "")


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"
