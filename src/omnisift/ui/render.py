"""Render answers, errors and the chosen clip as HTML; everything from outside is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

from omnisift.errors import OmniSiftError
from omnisift.inspector.collect import ENCODED_ONCE
from omnisift.inspector.html import render
from omnisift.inspector.trace import MethodTrace
from omnisift.media.suffixes import AUDIO_SUFFIXES
from omnisift.ui.session import SessionAnswer
from omnisift.utils.stages import STAGES


def step_text(step: str) -> str:
    """A step of `Session.ask` in plain words."""
    label, colon, stage = step.rpartition(": ")
    return label + colon + (STAGES[stage].running if stage in STAGES else stage)


def answers(answer: SessionAnswer) -> str:
    """The true answer if it is known, a card per method, what the times include, and notices."""
    trace = answer.inspection.trace
    cards = "".join(_card(method) for method in trace.methods)
    # `timing` says the same in more detail.
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in trace.notices if note != ENCODED_ONCE)
    truth = "" if trace.evidence is None else f"<p class='truth'>True answer: {escape(trace.evidence.answer)}</p>"
    return (
        f"<p class='question'>{escape(trace.question)}</p>{truth}<div class='cards'>{cards}</div>"
        f"<p class='timing' role='status'>{escape(timing(answer))}</p>{notes}"
    )


def timing(answer: SessionAnswer) -> str:
    """What the times of the cards include, and what the encoders took."""
    seconds = "" if answer.encoding_seconds is None else f" took {answer.encoding_seconds:.2f} s"
    text = "Times are compression, prefill and decoding, without encoders. "
    if answer.inspection.trace.model == "nano":
        text += "nano is so small that compressing its prompt can cost more than it saves. "
    if any(method.answer.report.cached_tokens for method in answer.inspection.trace.methods):
        text += "Held tokens were read for an earlier question and are not read again. "
    if answer.reused:
        return f"{text}The encoded clip was reused" + (f": encoding it{seconds} the first time." if seconds else ".")
    if not answer.reencoded:
        return f"{text}Reading and encoding the clip{seconds}, once; further questions about it reuse that."
    again = {
        method.name: f"{method.name} ({method.answer.report.seconds.encode:.2f} s)"
        for method in answer.inspection.trace.methods
    }
    methods = " and ".join(again[name] for name in answer.reencoded)
    return f"{text}The encoders ran again for {methods}, which needs their attention."


def _card(method: MethodTrace) -> str:
    report = method.answer.report
    tokens, seconds = report.tokens, report.seconds
    model_seconds = seconds.compress + seconds.prefill + seconds.decode
    rows = [
        ("kept", f"{tokens.in_clips_kept} of {tokens.in_clips} ({100 * tokens.retained_ratio:.1f} %)"),
        *((name, f"{kept} of {total}") for name, total, kept in tokens.by_kind),
        ("prompt", f"{tokens.prompt_kept} of {tokens.prompt}"),
        ("time", f"{model_seconds:.3f} s"),
        ("prefill", f"{seconds.prefill:.3f} s"),
    ]
    if report.cached_tokens:
        rows.append(("held", f"{report.cached_tokens} of {tokens.prompt_kept} tokens"))
    if method.kept_evidence is not None:
        rows.append(("evidence", f"{method.kept_evidence.tokens} of {method.kept_evidence.tokens_all} tokens"))
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in rows)
    text = escape(method.answer.text or "(nothing)")
    return (
        f"<section class='card'><h2>{escape(method.label)}</h2><p class='answer'>{text}</p><dl>{facts}</dl></section>"
    )


def frame(answer: SessionAnswer) -> str:
    """The report of `omnisift inspect` in a sandboxed frame, which may run its own script only."""
    page = escape(render(answer.inspection), quote=True)
    return (
        f"<iframe class='report' title='What was kept of the clip' sandbox='allow-scripts' srcdoc=\"{page}\"></iframe>"
    )


def error(error: OmniSiftError) -> str:
    """The message of an error."""
    return f"<p class='error' role='alert'>{escape(str(error))}</p>"


def player(path: str | Path | None, title: str) -> str:
    """A player for the clip, served by the page's own server."""
    if path is None:
        return "<p class='empty'>No clip yet.</p>"
    tag = "audio" if Path(path).suffix.lower() in AUDIO_SUFFIXES else "video"
    label = escape(f"The clip: {title}", quote=True)
    address = escape(f"gradio_api/file={quote(Path(path).as_posix())}", quote=True)
    return f"<{tag} class='player' controls preload='metadata' aria-label=\"{label}\" src=\"{address}\"></{tag}>"


def live_tab(models: Sequence[str], characters: int) -> str:
    """The Live tab.

    Args:
        models: names of the page's models; the first one is selected.
        characters: maximum length of a question.
    """
    template = files("omnisift.ui").joinpath("live.html").read_text(encoding="utf-8")
    options = "".join(f'<option value="{escape(name, quote=True)}">{escape(name)}</option>' for name in models)
    return template.replace("{characters}", str(characters)).replace("{models}", options)
