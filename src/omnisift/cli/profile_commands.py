"""`omnisift profile`: the cost of a question by stage, measured on a clip or counted for a model size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from omnisift.cli.options import (
    Json,
    MappedModelOptions,
    MaxNewTokens,
    Method,
    check_clip,
    fraction,
    load_methods,
    single_question,
    with_records,
)
from omnisift.cli.profile_fit import plain_table, show_fit
from omnisift.config import CompressionConfig, ReadOptions
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries, silence_profiler
from omnisift.utils.stages import STAGES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from omnisift.budget import Budget
    from omnisift.profiling.analytic import Count, FlopDefinition
    from omnisift.profiling.measure import Profile, StageCost
    from omnisift.profiling.shape import PromptShape

COUNT = "Count without weights"
"""Panel of the help screen."""
DESCRIBE = "Describe what is seen and heard."
"""The question if none is given."""
_COUNTED = {"config", "clip_seconds", "device_memory", "height", "width", "text_tokens"}
"""Options that need ``--config``."""
_SHARED = {"retain", "retain_video", "retain_audio", "tokens", "fps", "max_frames", "max_pixels", "as_json"}
"""Options of both modes."""
_FITTED = (_SHARED | _COUNTED | {"max_new_tokens"}) - {"clip_seconds", "max_frames"}
"""Options with ``--device-memory``, which reads clips of all lengths with all their images."""

_SECONDS = ((1.0, "s"), (1e-3, "ms"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"))
_COUNTED_BYTES = ((1e9, "GB"), (1e6, "MB"))
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))

Row = tuple[str, Sequence[float | None]]
"""What is measured, and its value for each setting, all tokens first."""

Question = Annotated[str | None, typer.Argument(metavar="QUESTION", help="The question.", show_default="a description")]
Retains = Annotated[list[float] | None, fraction("Fraction of tokens to keep; may be repeated.", "0.25")]
Repeats = Annotated[int, typer.Option(help="Timed runs of each setting; medians are shown.", min=1)]
Config = Annotated[
    str | None,
    typer.Option(help="A size such as 7b or qwen3-vl-8b, or a folder with a config.json.", rich_help_panel=COUNT),
]
ClipSeconds = Annotated[float | None, typer.Option(help="Length of the clip in seconds.", rich_help_panel=COUNT)]
Height = Annotated[int, typer.Option(help="Height of its frames in pixels.", rich_help_panel=COUNT)]
Width = Annotated[int, typer.Option(help="Width of its frames in pixels.", rich_help_panel=COUNT)]
DeviceMemory = Annotated[
    str | None,
    typer.Option(help="Show the longest clip that fits into so much memory, such as 8GB.", rich_help_panel=COUNT),
]
TextTokens = Annotated[int, typer.Option(help="Tokens of the question and the chat template.", rich_help_panel=COUNT)]


@with_records
def profile(
    context: typer.Context,
    clip: Annotated[str | None, typer.Argument(metavar="CLIP", help="A media file with video, audio or both.")] = None,
    question: Question = None,
    question_option: Annotated[str | None, typer.Option("--question", hidden=True)] = None,
    *,
    host: MappedModelOptions,
    compressor: Method = CompressionConfig.compressor,
    retain: Retains = None,
    method: CompressionConfig,
    repeats: Repeats = 5,
    read_options: ReadOptions,
    max_new_tokens: MaxNewTokens = 64,
    config: Config = None,
    clip_seconds: ClipSeconds = None,
    device_memory: DeviceMemory = None,
    height: Height = 1080,
    width: Width = 1920,
    text_tokens: TextTokens = 128,
    as_json: Json = False,
) -> None:
    """Measure time, memory and FLOPs of each stage.

    With a CLIP, the model is measured with all tokens and with a part of them.
    With --config, FLOPs are counted without weights.
    With --device-memory as well, the longest clip that fits is searched.
    """
    from omnisift.cli.screen import console_for

    question = single_question(question, question_option)
    _check_mode(context, clip, config, clip_seconds, device_memory)
    silence_profiler()
    if clip is not None:
        check_clip(clip)
    read_options.check()
    silence_libraries()
    if config is not None and device_memory is not None:
        from omnisift.profiling.fit import RETAINS

        budgets = [each.budget for each in _methods(compressor, retain, method, RETAINS)]
        frame = height, width
        show_fit(config, device_memory, frame, read_options, text_tokens, max_new_tokens, budgets, as_json=as_json)
        return
    methods = _methods(compressor, retain, method)
    if config is not None:
        described = cast("float", clip_seconds), height, width
        _count(config, described, read_options, text_tokens, [each.budget for each in methods], as_json=as_json)
        return
    asking = {"question": question or DESCRIBE, "repeats": repeats, "max_new_tokens": max_new_tokens}
    result = _measure(cast("str", clip), host, methods, asking | read_options.reading, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(result.to_dict()))
    else:
        show_profile(console_for(stderr=False), result)


def _methods(
    compressor: str, retain: list[float] | None, method: CompressionConfig, default: Sequence[float] = ()
) -> list[CompressionConfig]:
    """The method at each budget; at those of ``default`` if none is given."""
    method = replace(method, compressor=compressor)
    if (method.retain_video, method.retain_audio, method.tokens) != (None, None, None):
        return [replace(method, retain=retain[0] if retain else None)]
    shares = dict.fromkeys(retain or default)
    return [replace(method, retain=share) for share in shares] if shares else [method]


def _measure(
    clip: str, host: MappedModelOptions, methods: list[CompressionConfig], asking: dict[str, Any], *, quiet: bool
) -> Profile:
    """Measure one model with all tokens and with each method."""
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline import Pipeline
    from omnisift.profiling.measure import measure, questions

    loaded, compressors = load_methods(host, {method.budget.words: method for method in methods})
    pipelines = {"full": Pipeline(loaded, None)}
    pipelines |= {words: Pipeline(loaded, compressor) for words, compressor in compressors.items()}
    total = len(pipelines) * questions(asking["repeats"])
    with CountBar(console_for(stderr=True), "measuring", total, quiet=quiet) as step:
        return measure(pipelines, clip, on_question=step, **asking)


def _count(
    name: str,
    clip: tuple[float, int, int],
    read_options: ReadOptions,
    text: int,
    budgets: list[Budget],
    *,
    as_json: bool,
) -> None:
    """Count a prompt about a clip that is only described, by its seconds, height and width."""
    from omnisift.cli.screen import console_for
    from omnisift.profiling.analytic import Weights, count, flop_definitions, moved_bytes
    from omnisift.profiling.shape import prompt_shape
    from omnisift.profiling.sizes import PAPER, host_config

    config = host_config(name)
    shape = prompt_shape(
        *clip,
        config=config,
        fps=read_options.fps,
        max_frames=read_options.max_frames,
        max_pixels=read_options.max_pixels,
        text=text,
    )
    counts = count(config, shape, budgets)
    definitions, weights = flop_definitions(config, counts), Weights.of(config)
    moved = [moved_bytes(weights, counted) for counted in counts]
    if as_json:
        result = _counts_to_dict(name, shape, counts, definitions)
        result["runs"] = [{**run, "moved_bytes": bytes_of} for run, bytes_of in zip(result["runs"], moved, strict=True)]
        typer.echo(json.dumps({**result, "weight_bytes": weights.nbytes()}))
    else:
        show_counts(console_for(stderr=False), name, shape, counts, weights.nbytes(), moved)
        show_definitions(console_for(stderr=False), definitions if name in PAPER else [])


def _counts_to_dict(
    name: str, shape: PromptShape, counts: list[Count], definitions: list[FlopDefinition]
) -> dict[str, Any]:
    from omnisift.utils.provenance import provenance

    return {
        "kind": "counted",
        "config": name,
        "clip": shape.to_dict(),
        "runs": [count.to_dict() for count in counts],
        "readings": [asdict(reading) for reading in definitions],
        # The counts do not depend on the machine.
        "environment": {key: value for key, value in provenance().items() if key != "machine"},
    }


def _check_mode(
    context: typer.Context, clip: str | None, config: str | None, seconds: float | None, memory: str | None
) -> None:
    """Check that either a clip or a configuration is given, and no option of the other mode."""
    if (clip is None) == (config is None):
        raise UsageError("give a CLIP to measure or a --config to count, for example: omnisift profile clip.mp4")
    if config is not None and seconds is None and memory is None:
        raise UsageError("--config needs the length of a clip, or a memory: --clip-seconds 60, or --device-memory 8GB")
    sources = {name: context.get_parameter_source(name) for name in context.params}
    named = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    allowed = (
        set(context.params) - _COUNTED if config is None else _FITTED if memory is not None else _SHARED | _COUNTED
    )
    wrong = sorted(f"--{name.replace('_option', '').replace('_', '-')}" for name in named - allowed)
    if wrong:
        mode = "with a CLIP" if config is None else "with --config" if memory is None else "with --device-memory"
        raise UsageError(f"{', '.join(wrong)} has no effect {mode}; leave it out")


def show_profile(console: Console, profile: Profile) -> None:
    """Print tokens, then time, memory and FLOPs by stage, energy, and how they were measured."""
    from omnisift.cli.screen import describe_source, show_notices

    costs = profile.costs
    report, settings = costs[0].answer.report, [cost.retain for cost in costs]
    show_notices(console, report.notices)
    console.print(f"{report.model} with {costs[-1].answer.report.method}, medians of {profile.repeats}", style="dim")
    console.print(describe_source(report.source), style="dim")
    console.print(_token_table(settings, [cost.answer.report.tokens for cost in costs]))
    console.print(_table("time", settings, _times(costs), _SECONDS))
    console.print(_table("peak memory", settings, _memory(costs), _BYTES))
    console.print(_table("FLOPs", settings, _stages([cost.flops for cost in costs], "total", sum), _FLOPS))
    _show_notes(console, profile)


def show_counts(
    console: Console,
    name: str,
    shape: PromptShape,
    counts: Sequence[Count],
    weights: int,
    moved: Sequence[dict[str, int]],
) -> None:
    """Print tokens, FLOPs by stage with and without attention between tokens, memory, and bytes moved.

    Args:
        console: Where to print.
        name: Name of the configuration.
        shape: Size of the clip and of the prompt.
        counts: The full prompt, then one count per budget.
        weights: Bytes of the model's weights.
        moved: Of each count, as `moved_bytes` has them.
    """
    settings = [count.retain for count in counts]
    parts = [f"{shape.frames} frames of {shape.height}x{shape.width} tokens"]
    parts += [f"{tokens} of {kind}" for kind, tokens in (("audio", shape.audio), ("times", shape.times)) if tokens]
    console.print(f"{name}: {', '.join(parts)}, {shape.text} of text", style="dim")
    table = plain_table("tokens", *settings)
    for label in ("video", "audio", "prompt"):
        if label != "audio" or shape.audio:
            table.add_row(label, *(f"{getattr(count, label):,}" for count in counts))
    console.print(table)
    stages = [stage for stage in counts[0].stages if stage != "encode_audio" or shape.audio]
    rows: list[Row] = [(STAGES[stage].title, [count.stages[stage].total for count in counts]) for stage in stages]
    rows.append(("total", [count.total.total for count in counts]))
    rows.append(("without attention between tokens", [count.total.weights for count in counts]))
    rows.append(("one more token", [count.step.total for count in counts]))
    console.print(_table("FLOPs", settings, rows, _FLOPS))
    cache, logits = [count.cache_bytes for count in counts], [count.logits_bytes for count in counts]
    memory: list[Row] = [("weights", [weights] * len(counts)), ("KV cache", cache), ("prompt logits", logits)]
    memory.append(("sum", [weights + count.cache_bytes + count.logits_bytes for count in counts]))
    console.print(_table("memory in bfloat16", settings, memory, _COUNTED_BYTES))
    titles = {"encode": "encoders", "prefill": STAGES["prefill"].title, "step": "one more token"}
    rows = [(title, [bytes_of[stage] for bytes_of in moved]) for stage, title in titles.items()]
    console.print(_table("bytes moved", settings, rows, _COUNTED_BYTES))


def show_definitions(console: Console, flop_definitions: Sequence[FlopDefinition]) -> None:
    """Print the ratios of each definition of FLOPs and their distance from the paper's Table 7, if it has such rows."""
    from omnisift.profiling.analytic import PAPER

    shares = list(flop_definitions[0].deviations) if flop_definitions else []
    if not shares:
        return
    heads = [head for share in shares for head in (share, "off")]
    table = plain_table("Table 7", "full, T", *heads)
    published = [cell for share in shares for cell in (f"{PAPER[share] / PAPER['full']:.4f}", "")]
    table.add_row("the paper", f"{PAPER['full']}", *published)
    for definition in flop_definitions:
        cells = [
            cell
            for share in shares
            for cell in (f"{definition.ratios[share]:.4f}", f"{100 * definition.deviations[share]:+.1f} %")
        ]
        table.add_row(definition.name, f"{definition.tflops:.2f}", *cells)
    console.print(table)


def _times(costs: Sequence[StageCost]) -> list[Row]:
    rows: list[Row] = [(STAGES[stage].title, [cost.seconds[stage] for cost in costs]) for stage in STAGES]
    rows.append(("total", [cost.total_seconds for cost in costs]))
    return [*rows, ("decode, one token", [cost.step_seconds for cost in costs])]


def _memory(costs: Sequence[StageCost]) -> list[Row]:
    rows = _stages([cost.memory for cost in costs], "highest", max)
    on_gpu = costs[0].device_peak is not None
    return [*rows, ("with weights", [cost.device_peak for cost in costs])] if on_gpu else rows


def _stages(values: Sequence[dict[str, int]], last: str, combine: Callable[[Iterable[int]], int]) -> list[Row]:
    rows: list[Row] = [(STAGES[stage].title, [values_of[stage] for values_of in values]) for stage in values[0]]
    return [*rows, (last, [combine(values_of.values()) for values_of in values])]


def _table(title: str, settings: Sequence[str], rows: Sequence[Row], units: Sequence[tuple[float, str]]) -> Table:
    """A table in one unit; each compressed setting is followed by its ratio to all tokens."""
    largest = max((value or 0.0 for _, values in rows for value in values), default=0.0)
    scale, unit = next(((scale, unit) for scale, unit in units if largest >= scale), units[-1])
    heads = [head for setting in settings[1:] for head in (setting, "ratio")]
    table = plain_table(f"{title}, {unit}", settings[0], *heads)
    for label, values in rows:
        full = values[0]
        cells = ["-" if full is None else f"{full / scale:.3f}"]
        for value in values[1:]:
            cells.append("-" if value is None else f"{value / scale:.3f}")
            cells.append("-" if value is None or not full else f"{value / full:.3f}")
        table.add_row(label, *cells)
    return table


def _token_table(settings: Sequence[str], tokens: Sequence[object]) -> Table:
    table = plain_table("tokens", *settings)
    for label, field in (
        ("video", "video_kept"), ("audio", "audio_kept"), ("prompt", "prompt_kept"), ("generated", "generated")
    ):  # fmt: skip
        table.add_row(label, *(f"{getattr(counts, field):,}" for counts in tokens))
    return table


def _show_notes(console: Console, profile: Profile) -> None:
    from rich.text import Text

    spent = ", ".join(f"{cost.retain} {cost.joules:.2f} J" for cost in profile.costs if cost.joules is not None)
    console.print(
        Text(
            f"energy per question: {spent} ({profile.notes['energy']})"
            if spent
            else f"energy: {profile.notes['energy']}"
        )
    )
    used = ", ".join(f"{cost.retain} {cost.cpu_seconds:.2f} s" for cost in profile.costs)
    console.print(Text(f"CPU time per question: {used} (all threads of this process)"))
    console.print(Text(f"memory: {profile.notes['memory']}", style="dim"))
    console.print(Text(f"FLOPs: {profile.notes['flops']}", style="dim"))
