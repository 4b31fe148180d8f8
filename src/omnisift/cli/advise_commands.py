"""`omnisift advise`: how to read a clip for a number of tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import BUDGET, MODEL, Clip, Json, check_clip

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.profiling.advice import Advice

Tokens = Annotated[int, typer.Option(help="Number of video and audio tokens to keep.", rich_help_panel=BUDGET)]
Model = Annotated[
    str,
    typer.Option(
        help="nano (bundled), a checkpoint folder, a hub id, or a size such as 7b or qwen3-vl-8b.",
        rich_help_panel=MODEL,
    ),
]


def advise(clip: Clip, tokens: Tokens, model: Model = "nano", as_json: Json = False) -> None:
    """Recommend frames and pixels of a clip for a number of tokens.

    Prints the options to pass to other commands, and what was measured: small
    models on generated clips. No weights are read.
    """
    check_clip(clip)
    from omnisift.cli.screen import console_for
    from omnisift.profiling.advice import advise as advice_for
    from omnisift.utils.quiet import silence_libraries

    silence_libraries()
    advice = advice_for(clip, tokens, model=model)
    if as_json:
        typer.echo(json.dumps(advice.to_dict()))
    else:
        show_advice(console_for(stderr=False), advice)


def show_advice(console: Console, advice: Advice) -> None:
    """Print the recommendation, what was measured, and what both rest on."""
    from rich.table import Table
    from rich.text import Text

    size = f"at most {advice.max_pixels:,} pixels" if advice.max_pixels else "all pixels"
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    lines.add_row("clip", f"{advice.clip}: {advice.seconds:g} s for {advice.model}")
    lines.add_row("read", f"{advice.fps:g} fps, {size}: {advice.images} frames, {advice.frame_tokens} tokens a pair")
    lines.add_row("keep", f"{advice.video_kept:,} of {advice.video_tokens:,} video tokens")
    lines.add_row("", f"{advice.audio_kept:,} of {advice.audio_tokens:,} audio tokens")
    lines.add_row("options", Text(advice.options, style="bold"))
    console.print(lines)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("measured at", "pixels", "all tokens, %", "kept, %", "minus the best, points"):
        table.add_column(title, justify="right" if title != "measured at" else "left")
    for each in advice.measured:
        value, low, high = each.minus_best
        gap = "" if each is advice.measured[0] else f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
        shares = (f"{100 * each.pixels:g} %", f"{each.all_tokens:.1f}", f"{each.accuracy:.1f}")
        table.add_row(f"{each.fps:g} fps", *shares, gap)
    console.print()
    console.print(table)
    console.print()
    for note in advice.notes:
        console.print(Text(note, style="yellow"))
    share = f"{100 * advice.measured_share:.3g} % of all tokens (here {100 * advice.share:.3g} %)"
    console.print(Text(f"Measured at {share} on {advice.rests_on}.", style="dim"))
