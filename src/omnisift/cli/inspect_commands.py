"""`omnisift inspect`: show which tokens of a clip each method keeps, as a page, a figure or JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import (
    BUDGET,
    OUTPUT,
    Clip,
    Force,
    Json,
    MappedModelOptions,
    MaxNewTokens,
    Method,
    check_clip,
    load_methods,
    single_question,
    with_records,
)
from omnisift.cli.output_paths import check_file
from omnisift.config import CompressionConfig, ReadOptions, TextOptions
from omnisift.errors import UsageError, install_hint
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from omnisift.inspector import Inspection


@with_records
def inspect(
    clip: Clip,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="The question.", show_default="a description")
    ] = None,
    question_option: Annotated[str | None, typer.Option("--question", hidden=True)] = None,
    *,
    host: MappedModelOptions,
    compressor: Method = CompressionConfig.compressor,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="Another method to compare; may be repeated.", rich_help_panel=BUDGET),
    ] = None,
    method: CompressionConfig,
    read_options: ReadOptions,
    text_options: TextOptions,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The report, one .html file.", rich_help_panel=OUTPUT)
    ] = None,
    png: Annotated[Path | None, typer.Option(help="The figure as .png.", rich_help_panel=OUTPUT)] = None,
    svg: Annotated[Path | None, typer.Option(help="The figure as .svg.", rich_help_panel=OUTPUT)] = None,
    max_new_tokens: MaxNewTokens = 256,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Show which tokens of a clip each method keeps.

    Asks the question with all tokens and with one or more methods. Writes a
    page (-o), a figure (--png, --svg) or the trace as JSON (--json).
    """
    from omnisift.cli.screen import StageBar, console_for

    question = single_question(question, question_option)
    _check_outputs({".html": out, ".png": png, ".svg": svg}, as_json, force, clip)
    names = list(dict.fromkeys([compressor, *(compare or [])]))
    if "none" in names:
        raise UsageError(
            "all tokens are always included; give methods, for example --compressor omnisift --compare random"
        )
    check_clip(clip)
    read_options.check()
    text_options.check_text()
    silence_libraries()
    methods = {name: replace(method, compressor=name) for name in names}
    with StageBar(console_for(stderr=True), quiet=as_json) as bar:
        from omnisift.inspector import inspect_clip

        loaded, compressors = load_methods(host, methods, text_options.retain_text)
        reading = read_options.reading | {"text": text_options.text}
        options = {"max_new_tokens": max_new_tokens, "on_stage": bar.stage, **reading}
        inspection = inspect_clip(loaded, compressors, clip, question, **options)
    _write(inspection, out, [path for path in (png, svg) if path is not None])
    if as_json:
        typer.echo(json.dumps(inspection.trace.to_dict(), allow_nan=False))
    else:
        _show(inspection, [path for path in (out, png, svg) if path is not None])


def _check_outputs(outputs: dict[str, Path | None], as_json: bool, force: bool, clip: str) -> None:
    """Check the output paths before anything is loaded."""
    if not as_json and not any(outputs.values()):
        raise UsageError("nothing to write: add -o report.html, --png, --svg or --json")
    for suffix, path in outputs.items():
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise UsageError(f"{path} must end in {suffix}")
        check_file(path, force, reads=(clip,))
    if (outputs[".png"] or outputs[".svg"]) and find_spec("matplotlib") is None:
        raise UsageError("--png and --svg need matplotlib, which is not installed: " + install_hint("eval"))


def _write(inspection: Inspection, page: Path | None, figures: list[Path]) -> None:
    """Write all files or none: they are renamed together, when the last one is complete."""
    from omnisift.utils.atomic_io import atomic_file

    jobs: list[tuple[Path, Callable[[Path], object]]] = []
    if page is not None:
        from omnisift.inspector.html import render

        def write_page(path: Path) -> None:  # the name of a clip may not be UTF-8
            path.write_text(render(inspection), encoding="utf-8", errors="backslashreplace")

        jobs.append((page, write_page))
    if figures:
        from omnisift.inspector.figure import draw

        jobs += [(figure, lambda path: draw(inspection, path)) for figure in figures]
    with ExitStack() as stack:
        for path, write in jobs:
            write(stack.enter_context(atomic_file(path)))


def _show(inspection: Inspection, written: list[Path]) -> None:
    for notice in inspection.trace.notices:
        typer.echo(f"note: {notice}")
    for method in inspection.trace.methods:
        share = 100 * method.answer.report.retained_ratio
        recall = method.kept_evidence
        evidence = "" if recall is None else f", evidence {recall.tokens} of {recall.tokens_all} tokens"
        reason = method.answer.report.compressor_reason
        kept = f"{reason}; {share:.1f} % kept" if reason else f"{share:.1f} % kept"
        typer.echo(f"{method.label} ({kept}{evidence}): {method.answer.text or '(nothing)'}")
    for path in written:
        typer.echo(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
