"""Plots of the score against the percentage kept, one panel per benchmark, as SVG (extra ``eval``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisift.evaluation.public.metadata import BENCHMARKS
from omnisift.evaluation.public.report import Line
from omnisift.utils.atomic_io import atomic_file


def draw(lines: Sequence[Line], path: Path) -> None:
    """Write the plot; bars are one standard error, and runs without a score are left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    scored = [line for line in lines if line.value is not None]
    names = list(dict.fromkeys(str(line.run.settings["benchmark"]) for line in scored)) or [""]
    with mpl.rc_context({"svg.hashsalt": "omnisift", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(3.6 * len(names) + 1.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _panel(axes, name, [line for line in scored if line.run.settings["benchmark"] == name])
        with atomic_file(path) as unfinished:
            figure.savefig(unfinished, format="svg", metadata={"Date": None})


def _panel(axes: Any, benchmark: str, lines: Sequence[Line]) -> None:
    methods: dict[str, list[Line]] = {}
    for line in lines:
        settings = line.run.settings
        label = "all tokens" if line.run.is_full else str(settings["compressor"])
        methods.setdefault(f"{settings['model']}, {label}", []).append(line)
    for label, benchmark_lines in methods.items():
        kept = [100 * (line.run.kept_together or 1.0) for line in benchmark_lines]
        values = [100 * (line.value or 0.0) for line in benchmark_lines]
        errors = [100 * (line.error or 0.0) for line in benchmark_lines]
        axes.errorbar(kept, values, errors, marker="o", markersize=4, linewidth=1.2, capsize=2, label=label)
    axes.set_title(BENCHMARKS[benchmark].title if benchmark else "no scores")
    axes.set_xlabel("video and audio tokens kept, %")
    wrong = bool(lines) and not lines[0].run.is_choice
    axes.set_ylabel("events missed or incorrect, %" if wrong else "accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    if methods:
        axes.legend(frameon=False, fontsize=7)
