"""Result screen of `omnisift distill`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from omnisift.cli.screen import command_name

_LEGEND = (
    "same tokens: share of the tokens that the model's own attention would keep; attention kept: share of that "
    "attention on the kept tokens; rank correlation: of the scores with the attention."
)


def show_agreement(console: Console, report: Mapping[str, Any], skipped: int, folder: Path) -> None:
    """Print how well the selector's choice agrees with the model's attention, compared with untrained choices."""
    clips = report["clips"]
    console.print(f"{clips['taught']} clips for training, {clips['held out']} for evaluation, {skipped} left out")
    for modality, key in (("audio", "agreement"), ("video", "picture")):
        for retain, choices in report.get(key, {}).items():
            console.print(_table(f"{modality}, {100 * float(retain):g} % kept", choices))
    console.print(_LEGEND, style="dim")
    console.print(Text(f"selector: {folder}"), soft_wrap=True)
    console.print(Text(f"Try: {command_name()} ask CLIP QUESTION --selector {folder}"), soft_wrap=True)


def _table(title: str, choices: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(title)
    for head in ("same tokens", "attention kept", "rank correlation"):
        table.add_column(head, justify="right")
    for name, row in choices.items():
        shares = (f"{100 * row[key]:.1f} %" for key in ("overlap", "attention"))
        table.add_row(name, *shares, f"{row['rank']:.2f}")
    return table
