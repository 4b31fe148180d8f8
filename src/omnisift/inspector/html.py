"""Render an inspection as one self-contained .html file: HTML tables, and drawings by its own script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.resources import files
from string import Template

from omnisift.inspector.collect import Inspection
from omnisift.inspector.lines import runs
from omnisift.inspector.page_data import downsample_trace, page_data
from omnisift.inspector.trace import MethodTrace, Trace, TraceLine
from omnisift.pipeline.report import with_reason
from omnisift.utils.stages import STAGES

_TITLES = {name: stage.title for name, stage in STAGES.items()} | {"read": "read (once for all)", "total": "total"}


def render(inspection: Inspection) -> str:
    """The report as HTML text. It loads nothing from the network."""
    trace, shown = inspection.trace, downsample_trace(inspection.trace)
    notes = (*trace.notices, *shown.notes)
    data = json.dumps(page_data(inspection, shown), separators=(",", ":"), allow_nan=False)
    return Template(_part("page.html")).substitute(
        title=escape(f"What was kept of {trace.clip.path.replace(chr(92), '/').rpartition('/')[2]}"),
        style=_part("page.css"),
        script=_part("data.js") + _part("draw.js") + _part("text.js") + _part("page.js"),
        # "</" inside a string would end the script element.
        data=data.replace("<", "\\u003c"),
        facts=facts(trace),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        question=escape(trace.question),
        answers=answers(trace),
        evidence=evidence(trace),
        lines=lines(trace, trace.lines[: shown.lines]),
        counts=counts(trace),
        seconds=seconds(trace),
    )


def _part(name: str) -> str:
    return files("omnisift.inspector").joinpath("page").joinpath(name).read_text(encoding="utf-8")


class Markup(str):
    """A cell that is HTML already."""


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[str]], groups: Sequence[str] = (), width: int = 0
) -> str:
    """A table that scrolls sideways inside its own box; all cells but `Markup` are escaped.

    Args:
        caption: title of the table.
        head: column titles.
        rows: cells of each row; the first one is the row's title.
        groups: titles over the last columns, each over ``width`` of them; ``head`` lists the columns of one group once.
        width: columns of a group.
    """
    plain = len(head) - width if groups else len(head)
    columns = "".join(_head(cell, ' rowspan="2"' if groups else "") for cell in head[:plain])
    columns += "".join(_head(group, f' colspan="{width}"', "colgroup") for group in groups)
    second = "".join(_head(cell, _edge(number, width)) for number, cell in enumerate(head[plain:])) * len(groups)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(_cells(rest, plain - 1, width))}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr>"
        f"{f'<tr>{second}</tr>' if second else ''}</thead><tbody>{body}</tbody></table></div>"
    )


def _cells(cells: Sequence[str], plain: int, width: int) -> Iterator[str]:
    for number, cell in enumerate(cells, -plain):
        yield f"<td{_edge(number, width)}>{cell if isinstance(cell, Markup) else escape(cell)}</td>"


def _edge(number: int, width: int) -> str:
    """The class of the first column of a group."""
    return ' class="edge"' if width and number >= 0 and number % width == 0 else ""


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
    head = ["method", "answer", "video tokens", "audio tokens"]
    head += ["text tokens", "kept of all"] if _has_text(trace) else ["kept of both"]
    head += ["seconds", *(["evidence tokens", "evidence events"] if trace.evidence is not None else [])]
    return table("Answers", head, [_answer(method) for method in trace.methods])


def _answer(method: MethodTrace) -> list[str]:
    report = method.answer.report
    tokens, evidence = report.tokens, method.kept_evidence
    cells = [
        with_reason(method.label, report.compressor_reason),
        method.answer.text or "(nothing)",
        *(_of(kept, total) for _, total, kept in tokens.by_kind),
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


def lines(trace: Trace, shown: Sequence[TraceLine]) -> str:
    """What each method keeps of the lines of text, dropped tokens struck out; empty without lines."""
    if not shown:
        return ""
    chosen = trace.methods[1:]
    rows = [
        [f"{line.start:.4g} to {line.end:.4g}", *(Markup(_struck(line, method)) for method in chosen)] for line in shown
    ]
    return table("Lines of text, dropped tokens struck out", ["seconds", *(method.label for method in chosen)], rows)


def _struck(line: TraceLine, method: MethodTrace) -> str:
    kept = None if method.selection is None else method.selection.kept
    return "".join(escape(text) if flag else f"<s>{escape(text)}</s>" for flag, text in runs(line, kept)).strip()


def _has_text(trace: Trace) -> bool:
    """Whether tokens of lines are counted; of a sound alone they are not."""
    return any(len(line.tokens) for line in trace.lines)


def counts(trace: Trace) -> str:
    """Tokens of every chunk, and how many each method kept."""
    if not trace.chunks:
        return "<p>No chunks: without video every audio token is read.</p>"
    chosen = [(method.label, method.selection) for method in trace.methods if method.selection is not None]
    kinds = ["video", "audio", *(["text"] if _has_text(trace) else [])]
    rows = []
    for number, chunk in enumerate(trace.chunks):
        totals = [getattr(chunk, kind) for kind in kinds]
        row = [str(number + 1), f"{chunk.start:.4g} to {chunk.end:.4g}", *map(str, totals)]
        for _, selection in chosen:
            kept = [getattr(selection, f"{kind}_kept")[number] for kind in kinds]
            row += [*map(str, kept), _percent(sum(kept), sum(totals))]
        rows.append(row)
    head = ["chunk", "seconds", *(f"{kind} tokens" for kind in kinds), *kinds, "both" if len(kinds) == 2 else "all"]
    return table("Tokens kept, chunk by chunk", head, rows, [label for label, _ in chosen], len(kinds) + 1)


def seconds(trace: Trace) -> str:
    """Stage times of each answer."""
    times = [method.answer.to_dict()["seconds"] for method in trace.methods]
    rows = [[title, *(f"{row_times[stage]:.3f}" for row_times in times)] for stage, title in _TITLES.items()]
    return table("Seconds by stage", ["stage", *(method.label for method in trace.methods)], rows)


def _of(kept: int, total: int) -> str:
    return f"{kept} of {total}" + (f" ({_percent(kept, total)})" if total else "")


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "-"
