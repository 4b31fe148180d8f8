"""`omnisift profile`: what a question costs by stage, measured on a clip or counted for a size of the model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from omnisift.cli.options import (
    Attn,
    Device,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Model,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.cli.silence import silence_libraries, silence_profiler
from omnisift.errors import UsageError

if TYPE_CHECKING:
    from omnisift.budget import Budget
    from omnisift.profiling.analytic import Count
    from omnisift.profiling.measure import Profile
    from omnisift.profiling.shape import PromptShape
    from omnisift.profiling.table7 import Reading

_COUNTED = {"config", "clip_seconds", "height", "width", "text_tokens"}
"""Options of `--config` alone."""
_BOTH = {"retain", "retain_video", "retain_audio", "fps", "max_frames", "max_pixels", "as_json"}


def profile(
    context: typer.Context,
    clip: Annotated[str | None, typer.Argument(help="A media file with picture, sound or both.")] = None,
    model: Model = "nano",
    compressor: Annotated[str, typer.Option(help="A method (see `omnisift methods`).")] = "omnisift",
    retain: Annotated[list[float] | None, typer.Option(help="Fraction kept; may be repeated. [default: 0.25]")] = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    question: Annotated[str, typer.Option(help="What to ask about the clip.")] = "Describe what is seen and heard.",
    repeats: Annotated[int, typer.Option(help="Timed questions of each kind; medians are shown.", min=1)] = 5,
    selector: Selector = None,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 64,
    seed: Seed = 0,
    config: Annotated[
        str | None, typer.Option(help="Count only, without weights: 7b, 3b, or a folder with a config.json.")
    ] = None,
    clip_seconds: Annotated[float | None, typer.Option(help="With --config: length of the clip.")] = None,
    height: Annotated[int, typer.Option(help="With --config: height of its pictures, pixels.")] = 1080,
    width: Annotated[int, typer.Option(help="With --config: their width.")] = 1920,
    text_tokens: Annotated[int, typer.Option(help="With --config: tokens of question and template.")] = 128,
    as_json: Json = False,
) -> None:
    """Time, peak memory and FLOPs of every stage, with all tokens and with a part of them.

    With a CLIP it is measured by asking; with --config only FLOPs are counted, for a model that need not be there.
    """
    _check_mode(context, clip, config, clip_seconds)
    silence_profiler()
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
    how = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels, "sampling": sampling}
    loading = {"device": device, "dtype": dtype, "attn_implementation": attn}
    method = {"name": compressor, "selector": selector, "seed": seed}
    asking = {"question": question, "repeats": repeats, "max_new_tokens": max_new_tokens, **how}
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
    """One model, asked with all tokens and at each budget."""
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline import Pipeline, load
    from omnisift.pipeline.ask import compressor_for
    from omnisift.profiling.measure import measure, questions

    full = load(model, compressor=None, **loading)
    pipelines = {"full": full}
    for budget in budgets:
        pipelines[budget.words] = Pipeline(full.host, compressor_for(full.host, budget=budget, **method))
    total = len(pipelines) * questions(asking["repeats"])
    console = console_for(stderr=True)
    console.quiet = quiet
    with CountBar(console, "asking", total) as step:
        return measure(pipelines, clip, on_question=step, **asking)


def _show(found: Profile, as_json: bool) -> None:
    from omnisift.cli.profile_screen import show_profile
    from omnisift.cli.screen import console_for

    if as_json:
        typer.echo(json.dumps(found.to_dict()))
    else:
        show_profile(console_for(stderr=False), found)


def _count(name: str, shape: PromptShape, budgets: list[Budget], as_json: bool) -> None:
    from omnisift.cli.profile_screen import show_counts, show_readings
    from omnisift.cli.screen import console_for
    from omnisift.profiling.analytic import count
    from omnisift.profiling.sizes import thinker_config
    from omnisift.profiling.table7 import readings

    config = thinker_config(name)
    counts = count(config, shape, budgets)
    found = readings(config, counts)
    if as_json:
        typer.echo(json.dumps(_counts_to_dict(name, shape, counts, found)))
    else:
        show_counts(console_for(stderr=False), name, shape, counts)
        show_readings(console_for(stderr=False), found if name == "7b" else [])


def _counts_to_dict(name: str, shape: PromptShape, counts: list[Count], found: list[Reading]) -> dict[str, Any]:
    from dataclasses import asdict

    from omnisift.utils.provenance import environment

    return {
        "kind": "counted",
        "config": name,
        "clip": asdict(shape),
        "runs": [one.to_dict() for one in counts],
        "readings": [asdict(reading) for reading in found],
        # Arithmetic: the machine does not matter.
        "environment": {key: value for key, value in environment().items() if key != "machine"},
    }


def _budgets(retain: list[float] | None, video: float | None, audio: float | None) -> list[Budget]:
    from omnisift.budget import Budget

    if video is not None or audio is not None:
        return [Budget(retain=retain[0] if retain else None, retain_video=video, retain_audio=audio)]
    return [Budget.from_options(share) for share in dict.fromkeys(retain)] if retain else [Budget.from_options()]


def _check_mode(context: typer.Context, clip: str | None, config: str | None, seconds: float | None) -> None:
    """Either a clip or a configuration, and no option that the other one would need."""
    if (clip is None) == (config is None):
        raise UsageError("name a CLIP to measure, or a --config to count for, as in: omnisift profile clip.mp4")
    if config is not None and seconds is None:
        raise UsageError("--config needs the length of a clip: --clip-seconds 60")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    allowed = _BOTH | _COUNTED if config is not None else set(context.params) - _COUNTED
    wrong = sorted(f"--{name.replace('_', '-')}" for name in given - allowed)
    if wrong:
        kind = "counting for a --config" if config is not None else "measuring a CLIP"
        raise UsageError(f"{', '.join(wrong)} means nothing when {kind}; leave it out")
