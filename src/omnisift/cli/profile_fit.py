"""`omnisift profile --config SIZE --device-memory 8GB`: the longest clip that fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import typer

from omnisift.config import ReadOptions

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from omnisift.budget import Budget
    from omnisift.profiling.fit import Fit


def show_fit(
    name: str,
    device_memory: str,
    frame: tuple[int, int],
    read_options: ReadOptions,
    text: int,
    new: int,
    budgets: list[Budget],
    *,
    as_json: bool,
) -> None:
    """Search the longest clips, and print them.

    Args:
        name: As `host_config` takes it.
        device_memory: A size such as ``8GB``.
        frame: Height and width of the clip's frames in pixels.
        read_options: Its ``fps`` and ``max_pixels`` apply.
        text: Tokens of the question and the chat template.
        new: Tokens of the answer.
        budgets: What is kept.
        as_json: Whether one JSON object is printed.
    """
    from omnisift.cli.screen import console_for
    from omnisift.profiling.fit import longest_clips, parse_size, reserve
    from omnisift.profiling.shape import PromptShape, prompt_shape
    from omnisift.profiling.sizes import host_config
    from omnisift.utils.provenance import provenance

    size, config, fps = parse_size(device_memory), host_config(name), read_options.fps

    def shape_of(seconds: float) -> PromptShape:
        images = max(2, round(seconds * fps))
        options: dict[str, Any] = {"max_frames": images, "max_pixels": read_options.max_pixels, "text": text}
        return prompt_shape(seconds, *frame, config=config, fps=fps, **options)

    fits = longest_clips(config, size, budgets, shape_of, fps=fps, new=new)
    if as_json:
        assumed = {"fps": fps, "height": frame[0], "width": frame[1], "text": text, "new_tokens": new}
        result = {
            "kind": "fit", "config": name, "device_memory": size, "reserve": reserve(size), "assumed": assumed,
            "fits": [fit.to_dict() for fit in fits],
            "environment": {key: value for key, value in provenance().items() if key != "machine"},
        }  # fmt: skip
        typer.echo(json.dumps(result))
        return
    console = console_for(stderr=False)
    shape = shape_of(2 / fps)
    console.print(
        f"{name} in {size / 1e9:.1f} GB, of which {reserve(size) / 1e9:.1f} GB stay free: the longest clip, with"
        f" all images at {fps:g}/s, up to {shape.height}x{shape.width} tokens each, {text} of text, {new} of answer",
        style="dim",
        soft_wrap=True,
    )
    _table(console, fits)
    _notes(console, config, fits)


def _table(console: Console, fits: list[Fit]) -> None:
    settings = list(dict.fromkeys(fit.retain for fit in fits))
    table = plain_table("weights", *settings, gap=2)  # four settings fit into 80 columns
    for bits in dict.fromkeys(fit.bits for fit in fits):
        row = [fit for fit in fits if fit.bits == bits]
        table.add_row(f"{bits} bits, {row[0].weights / 1e9:.1f} GB", *map(_cell, row))
    console.print(table)


def _cell(fit: Fit) -> str:
    """A length, with what limits it unless that is the memory, or what the shortest clip needs."""
    if fit.seconds is None and fit.limit == "context":
        return "none (context)"
    if fit.seconds is None:
        return f"needs {fit.needed / 1e9:.1f} GB"
    minutes, seconds = divmod(round(fit.seconds), 60)
    limit = "" if fit.limit == "memory" else f"\n({fit.limit})"  # in two lines, so that five columns fit
    return f"{minutes}:{seconds:02d} min{limit}"


def _notes(console: Console, config: Any, fits: list[Fit]) -> None:
    """What the words mean, and from which length on positions are new to the model."""
    from omnisift.pipeline.context import context_length

    limits = {fit.limit for fit in fits}
    length, rate = context_length(config), getattr(config, "position_id_per_seconds", None)
    notes = []
    if "context" in limits:
        notes.append(f"context: the next longer prompt exceeds the model's {length:,} tokens")
    if "reading" in limits:
        notes.append("reading: no more than two hours of a file are read by default")
    longest = max((fit.seconds for fit in fits if fit.seconds is not None), default=0.0)
    if rate and length and longest * rate > length:
        notes.append(f"positions count {rate} a second: after {length / rate / 60:.0f} min they are new to the model")
    images = max((fit.images or 0 for fit in fits), default=0)
    if images > ReadOptions.max_frames:
        notes.append(f"`ask` reads {ReadOptions.max_frames} images by default: give it --max-frames {images}")
    for note in notes:
        console.print(note, style="dim", soft_wrap=True, markup=False)


def plain_table(*heads: str, gap: int = 3) -> Table:
    """A table without lines, with these column heads; all but the first column are aligned to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    table.add_column(heads[0], min_width=16)
    for head in heads[1:]:
        table.add_column(head, justify="right")
    return table
