"""`omnisift calibrate`: the ranges of a language model's activations by modality, as a file of scales."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import OUTPUT, Force, Json, MappedModelOptions, with_records
from omnisift.cli.output_paths import check_file
from omnisift.config import CompressionConfig, ReadOptions, TextOptions
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.calibration import Scales

DATA = "Data"
"""Panel of the help screen."""


@with_records
def calibrate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="nano, a checkpoint folder, or a hub id.")],
    *,
    media: Annotated[
        list[Path],
        typer.Option(
            help="A clip, a folder of clips, or a text file with one path per line; may be repeated.",
            rich_help_panel=DATA,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The scales, one .safetensors file.", rich_help_panel=OUTPUT)
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of questions, one per line.", show_default="six general questions", rich_help_panel=DATA
        ),
    ] = None,
    host: MappedModelOptions,
    method: CompressionConfig,
    read_options: ReadOptions,
    text_options: TextOptions,
    max_new_tokens: Annotated[
        int, typer.Option(help="Maximum number of new tokens for each question.", min=1, rich_help_panel=DATA)
    ] = 8,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Collect the ranges of activations by modality, for static scales.

    Asks every question about every clip. The tokens are those that the method
    keeps; --compressor none reads all. The model does not change.
    """
    from omnisift.batch.sources import clips_of
    from omnisift.calibration import calibrate as collect
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline import load
    from omnisift.training.distill import load_questions

    if out.suffix.lower() != ".safetensors":
        raise UsageError(f"{out} must end in .safetensors")
    listed = [clips_of(source) for source in media]
    clips = [root / name for root, names in listed for name in names]
    check_file(out, force, reads=(*clips, prompts))
    read_options.check()
    text_options.check_text()
    questions = load_questions(prompts)
    silence_libraries()
    host = replace(host, model=model)
    pipe = load(host.model, **method.compression, retain_text=text_options.retain_text, **host.placement)
    reading: dict[str, Any] = {**read_options.reading, "text": text_options.text}
    with CountBar(console_for(stderr=True), "calibrating", len(clips), quiet=as_json) as step:
        scales = collect(pipe, clips, questions, max_new_tokens=max_new_tokens, step=step, **reading)
    scales.save(out)
    if as_json:
        typer.echo(json.dumps(_report(scales, out)))
    else:
        show_scales(console_for(stderr=False), scales, out)


def _report(scales: Scales, out: Path) -> dict[str, Any]:
    return {
        "scales": str(out),
        **asdict(scales.calibration),
        "tokens": scales.counts(),
        "roles": [asdict(role) for role in scales.roles()],
        "bits_lost": scales.bits_lost(),
        "outlier_bits": scales.outlier_bits(),
        "verdict": scales.verdict(),
    }


def show_scales(console: Console, scales: Scales, out: Path) -> None:
    """Print the largest inputs of the layers of each role by modality, and what they mean."""
    from rich.table import Table
    from rich.text import Text

    source, counts = scales.calibration, scales.counts()
    tokens = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    kept = "all tokens" if source.compressor == "none" else f"{source.compressor} at {source.budget}"
    console.print(
        Text(f"{len(source.clips)} clip{'s' * (len(source.clips) != 1)}, {kept}; tokens: {tokens}"), soft_wrap=True
    )
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for index, head in enumerate(("largest input", "layers", *counts, "ratio", "channels")):
        table.add_column(head, justify="right" if index else "left")
    for role in scales.roles():
        ranges = [f"{role.largest[name]:.1f}" for name in counts]
        table.add_row(Text(role.role), str(role.layers), *ranges, f"{role.ratio:.1f}", f"{role.channels:.1f}")
    console.print(table)
    legend = "ratio: largest modality to smallest; channels: largest to median; medians of layers"
    console.print(legend, style="dim", soft_wrap=True)
    console.print(Text(f"{scales.verdict()}."), soft_wrap=True)
    console.print(Text(f"{out}: {out.stat().st_size / 1e6:.2f} MB"), soft_wrap=True)
