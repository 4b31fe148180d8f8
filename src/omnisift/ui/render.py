"""A reply as HTML for the page, and errors as a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from omnisift.errors import OmniSiftError
from omnisift.inspector.collect import HELD
from omnisift.inspector.html import render
from omnisift.inspector.trace import Asked
from omnisift.ui.session import Reply

_STAGES = {
    "read": "reading the clip",
    "process": "preparing the prompt",
    "prefill": "reading the prompt",
    "encode_video": "looking at the pictures",
    "encode_audio": "listening to the sound",
    "compress": "compressing",
    "decode": "writing the answer",
}
_HEARD = {".m4a", ".mp3", ".wav", ".flac", ".ogg", ".opus"}


def words(step: str) -> str:
    """A step of `Session.ask` in plain words."""
    way, colon, stage = step.rpartition(": ")
    return way + colon + _STAGES.get(stage, stage)


def answers(reply: Reply) -> str:
    """A card for all tokens and one for each method, what was reused, and what is not as one would expect."""
    trace = reply.inspection.trace
    cards = "".join(_card(asked) for asked in trace.methods)
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in trace.notices if note != HELD)
    return (
        f"<p class='asked'>{escape(trace.question)}</p><div class='cards'>{cards}</div>"
        f"<p class='spent' role='status'>{escape(spent(reply))}</p>{notes}"
    )


def spent(reply: Reply) -> str:
    """How long it took, and what was done without."""
    took = f"{len(reply.inspection.trace.methods)} answers in {reply.seconds:.2f} s"
    if reply.reused:
        left_out = "" if reply.spared is None else f", {reply.spared:.2f} s the first time,"
        return f"Reused the encoded clip: {took}. Reading, preparing and encoding it{left_out} were left out."
    if reply.listening:
        return f"{took}. The encoders ran anew for {' and '.join(reply.listening)}: these look at how they attend."
    return f"{took}. The clip is now encoded: another question to it takes less."


def _card(asked: Asked) -> str:
    report = asked.answer.report
    tokens, label = report.tokens, asked.label
    every, kept = tokens.video + tokens.audio, tokens.video_kept + tokens.audio_kept
    rows = [
        ("tokens", f"{kept} of {every} ({100 * tokens.retained_ratio:.1f} %)"),
        ("picture", f"{tokens.video_kept} of {tokens.video}"),
        ("sound", f"{tokens.audio_kept} of {tokens.audio}"),
        ("prompt", f"{tokens.prompt_kept} of {tokens.prompt}"),
        ("time", f"{report.seconds.total:.3f} s, prefill {report.seconds.prefill:.3f}"),
    ]
    if asked.recall is not None:
        rows.append(("evidence", f"{asked.recall.tokens} of {asked.recall.tokens_all} kept"))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    answer = escape(asked.answer.text or "(nothing)")
    return f"<section class='card'><h2>{escape(label)}</h2><p class='answer'>{answer}</p><dl>{facts}</dl></section>"


def frame(reply: Reply) -> str:
    """The report of `omnisift inspect` in a frame that may run its own script and nothing else."""
    page = escape(render(reply.inspection), quote=True)
    return (
        f"<iframe class='report' title='What was kept of the clip' sandbox='allow-scripts' srcdoc=\"{page}\"></iframe>"
    )


def error(wrong: OmniSiftError) -> str:
    """Its own message."""
    return f"<p class='error' role='alert'>{escape(str(wrong))}</p>"


def player(path: str | Path | None, title: str) -> str:
    """The clip to see and hear, from the page's own server."""
    if path is None:
        return "<p class='empty'>No clip yet.</p>"
    tag = "audio" if Path(path).suffix.lower() in _HEARD else "video"
    label = escape(f"The clip: {title}", quote=True)
    address = escape(f"gradio_api/file={quote(Path(path).as_posix())}", quote=True)
    return f"<{tag} class='player' controls preload='metadata' aria-label=\"{label}\" src=\"{address}\"></{tag}>"


def suggestions(questions: Sequence[str]) -> str:
    """Questions that a sample answers."""
    items = "".join(f"<li>{escape(question)}</li>" for question in questions)
    return f"<div class='try'>It answers, for example:<ul>{items}</ul></div>"
