"""The Gradio page of `omnisift ui`: inputs go to a `Session`, and its results are rendered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import gradio as gr

from omnisift.errors import OmniSiftError
from omnisift.ui import render as show
from omnisift.ui.samples import Sample
from omnisift.ui.session import ENDINGS, MOST_CHARACTERS, Session

_NONE = "no second method"
_SENTENCE = (
    "Ask about a clip: the model answers with all of its video and audio tokens, and again with the few that a method "
    "keeps. Below the answers you see which."
)
_EMPTY = "<p class='empty'>Answers appear here.</p>"


def build(desks: Mapping[str, Session], samples: list[Sample]) -> Any:
    """The page, to be launched by `serving`; ``desks`` by the name of their model, the first one chosen."""
    by_title = {sample.title: sample for sample in samples}
    with gr.Blocks(analytics_enabled=False, title="OmniSIFT", delete_cache=(3600, 86400)) as page:
        gr.HTML(f"<h1>OmniSIFT</h1><p>{_SENTENCE}</p>", elem_id="intro")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = gr.File(label="Drop a clip", file_types=list(ENDINGS), height=130, elem_id="file")
                sample = gr.Radio(list(by_title), label="or choose a sample", elem_id="sample")
                seen = gr.HTML(show.player(None, ""), elem_id="seen")
            with gr.Column(scale=2, min_width=300):
                parts = _asking(desks)
                status = gr.HTML("", elem_id="status")
                answers = gr.HTML(_EMPTY, elem_id="answers")
        report = gr.HTML("", elem_id="report")
        ask = _asker(desks, by_title)
        shown = [status, answers, report]
        quiet: dict[str, Any] = {"api_visibility": "private"}
        for start in (parts["button"].click, parts["question"].submit):
            start(
                ask,
                [file, sample, *(parts[name] for name in ("question", "model", "method", "second", "percent"))],
                shown,
                concurrency_id="model",
                concurrency_limit=1,
                show_progress_on=[answers],
                **quiet,
            )
        parts["model"].input(
            lambda name: [gr.update(choices=choices, value=value) for choices, value in _choices(desks[name])],
            [parts["model"]],
            [parts["method"], parts["second"]],
            show_progress="hidden",
            **quiet,
        )
        file.change(_uploaded, [file, sample], [sample, seen], show_progress="hidden", **quiet)
        sample.input(_chooser(by_title), [sample], [file, seen, parts["question"]], show_progress="hidden", **quiet)
    return page


def _choices(desk: Session) -> list[tuple[list[str], str]]:
    """(choices, the chosen one) of the method and of the one beside it: what the model can run."""
    methods = list(desk.methods)
    second = "random" if "random" in methods[1:] else _NONE
    return [(methods, methods[0]), ([_NONE, *methods], second)]


def _asking(desks: Mapping[str, Session]) -> dict[str, Any]:
    """Model, methods, retention and the question."""
    names = list(desks)
    first, second = _choices(desks[names[0]])
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
    with gr.Row():
        method = gr.Dropdown(first[0], value=first[1], label="Method", elem_id="method")
        other = gr.Dropdown(second[0], value=second[1], label="Compare with", elem_id="second")
    percent = gr.Slider(1, 100, value=25, step=1, label="Keep, % of the video and audio tokens", elem_id="percent")
    question = gr.Textbox(
        label="Question",
        lines=1,
        max_length=MOST_CHARACTERS,
        elem_id="question",
        placeholder="What do you want to know?",
    )
    button = gr.Button("Ask", variant="primary", elem_id="ask")
    chosen = {"model": model, "method": method, "second": other}
    return {**chosen, "percent": percent, "question": question, "button": button}


def _asker(desks: Mapping[str, Session], by_title: dict[str, Sample]) -> Callable[..., tuple[str, str, str]]:
    def ask(
        file: str | None,
        sample: str | None,
        question: str,
        model: str,
        method: str,
        second: str,
        percent: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (how Gradio asks for one)
    ) -> tuple[str, str, str]:
        names = [name for name in (method, second) if name != _NONE]
        path = file if file is not None else by_title[sample].path if sample in by_title else None
        try:
            reply = desks[model].ask(
                path, question, names, percent, lambda done, step: progress(done, desc=show.words(step))
            )
        except OmniSiftError as wrong:
            return show.error(wrong), _EMPTY, ""
        return "", show.answers(reply), show.frame(reply)

    return ask


def _uploaded(file: str | None, sample: str | None) -> tuple[str | None, Any]:
    """An upload takes the place of a sample."""
    if file is None:
        return sample, gr.skip() if sample is not None else show.player(None, "")
    return None, show.player(file, "your upload")


def _chooser(by_title: dict[str, Sample]) -> Callable[[str | None], tuple[None, str, str]]:
    def choose(title: str | None) -> tuple[None, str, str]:
        chosen = by_title[title or ""]
        return None, show.player(chosen.path, chosen.title) + show.suggestions(chosen.questions), chosen.questions[0]

    return choose


def theme() -> Any:
    """Fonts of the system, and a button dark enough to be read."""
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return plain.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def style() -> str:
    """The page's own style sheet."""
    return files("omnisift.ui").joinpath("page.css").read_text(encoding="utf-8")
