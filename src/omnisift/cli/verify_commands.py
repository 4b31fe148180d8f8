"""`omnisift verify`: check and measure the library on this machine, with random weights of real dimensions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import Json
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries, silence_profiler

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from omnisift.verify.checks import Check
    from omnisift.verify.hosts import ModelSpec
    from omnisift.verify.kit import Result
    from omnisift.verify.measure import Plan, Row

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="May be repeated.", show_default="qwen2.5-omni-7b, -3b, qwen3-omni-30b-a3b"),
]
Tiny = Annotated[bool, typer.Option("--tiny", help="Tiny models of the same families, also on a CPU.")]
Seconds = Annotated[
    list[float] | None, typer.Option("--seconds", help="Length of a clip; may be repeated.", show_default="20, 60, 240")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="JSON file, written after each step.")]
Show = Annotated[Path | None, typer.Option(help="Print the Markdown tables of an earlier result, and run nothing.")]


def verify(
    models: Models = None,
    seconds: Seconds = None,
    tiny: Tiny = False,
    attn_implementation: Annotated[
        str | None, typer.Option(help="As in Transformers.", show_default="FlashAttention if installed, else sdpa")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Measured questions per row; medians are shown.", min=1)] = 3,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds after which nothing more is checked or measured.", show_default="none")
    ] = None,
    output: Output = None,
    show: Show = None,
    as_json: Json = False,
) -> None:
    """Check and measure the library on a GPU, without weights or media.

    Models of real dimensions get random weights. The exit code is 1 if a check
    fails.
    """
    from omnisift.cli.screen import console_for

    silence_profiler()
    if show is not None:
        from omnisift.verify.kit import Result

        _echo(Result.read(show), as_json)
        return
    if output is not None and not output.absolute().parent.is_dir():
        raise UsageError(f"no folder {output.absolute().parent}; make it, or choose another --output")
    if time_limit is not None and not time_limit > 0:
        raise UsageError(f"--time-limit must be above 0 seconds, got {time_limit}")
    silence_libraries()
    specs, device = _specs(models, seconds, tiny), _device(tiny)
    from omnisift.verify.kit import run

    console = console_for(stderr=True)
    result = run(
        specs,
        device,
        plan=lambda spec: _plan(spec, repeats),
        attn_implementation=attn_implementation,
        time_limit=time_limit,
        output=output,
        on_step=lambda step: _show_step(console, step),
    )
    _echo(result, as_json)
    if result.failed:
        raise typer.Exit(1)


def _specs(models: list[str] | None, seconds: list[float] | None, tiny: bool) -> list[ModelSpec]:
    from dataclasses import replace

    from omnisift.verify.hosts import MODELS, find_models

    specs = find_models(models or list(MODELS), tiny=tiny)
    if seconds is None:
        return specs
    if any(not 2 <= length <= 24 * 3600 for length in seconds):
        raise UsageError("--seconds must be from 2 to 86400")
    return [replace(s, clips=tuple(replace(s.clips[0], seconds=length) for length in seconds)) for s in specs]


def _device(tiny: bool) -> torch.device:
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda")
    if tiny:
        return torch.device("cpu")
    raise UsageError("torch sees no CUDA device; run it on a machine with a GPU, or with --tiny on this CPU")


def _plan(spec: ModelSpec, repeats: int) -> Plan:
    from omnisift.verify.measure import Plan

    # The clip of the goal first: a run that is cut off has the row that matters most.
    lengths = [clip.seconds for clip in spec.clips]
    middle = sorted(lengths)[len(lengths) // 2]
    clips = sorted(spec.clips, key=lambda clip: (clip.seconds != middle, clip.seconds))
    return Plan(tuple(clips), rivals_at=middle, repeats=repeats)


def _show_step(console: Console, step: Check | Row) -> None:
    from omnisift.verify.checks import Check

    if isinstance(step, Check):
        console.print(f"{step.status:8}{step.model}: {step.name} ({step.detail})", markup=False, highlight=False)
        return
    words: Any = step.error or f"prefill {step.prefill_ms:,.1f} ms, compression {step.compress_ms:,.2f} ms"
    console.print(
        f"measured {step.model}: {step.seconds:g} s, {step.method} {step.retain:.0%}: {words}", markup=False,
        highlight=False,
    )  # fmt: skip


def _echo(result: Result, as_json: bool) -> None:
    from omnisift.verify.kit import check_table, measurement_table, shares

    if as_json:
        typer.echo(json.dumps(result.to_dict()))
        return
    info = result.environment
    known = {name: info.get(name) for name in ("machine", "driver", "cuda", "torch", "transformers", "commit")}
    typer.echo(", ".join(f"{name} {value}" for name, value in known.items() if value) + "\n")
    typer.echo(check_table(result.checks))
    typer.echo(measurement_table(result.rows))
    for sentence in shares(result.rows):
        typer.echo(sentence)
    state = "" if result.is_complete else ", cut off"
    skipped = sum(check.status == "skipped" for check in result.checks)
    counts = f"{len(result.checks)} checks, {len(result.failed)} failed, {skipped} skipped"
    typer.echo(f"{counts}; {result.seconds:.0f} s{state}")
