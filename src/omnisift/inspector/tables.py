"""The tables of the page, as HTML that reads well without the script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from omnisift.inspector.trace import Asked, Trace

_STAGES = {
    "read": "read (once for all)",
    "process": "prepare",
    "encode_video": "encode video",
    "encode_audio": "encode audio",
    "compress": "compress",
    "prefill": "prefill",
    "decode": "decode",
    "total": "total",
}


def table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column heads its rows; all cells are text. Wide ones scroll by themselves."""
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(trace: Trace) -> str:
    """The clip in one line."""
    clip, parts = trace.clip, [f"{trace.clip.seconds:.1f} s"]
    if clip.has_video:
        parts.append(f"{clip.images} pictures at {clip.fps:.3g} per second, {clip.width} x {clip.height}")
    parts.append(f"sound {clip.audio_seconds:.1f} s" if clip.has_audio else "no sound")
    if trace.grid is not None:
        grid = trace.grid
        parts.append(f"{grid.frames} frames of {grid.rows} x {grid.columns} patches in {len(trace.chunks)} chunks")
    return escape(f"{trace.model} · {' · '.join(parts if clip.has_video else [*parts, 'no picture'])}")


def answers(trace: Trace) -> str:
    """What each method answered, from how many tokens."""
    head = ["method", "answer", "video tokens", "sound tokens", "kept of both", "seconds"]
    head += ["evidence tokens", "evidence events"] if trace.evidence is not None else []
    return table("Answers", head, [_answer(asked) for asked in trace.methods])


def _answer(asked: Asked) -> list[str]:
    report = asked.answer.report
    tokens, recall = report.tokens, asked.recall
    cells = [
        asked.label,
        asked.answer.text or "(nothing)",
        _of(tokens.video_kept, tokens.video),
        _of(tokens.audio_kept, tokens.audio),
        f"{100 * tokens.retained_ratio:.1f} %",
        f"{report.seconds.total:.3f}",
    ]
    if recall is not None:
        cells += [_of(recall.tokens, recall.tokens_all), _of(recall.events, recall.events_all)]
    return cells


def evidence(trace: Trace) -> str:
    """What proves the answer, where that is known."""
    if trace.evidence is None:
        return ""
    known = trace.evidence
    events = ", ".join(f"{event.kind} {event.name} ({len(event.tokens)} tokens)" for event in known.events)
    said = f"True answer: {known.answer}. Evidence: {events or 'none, nothing can show an absence'}."
    return f'<p class="truth">{escape(said)} It is outlined in the pictures and marked under the sound.</p>'


def counts(trace: Trace) -> str:
    """Tokens of every chunk, and how many each method kept."""
    if not trace.chunks:
        return "<p>No chunk: without picture every sound token is read.</p>"
    chosen = [asked for asked in trace.methods if asked.selected is not None]
    head = ["chunk", "seconds", "video tokens", "sound tokens"]
    head += [f"{asked.label}: {what}" for asked in chosen for what in ("video", "sound", "kept of both")]
    rows = []
    for number, chunk in enumerate(trace.chunks):
        row = [str(number), f"{chunk.start:.4g} to {chunk.end:.4g}", str(chunk.video), str(chunk.audio)]
        for asked in chosen:
            assert asked.selected is not None
            video, audio = asked.selected.video_kept[number], asked.selected.audio_kept[number]
            row += [str(video), str(audio), _percent(video + audio, chunk.video + chunk.audio)]
        rows.append(row)
    return table("Tokens kept, chunk by chunk", head, rows)


def seconds(trace: Trace) -> str:
    """Stage times of one question each."""
    spent = [asked.answer.to_dict()["seconds"] for asked in trace.methods]
    rows = [[title, *(f"{one[stage]:.3f}" for one in spent)] for stage, title in _STAGES.items()]
    return table("Seconds by stage", ["stage", *(asked.label for asked in trace.methods)], rows)


def _of(kept: int, every: int) -> str:
    return f"{kept} of {every}" + (f" ({_percent(kept, every)})" if every else "")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
