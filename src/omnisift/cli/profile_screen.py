"""Screen output of `omnisift profile`: tables of time, memory and FLOPs, one column for each setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from omnisift.cli.screen import describe_source, show_notices
from omnisift.profiling.table7 import PAPER

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.profiling.analytic import Count
    from omnisift.profiling.measure import Profile, StageCost
    from omnisift.profiling.shape import PromptShape
    from omnisift.profiling.table7 import FlopDefinition

_NAMES = {
    "read": "read",
    "process": "prepare",
    "encode_video": "encode video",
    "encode_audio": "encode audio",
    "compress": "compress",
    "prefill": "LLM prefill",
    "decode": "decode",
}
_SECONDS = ((1.0, "s"), (1e-3, "ms"))
_BYTES = ((2.0**30, "GiB"), (2.0**20, "MiB"))
_COUNTED_BYTES = ((1e9, "GB"), (1e6, "MB"))
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))

Row = tuple[str, Sequence[float | None]]
"""What is measured, and its value for each setting, all tokens first."""


def show_profile(console: Console, profile: Profile) -> None:
    """Print tokens, then time, memory and FLOPs by stage, energy, and how they were measured."""
    costs = profile.costs
    report, settings = costs[0].answer.report, [cost.retain for cost in costs]
    show_notices(console, report.notices)
    console.print(f"{report.model}, medians of {profile.repeats}", style="dim")
    console.print(describe_source(report.source), style="dim")
    console.print(_token_table(settings, [cost.answer.report.tokens for cost in costs]))
    console.print(_table("time", settings, _times(costs), _SECONDS))
    console.print(_table("peak memory", settings, _memory(costs), _BYTES))
    console.print(_table("FLOPs", settings, _stages([cost.flops for cost in costs], "total", sum), _FLOPS))
    _show_notes(console, profile)


def show_counts(console: Console, name: str, shape: PromptShape, counts: Sequence[Count], weights: int) -> None:
    """Print tokens, FLOPs by stage with and without attention between tokens, and memory.

    Args:
        console: Where to print.
        name: Name of the configuration.
        shape: Size of the clip and of the prompt.
        counts: The full prompt, then one count per budget.
        weights: Bytes of the model's weights.
    """
    settings = [count.retain for count in counts]
    console.print(
        f"{name}: {shape.frames} frames of {shape.height}x{shape.width} tokens, {shape.audio} of audio, "
        f"{shape.text} of text",
        style="dim",
    )
    table = _plain("tokens", *settings)
    for label in ("video", "audio", "prompt"):
        table.add_row(label, *(f"{getattr(count, label):,}" for count in counts))
    console.print(table)
    rows: list[Row] = [(_NAMES[stage], [count.stages[stage].total for count in counts]) for stage in counts[0].stages]
    rows.append(("total", [count.total.total for count in counts]))
    rows.append(("without attention between tokens", [count.total.weights for count in counts]))
    rows.append(("one more token", [count.step.total for count in counts]))
    console.print(_table("FLOPs", settings, rows, _FLOPS))
    cache, logits = [count.cache_bytes for count in counts], [count.logits_bytes for count in counts]
    memory: list[Row] = [("weights", [weights] * len(counts)), ("KV cache", cache), ("prompt logits", logits)]
    memory.append(("sum", [weights + count.cache_bytes + count.logits_bytes for count in counts]))
    console.print(_table("memory in bfloat16", settings, memory, _COUNTED_BYTES))


def show_definitions(console: Console, flop_definitions: Sequence[FlopDefinition]) -> None:
    """Print the ratios of each definition of FLOPs and their distance from the paper's Table 7, if it has such rows."""
    shares = list(flop_definitions[0].deviations) if flop_definitions else []
    if not shares:
        return
    heads = [head for share in shares for head in (share, "off")]
    table = _plain("Table 7", "full, T", *heads)
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
    rows: list[Row] = [(_NAMES[stage], [cost.seconds[stage] for cost in costs]) for stage in _NAMES]
    rows.append(("total", [cost.total_seconds for cost in costs]))
    return [*rows, ("decode, one token", [cost.step_seconds for cost in costs])]


def _memory(costs: Sequence[StageCost]) -> list[Row]:
    rows = _stages([cost.memory for cost in costs], "highest", max)
    on_gpu = costs[0].device_peak is not None
    return [*rows, ("with weights", [cost.device_peak for cost in costs])] if on_gpu else rows


def _stages(values: Sequence[dict[str, int]], last: str, combine: Callable[[Iterable[int]], int]) -> list[Row]:
    rows: list[Row] = [(_NAMES[stage], [values_of[stage] for values_of in values]) for stage in values[0]]
    return [*rows, (last, [combine(values_of.values()) for values_of in values])]


def _table(title: str, settings: Sequence[str], rows: Sequence[Row], units: Sequence[tuple[float, str]]) -> Table:
    """A table in one unit; each compressed setting is followed by its ratio to all tokens."""
    largest = max((value or 0.0 for _, values in rows for value in values), default=0.0)
    scale, unit = next(((scale, unit) for scale, unit in units if largest >= scale), units[-1])
    heads = [head for setting in settings[1:] for head in (setting, "ratio")]
    table = _plain(f"{title}, {unit}", settings[0], *heads)
    for label, values in rows:
        full = values[0]
        cells = ["-" if full is None else f"{full / scale:.3f}"]
        for value in values[1:]:
            cells.append("-" if value is None else f"{value / scale:.3f}")
            cells.append("-" if value is None or not full else f"{value / full:.3f}")
        table.add_row(label, *cells)
    return table


def _token_table(settings: Sequence[str], tokens: Sequence[object]) -> Table:
    table = _plain("tokens", *settings)
    for label, field in (
        ("video", "video_kept"), ("audio", "audio_kept"), ("prompt", "prompt_kept"), ("generated", "generated")
    ):  # fmt: skip
        table.add_row(label, *(f"{getattr(counts, field):,}" for counts in tokens))
    return table


def _plain(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(heads[0], min_width=16)
    for head in heads[1:]:
        table.add_column(head, justify="right")
    return table


def _show_notes(console: Console, profile: Profile) -> None:
    spent = ", ".join(f"{cost.retain} {cost.joules:.2f} J" for cost in profile.costs if cost.joules is not None)
    console.print(
        Text(
            f"energy per question: {spent} ({profile.notes['energy']})"
            if spent
            else f"energy: {profile.notes['energy']}"
        )
    )
    console.print(Text(f"memory: {profile.notes['memory']}", style="dim"))
    console.print(Text(f"FLOPs: {profile.notes['flops']}", style="dim"))
