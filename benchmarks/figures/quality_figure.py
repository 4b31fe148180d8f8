"""Plot accuracy over the share of tokens kept, for a few methods of the committed results, as SVG.

    python benchmarks/figures/quality_figure.py docs/figures/quality.svg

docs/results.md has all methods with intervals and tests. Needs the extra ``eval`` (matplotlib).
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure

from omnisift.evaluation.plots import plot_style, save_svg
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.plots import curves, digest
from omnisift.lab.benchmark.results import Result, read_result

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "quality" / "training-free.jsonl"
SHOWN = {
    "omnisift+time": ("#0b66c3", 2.6),
    "omnipack-I-attention": ("#0f766e", 1.4),
    "v_cast": ("#7c3aed", 1.4),
    "tome": ("#a16207", 1.4),
    "random": ("#6b7280", 1.4),
    "uniform": ("#c2410c", 1.4),
}
"""Label -> (colour, width) of its line."""


def main(path: Path) -> None:
    """Write the figure to ``path``."""
    result = read_result(RESULT)
    with plot_style(font_size=10):
        save_svg(compose(result), path, digest(result))


def compose(result: Result) -> Figure:
    """One panel; each line is labelled at its left end, and labels do not overlap."""
    data = curves(result)
    ((title, lines),) = data["panels"].items()
    figure = Figure(figsize=(7.5, 4.2), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.axhline(data["full"], color="black", linewidth=0.9, linestyle=":")
    axes.text(50, data["full"] + 0.6, f"{ALL_TOKENS}, {data['full']:.1f} %", ha="right", va="bottom", color="black")
    for label, (color, width) in SHOWN.items():
        share, accuracy = zip(*lines[label], strict=True)
        axes.plot(share, accuracy, color=color, linewidth=width, marker="o", markersize=3.5, clip_on=False)
    ends = {label: lines[label][0] for label in SHOWN}
    for label, height in _spread({label: end[1] for label, end in ends.items()}, 3.2).items():
        left = min(end[0] for end in ends.values())
        weight = "bold" if label.startswith("omnisift") else "normal"
        axes.text(left - 1, height, label, ha="right", va="center", color=SHOWN[label][0], fontweight=weight)
    axes.set_xlim(8, 52)
    axes.set_xlabel(title)
    axes.set_ylabel("accuracy, %")
    axes.yaxis.set_label_position("right")
    axes.yaxis.tick_right()
    axes.spines[["top", "left"]].set_visible(False)
    return figure


def _spread(heights: dict[str, float], min_distance: float) -> dict[str, float]:
    """The same heights, moved up where two are closer than ``min_distance``."""
    placed: dict[str, float] = {}
    for label, height in sorted(heights.items(), key=lambda item: item[1]):
        placed[label] = max([height, *(other + min_distance for other in placed.values())])
    return placed


if __name__ == "__main__":
    main(Path(sys.argv[1]))
