"""`omnisift inspect`: what was kept of a clip, as a page, a figure, or the trace itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import (
    Attn,
    Device,
    DType,
    Fps,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Model,
    Retain,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.cli.output_paths import check_file
from omnisift.cli.silence import silence_libraries
from omnisift.errors import UsageError, install_hint

if TYPE_CHECKING:
    from omnisift.inspector import Inspection


def inspect(
    clip: Annotated[str, typer.Argument(help="A media file with picture, sound or both.")],
    question: Annotated[str | None, typer.Option(help="What to ask. [default: a description]")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The report, one .html file.")] = None,
    png: Annotated[Path | None, typer.Option(help="A still figure, .png.")] = None,
    svg: Annotated[Path | None, typer.Option(help="The same as .svg.")] = None,
    compressor: Annotated[str, typer.Option(help="A method (see `omnisift methods`).")] = "omnisift",
    compare: Annotated[list[str] | None, typer.Option(help="Another method beside it; may be repeated.")] = None,
    model: Model = "nano",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    selector: Selector = None,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the trace as one JSON object and nothing else.")
    ] = False,
) -> None:
    """Ask about a clip with all tokens and with one or more methods, and show which tokens each kept."""
    _check_outputs({".html": out, ".png": png, ".svg": svg}, as_json, force)
    names = list(dict.fromkeys([compressor, *(compare or [])]))
    if "none" in names:
        raise UsageError("all tokens are asked anyway; name methods, as in --compressor omnisift --compare random")
    silence_libraries()
    loading = {"device": device, "dtype": dtype, "attn": attn}
    kept = {"retain": retain, "retain_video": retain_video, "retain_audio": retain_audio}
    reading = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels, "sampling": sampling}
    asking = {"question": question, "max_new_tokens": max_new_tokens, **reading}
    method = {"selector": selector, "seed": seed}
    inspection = _inspect(clip, model, loading, names, kept, method, asking, quiet=as_json)
    _write(inspection, out, [path for path in (png, svg) if path is not None])
    if as_json:
        typer.echo(json.dumps(inspection.trace.to_dict(), allow_nan=False))
    else:
        _show(inspection, [path for path in (out, png, svg) if path is not None])


def _check_outputs(outputs: dict[str, Path | None], as_json: bool, force: bool) -> None:
    """Before anything is loaded: is there something to write, and can it be written?"""
    if not as_json and not any(outputs.values()):
        raise UsageError("nothing to write: add -o report.html, --png, --svg or --json")
    for suffix, path in outputs.items():
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UsageError(f"{path} must end in {suffix}: its name says what it is")
        check_file(path, force)
    if (outputs[".png"] or outputs[".svg"]) and find_spec("matplotlib") is None:
        raise UsageError("--png and --svg need matplotlib, which is not installed: " + install_hint("eval"))


def _inspect(
    clip: str,
    model: str,
    loading: dict[str, Any],
    names: list[str],
    kept: dict[str, float | None],
    method: dict[str, Any],
    asking: dict[str, Any],
    *,
    quiet: bool,
) -> Inspection:
    from omnisift.cli.screen import StageBar, console_for

    with StageBar(console_for(stderr=True), quiet=quiet) as bar:
        from omnisift.budget import Budget
        from omnisift.inspector import inspect_clip
        from omnisift.pipeline.ask import compressor_for
        from omnisift.pipeline.loading import load_host

        budget = Budget.from_options(**kept)
        host = load_host(model, **loading)
        methods = {name: compressor_for(host, name, budget, **method) for name in names}
        return inspect_clip(host, methods, clip, on_stage=bar.stage, **asking)


def _write(inspection: Inspection, page: Path | None, figures: list[Path]) -> None:
    """All of them or none: they take their places together, when the last is done."""
    from omnisift.utils.atomic_io import atomic_file

    jobs: list[tuple[Path, Callable[[Path], object]]] = []
    if page is not None:
        from omnisift.inspector.html import render

        jobs.append((page, lambda path: path.write_text(render(inspection), encoding="utf-8")))
    if figures:
        from omnisift.inspector.figure import draw

        jobs += [(figure, lambda path: draw(inspection, path)) for figure in figures]
    with ExitStack() as stack:
        for path, write in jobs:
            write(stack.enter_context(atomic_file(path)))


def _show(inspection: Inspection, written: list[Path]) -> None:
    for asked in inspection.trace.methods:
        share = 100 * asked.answer.report.retained_ratio
        recall = asked.kept_evidence
        proof = "" if recall is None else f", evidence {recall.tokens} of {recall.tokens_all} tokens"
        typer.echo(f"{asked.label} ({share:.1f} % kept{proof}): {asked.answer.text or '(nothing)'}")
    for notice in inspection.trace.notices:
        typer.echo(f"note: {notice}")
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
