"""The Gradio page of `omnisift ui`: sends its inputs to a `Session` and shows the rendered answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import gradio as gr

from omnisift.errors import OmniSiftError
from omnisift.pipeline.report import with_reason
from omnisift.ui import render
from omnisift.ui.samples import SampleClip
from omnisift.ui.session import MAX_CHARACTERS, Session
from omnisift.ui.uploads import SUBTITLE_SUFFIXES, UPLOAD_SUFFIXES

_NONE = "no second method"
_INTRO = (
    "Ask about a clip. The model answers once with all video and audio tokens, and once with the share that each "
    "method keeps. The report below the answers shows which tokens those are."
)
_SHARE_INFO = (
    "At least one patch per frame and one audio token per chunk stay, so the smallest share depends on the clip "
    "(3.7 % in the samples). Tokens of subtitles count, too. The answers show the share that was kept."
)
_TEXT_INFO = "The lines of the clip's own text track become part of the prompt, and are compressed with it."
_EMPTY = "<p class='empty'>Answers appear here.</p>"
_EXAMPLES = 3
_FAILED = "The page's server can't use what was sent. Reload the page and drop the clip again."
_log = logging.getLogger(__name__)
SCRIPT = """<script>
const watched = new WeakSet();
addEventListener("message", (event) => {
  const report = document.querySelector("iframe.report"), height = Number(event.data?.reportHeight);
  if (!report || event.source !== report.contentWindow || !(height > 0)) return;
  report.style.height = Math.min(height + 2, 20000) + "px";
  if (watched.has(report)) return;
  watched.add(report);
  new ResizeObserver(() => report.contentWindow?.postMessage("height", "*")).observe(report);
});
</script>
<script src="live/live.js" defer></script>"""
"""For the document head: the report's frame gets the height that the report sends, so that only the page scrolls; and
the script of the Live tab."""
_PRIVATE: dict[str, Any] = {"api_visibility": "private"}


class _Page(gr.Blocks):  # type: ignore[misc]  # Gradio is not installed when types are checked
    """Blocks that answer with a sentence where Gradio shows "Error" alone."""

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Handle one event of the page."""
        try:
            return dict(await super().process_api(*args, **kwargs))
        except gr.Error:
            raise
        except Exception as error:  # of any type: inputs that the page never sends, or a fault of ours
            _log.warning("%s: %s", type(error).__name__, str(error).partition("\n")[0])
            raise gr.Error(_FAILED, print_exception=False) from None


def build(sessions: Mapping[str, Session], samples: list[SampleClip]) -> Any:
    """The page, to be launched by `serving`.

    Args:
        sessions: name of a model -> its session; the first one is selected.
        samples: clips to choose from.
    """
    with _Page(analytics_enabled=False, title="OmniSIFT", delete_cache=(3600, 86400)) as page:
        gr.HTML("<h1>OmniSIFT</h1>", elem_id="intro")
        with gr.Tabs():
            with gr.Tab("A clip"):
                _clip_tab(sessions, {sample.title: sample for sample in samples})
            with gr.Tab("Live"):
                gr.HTML(render.live_tab(list(sessions), MAX_CHARACTERS), elem_id="live")
    return page


def _clip_tab(sessions: Mapping[str, Session], by_title: dict[str, SampleClip]) -> None:
    """Ask about an upload or a sample."""
    gr.HTML(f"<p>{_INTRO}</p>")
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            file = gr.File(label="Drop a clip", file_types=list(UPLOAD_SUFFIXES), height=130, elem_id="file")
            sample = gr.Radio(list(by_title), label="or choose a sample", elem_id="sample")
            player = gr.HTML(render.player(None, ""), elem_id="player")
            text = gr.Checkbox(False, label="Read subtitles", info=_TEXT_INFO, elem_id="text")
            kinds = list(SUBTITLE_SUFFIXES)
            subtitles = gr.File(label="or drop its subtitles", file_types=kinds, height=90, elem_id="subtitles")
        with gr.Column(scale=2, min_width=300):
            parts = _inputs(sessions)
            status = gr.HTML("", elem_id="status")
            answers = gr.HTML(_EMPTY, elem_id="answers")
    report = gr.HTML("", elem_id="report")
    run: dict[str, Any] = {
        "fn": _asker(sessions, by_title),
        "inputs": [
            *(file, sample, text, subtitles),
            *(parts[name] for name in ("question", "model", "method", "second", "percent")),
        ],
        "outputs": [status, answers, report],
        "concurrency_id": "model",
        "concurrency_limit": 1,
        "show_progress_on": [answers],
        **_PRIVATE,
    }
    parts["button"].click(**run)
    parts["question"].submit(**run)
    examples = parts["examples"]
    for example in examples:
        copied = example.click(lambda text: text, [example], [parts["question"]], show_progress="hidden", **_PRIVATE)
        copied.then(**run)
    parts["model"].input(
        lambda name: [gr.update(**choice) for choice in _choices(sessions[name])],
        [parts["model"]],
        [parts["method"], parts["second"]],
        show_progress="hidden",
        **_PRIVATE,
    )
    shown = [player, subtitles]
    file.change(_uploaded, [file, sample], [sample, *shown, *examples], show_progress="hidden", **_PRIVATE)
    sample.input(
        _sample_chosen(by_title),
        [sample],
        [file, *shown, parts["question"], *examples],
        show_progress="hidden",
        **_PRIVATE,
    )


def _choices(session: Session) -> list[dict[str, Any]]:
    """Choices, selected one and note of the method and of the second method."""
    methods = list(session.methods)
    second = "random" if "random" in methods[1:] else _NONE
    note = with_reason(session.default, session.reason)
    return [
        {"choices": methods, "value": session.default, "info": note},
        {"choices": [_NONE, *methods], "value": second},
    ]


def _inputs(sessions: Mapping[str, Session]) -> dict[str, Any]:
    """Model, methods, share to keep, question and example questions."""
    names = list(sessions)
    first, second = _choices(sessions[names[0]])
    with gr.Row():
        model = gr.Dropdown(names, value=names[0], label="Model", elem_id="model")
    with gr.Row():
        method = gr.Dropdown(**first, label="Method", elem_id="method")
        other = gr.Dropdown(**second, label="Compare with", elem_id="second")
    label = "Keep, % of the video and audio tokens"
    percent = gr.Slider(1, 100, value=25, step=1, label=label, info=_SHARE_INFO, elem_id="percent")
    question = gr.Textbox(
        label="Question",
        lines=1,
        max_length=MAX_CHARACTERS,
        elem_id="question",
        placeholder="What do you want to know?",
    )
    with gr.Row(elem_id="examples"):
        examples = [gr.Button(visible=False, size="sm", min_width=120) for _ in range(_EXAMPLES)]
    button = gr.Button("Ask", variant="primary", elem_id="ask")
    chosen = {"model": model, "method": method, "second": other}
    return {**chosen, "percent": percent, "question": question, "examples": examples, "button": button}


def _asker(sessions: Mapping[str, Session], by_title: dict[str, SampleClip]) -> Callable[..., tuple[str, str, str]]:
    def ask(
        file: str | None,
        sample: str | None,
        text: bool,
        subtitles: str | None,
        question: str,
        model: str,
        method: str,
        second: str,
        percent: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio looks for this default)
    ) -> tuple[str, str, str]:
        methods = [name for name in (method, second) if name != _NONE]
        path = file if file is not None else by_title[sample].path if sample in by_title else None
        try:
            answer = sessions[model].ask(
                path,
                question,
                methods,
                percent,
                lambda done, step: progress(done, desc=render.step_text(step)),
                text=bool(text),
                subtitles=subtitles,
            )
        except OmniSiftError as error:
            return render.error(error), _EMPTY, ""
        return "", render.answers(answer), render.frame(answer)

    return ask


def _uploaded(file: str | None, sample: str | None) -> list[Any]:
    """An upload replaces the chosen sample, its example questions, and the subtitles of the clip before."""
    if file is None:
        kept = [gr.skip()] * _EXAMPLES
        return [sample, gr.skip() if sample is not None else render.player(None, ""), gr.skip(), *kept]
    return [None, render.player(file, "your upload"), None, *[gr.update(visible=False)] * _EXAMPLES]


def _sample_chosen(by_title: dict[str, SampleClip]) -> Callable[[str | None], list[Any]]:
    def choose(title: str | None) -> list[Any]:
        chosen = by_title[title or ""]
        examples = [gr.update(value=question, visible=True) for question in chosen.questions]
        return [None, render.player(chosen.path, chosen.title), None, chosen.questions[0], *examples]

    return choose


def theme() -> Any:
    """System fonts, and a button dark enough for its text to be read."""
    plain = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return plain.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def style() -> str:
    """The page's style sheet."""
    return files("omnisift.ui").joinpath("page.css").read_text(encoding="utf-8")
