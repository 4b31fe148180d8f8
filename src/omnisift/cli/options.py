"""Options shared by several commands: one name, one help text, one meaning. Each command sets its own defaults."""

from __future__ import annotations

from typing import Annotated

import typer

from omnisift.errors import UsageError
from omnisift.utils.questions import check_question

MODEL, BUDGET, SAMPLING, OUTPUT = "Model", "Budget", "Sampling", "Output"
"""Panels of a help screen."""


def _check_fps(fps: float) -> float:
    if not 0 < fps < float("inf"):
        raise UsageError(f"--fps must be more than 0, got {fps}")
    return fps


def parse_fraction(value: str | float) -> float:
    """A fraction as it was typed; `Budget` checks its range."""
    text = str(value).strip()
    number = text.removesuffix("%")
    try:
        fraction = float(number)
    except ValueError:
        raise UsageError(f"the fraction of tokens to keep is a number such as 0.25, got {text!r}") from None
    if number != text:
        raise UsageError(f"write {text} as the fraction of tokens to keep: {fraction / 100:g}")
    return fraction


def _check_sampling(rule: str) -> str:
    if rule not in ("time", "qwen"):
        raise UsageError(f"--sampling must be time or qwen, got {rule!r}")
    return rule


Clip = Annotated[str, typer.Argument(metavar="CLIP", help="A media file with video, audio or both.")]

Model = Annotated[str, typer.Option(help="nano (bundled), a checkpoint folder, or a hub id.", rich_help_panel=MODEL)]
Selector = Annotated[
    str | None,
    typer.Option(help="Folder of selector weights.", show_default="the model's own", rich_help_panel=MODEL),
]
Device = Annotated[
    str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, mps, cuda or cuda:N.", rich_help_panel=MODEL)
]
DType = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, or auto for the stored one.", show_default="by device", rich_help_panel=MODEL
    ),
]
Attn = Annotated[
    str | None,
    typer.Option(
        "--attn-implementation",
        "--attn",
        help="sdpa, eager or flash_attention_2.",
        show_default="sdpa",
        rich_help_panel=MODEL,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Accelerate's device map, for example auto: weights go straight to the devices.", rich_help_panel=MODEL
    ),
]

Compressor = Annotated[
    str,
    typer.Option(
        "--compressor",
        "--method",
        help="Compression method (see `omnisift methods`), for example evs or stvp+random; none keeps every token.",
        rich_help_panel=BUDGET,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--compressor", "--method", help="Compression method (see `omnisift methods`).", rich_help_panel=BUDGET
    ),
]
"""As `Compressor`, for commands that always include all tokens."""
Retain = Annotated[
    float | None,
    typer.Option(
        parser=parse_fraction,
        metavar="<float>",
        help="Fraction of video and audio tokens to keep together, from 0 to 1.",
        show_default="0.25",
        rich_help_panel=BUDGET,
    ),
]
RetainVideo = Annotated[
    float | None,
    typer.Option(
        parser=parse_fraction,
        metavar="<float>",
        help="Fraction of video tokens to keep; with --retain-audio.",
        rich_help_panel=BUDGET,
    ),
]
RetainAudio = Annotated[
    float | None,
    typer.Option(
        parser=parse_fraction,
        metavar="<float>",
        help="Fraction of audio tokens to keep; with --retain-video.",
        rich_help_panel=BUDGET,
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed, for methods that sample.", rich_help_panel=BUDGET)]

Fps = Annotated[float, typer.Option(help="Frames sampled per second.", callback=_check_fps, rich_help_panel=SAMPLING)]
MaxFrames = Annotated[
    int,
    typer.Option(
        help="Maximum number of frames; a longer clip is sampled at a lower rate.", min=1, rich_help_panel=SAMPLING
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option(min=28 * 28, help="Maximum pixels per frame.", show_default="the paper's", rich_help_panel=SAMPLING),
]
SamplingRule = Annotated[
    str,
    typer.Option(
        help="Frame sampling: time, or qwen for the rule of published results.",
        callback=_check_sampling,
        rich_help_panel=SAMPLING,
    ),
]

MaxNewTokens = Annotated[int, typer.Option(help="Maximum number of new tokens.", min=1, rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what exists.", rich_help_panel=OUTPUT)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)]


def check_clip(path: str) -> None:
    """Check that ``path`` is a readable file, before a model is loaded.

    Raises:
        MediaError: it is not.
    """
    from omnisift.media.container import check_path

    check_path(path)


def resolved_device(device: str) -> str:
    """``auto`` as the device of this machine; other names as they are."""
    if device != "auto":
        return device
    from omnisift.pipeline.devices import resolve_device

    return resolve_device(device).type


def single_question(argument: str | None, option: str | None) -> str | None:
    """The question, given as an argument or, in the old spelling, as ``--question``.

    Raises:
        UsageError: both are given, or the question is empty.
    """
    if argument is not None and option is not None:
        raise UsageError("the question is given twice; leave --question out")
    question = argument if option is None else option
    if question is not None:
        check_question(question)
    return question
