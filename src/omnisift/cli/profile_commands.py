"""`omnisift profile`: the cost of a question by stage, measured on a clip or counted for a model size."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from omnisift.cli.options import (
    BUDGET,
    Attn,
    Device,
    DeviceMap,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Method,
    Model,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
    check_clip,
    parse_fraction,
    single_question,
)
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries, silence_profiler

if TYPE_CHECKING:
    from omnisift.budget import Budget
    from omnisift.profiling.analytic import Count
    from omnisift.profiling.measure import Profile
    from omnisift.profiling.shape import PromptShape
    from omnisift.profiling.table7 import FlopDefinition

COUNT = "Count without weights"
"""Panel of the help screen."""
DESCRIBE = "Describe what is seen and heard."
"""The question if none is given."""
_COUNTED = {"config", "clip_seconds", "height", "width", "text_tokens"}
"""Options that need ``--config``."""
_SHARED = {"retain", "retain_video", "retain_audio", "fps", "max_frames", "max_pixels", "as_json"}
"""Options of both modes."""


def profile(
    context: typer.Context,
    clip: Annotated[str | None, typer.Argument(metavar="CLIP", help="A media file with video, audio or both.")] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question.", show_default="a description")
    ] = None,
    question_option: Annotated[str | None, typer.Option("--question", hidden=True)] = None,
    model: Model = "nano",
    compressor: Method = "omnisift",
    retain: Annotated[
        list[float] | None,
        typer.Option(
            parser=parse_fraction,
            metavar="<float>",
            help="Fraction of tokens to keep; may be repeated.",
            show_default="0.25",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    repeats: Annotated[int, typer.Option(help="Timed runs of each setting; medians are shown.", min=1)] = 5,
    selector: Selector = None,
    device: Device = "auto",
    dtype: DType = None,
    attn_implementation: Attn = None,
    device_map: DeviceMap = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
    config: Annotated[
        str | None, typer.Option(help="7b, 3b, or a folder with a config.json.", rich_help_panel=COUNT)
    ] = None,
    clip_seconds: Annotated[
        float | None, typer.Option(help="Length of the clip in seconds.", rich_help_panel=COUNT)
    ] = None,
    height: Annotated[int, typer.Option(help="Height of its frames in pixels.", rich_help_panel=COUNT)] = 1080,
    width: Annotated[int, typer.Option(help="Width of its frames in pixels.", rich_help_panel=COUNT)] = 1920,
    text_tokens: Annotated[
        int, typer.Option(help="Tokens of the question and the chat template.", rich_help_panel=COUNT)
    ] = 128,
    as_json: Json = False,
) -> None:
    """Measure time, memory and FLOPs of each stage.

    With a CLIP, the model is measured with all tokens and with a part of them.
    With --config, FLOPs are counted without weights.
    """
    question = single_question(question, question_option)
    _check_mode(context, clip, config, clip_seconds)
    silence_profiler()
    if clip is not None:
        check_clip(clip)
    silence_libraries()
    budgets = _budgets(retain, retain_video, retain_audio)
    if config is not None:
        from omnisift.pipeline.prompt import PAPER_MAX_PIXELS
        from omnisift.profiling.shape import prompt_shape

        shape = prompt_shape(
            cast("float", clip_seconds),
            height,
            width,
            fps=fps,
            max_frames=max_frames,
            max_pixels=PAPER_MAX_PIXELS if max_pixels is None else max_pixels,
            text=text_tokens,
        )
        _count(config, shape, budgets, as_json)
        return
    reading = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels, "sampling": sampling}
    loading = {
        "device": device,
        "dtype": dtype,
        "attn_implementation": attn_implementation,
        "device_map": device_map,
    }
    method = {"name": compressor, "selector": selector, "seed": seed}
    asking = {"question": question or DESCRIBE, "repeats": repeats, "max_new_tokens": max_new_tokens, **reading}
    _show(_measure(cast("str", clip), model, loading, method, budgets, asking, as_json), as_json)


def _measure(
    clip: str,
    model: str,
    loading: dict[str, Any],
    method: dict[str, Any],
    budgets: list[Budget],
    asking: dict[str, Any],
    quiet: bool,
) -> Profile:
    """Measure one model with all tokens and at each budget."""
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline import Pipeline
    from omnisift.pipeline.ask import compressor_for
    from omnisift.pipeline.loading import load_weights, plan_placement
    from omnisift.pipeline.model_source import find_model
    from omnisift.profiling.measure import measure, questions

    placement = plan_placement(**loading)
    source = find_model(model)
    for budget in budgets:  # the method and its selector are checked before the weights are read
        compressor_for(source, budget=budget, **method)
    host = load_weights(source, placement)
    pipelines = {"full": Pipeline(host, None)}
    for budget in budgets:
        pipelines[budget.words] = Pipeline(host, compressor_for(host, budget=budget, **method))
    total = len(pipelines) * questions(asking["repeats"])
    with CountBar(console_for(stderr=True), "measuring", total, quiet=quiet) as step:
        return measure(pipelines, clip, on_question=step, **asking)


def _show(result: Profile, as_json: bool) -> None:
    from omnisift.cli.profile_screen import show_profile
    from omnisift.cli.screen import console_for

    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        show_profile(console_for(stderr=False), result)


def _count(name: str, shape: PromptShape, budgets: list[Budget], as_json: bool) -> None:
    from omnisift.cli.profile_screen import show_counts, show_definitions
    from omnisift.cli.screen import console_for
    from omnisift.profiling.analytic import count, weight_bytes
    from omnisift.profiling.sizes import thinker_config
    from omnisift.profiling.table7 import flop_definitions

    config = thinker_config(name)
    counts = count(config, shape, budgets)
    definitions, weights = flop_definitions(config, counts), weight_bytes(config)
    if as_json:
        typer.echo(json.dumps({**_counts_to_dict(name, shape, counts, definitions), "weight_bytes": weights}))
    else:
        show_counts(console_for(stderr=False), name, shape, counts, weights)
        show_definitions(console_for(stderr=False), definitions if name == "7b" else [])


def _counts_to_dict(
    name: str, shape: PromptShape, counts: list[Count], definitions: list[FlopDefinition]
) -> dict[str, Any]:
    from dataclasses import asdict

    from omnisift.utils.provenance import provenance

    return {
        "kind": "counted",
        "config": name,
        "clip": asdict(shape),
        "runs": [count.to_dict() for count in counts],
        "readings": [asdict(reading) for reading in definitions],
        # The counts do not depend on the machine.
        "environment": {key: value for key, value in provenance().items() if key != "machine"},
    }


def _budgets(retain: list[float] | None, video: float | None, audio: float | None) -> list[Budget]:
    from omnisift.budget import Budget

    if video is not None or audio is not None:
        return [Budget(retain=retain[0] if retain else None, retain_video=video, retain_audio=audio)]
    return [Budget.from_options(share) for share in dict.fromkeys(retain)] if retain else [Budget.from_options()]


def _check_mode(context: typer.Context, clip: str | None, config: str | None, seconds: float | None) -> None:
    """Check that either a clip or a configuration is given, and no option of the other mode."""
    if (clip is None) == (config is None):
        raise UsageError("give a CLIP to measure or a --config to count, for example: omnisift profile clip.mp4")
    if config is not None and seconds is None:
        raise UsageError("--config needs the length of a clip: --clip-seconds 60")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    named = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    allowed = _SHARED | _COUNTED if config is not None else set(context.params) - _COUNTED
    wrong = sorted(f"--{name.replace('_option', '').replace('_', '-')}" for name in named - allowed)
    if wrong:
        mode = "with --config" if config is not None else "with a CLIP"
        raise UsageError(f"{', '.join(wrong)} has no effect {mode}; leave it out")
