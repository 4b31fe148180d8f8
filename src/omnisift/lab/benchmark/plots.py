"""Plots of accuracy against the percentage kept, as SVG; they need matplotlib (extra ``eval``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.evaluation.plots import plot_style, save_svg
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.results import Result, ResultRow

if TYPE_CHECKING:
    from omnisift.budget import Budget

SHOWN = (
    *("omnisift+time", "omnisift", "random", "uniform", "salient", "evs"),
    *("divprune", "omnipack-I-attention", "tome", "seats-I", "omnizip-rebounded", "visionzip"),
)
"""Methods with a coloured, labelled line; the others are grey."""


def curves(result: Result) -> dict[str, Any]:
    """Return the data of a plot: the accuracy of all tokens and the lines of each panel, in percent.

    Returns:
        ``full``, an accuracy, and ``panels``: axis title -> label -> [[percent kept, accuracy], ...]. A result in which
        video and audio vary independently has one panel for each.
    """
    pairs = [[float(share) for share in (row.percent.split("/") * 2)[:2]] for row in result.rows if row.percent]
    if all(video == audio for video, audio in pairs):
        panels = {"video and audio tokens kept, %": _lines(result, lambda row: 100 * row.ratio)}
    else:
        video, audio = (max(set(column), key=column.count) for column in zip(*pairs, strict=True))
        panels = {
            f"video tokens kept, % (audio {audio:g} %)": _lines(result, _one_sided("audio", "video", audio)),
            f"audio tokens kept, % (video {video:g} %)": _lines(result, _one_sided("video", "audio", video)),
        }
    full = result.full(result.recipe["settings"][0]).accuracy or 0.0
    return {"full": round(100 * full, 2), "panels": panels}


def _one_sided(fixed: str, varied: str, share: float) -> Callable[[ResultRow], float | None]:
    """Return a function of a row: its percentage of ``varied`` where ``fixed`` is at ``share`` percent, else None."""
    index = ("video", "audio").index(fixed)

    def x(row: ResultRow) -> float | None:
        requested = float((row.percent.split("/") * 2)[:2][index])
        return 100 * row.share(varied) if requested == share else None

    return x


def _lines(result: Result, x: Callable[[ResultRow], float | None]) -> dict[str, list[list[float]]]:
    setting = result.recipe["settings"][0]
    lines: dict[str, list[list[float]]] = {}
    for label in result.methods:
        rows = [row for row in result.rows if row.label == label and row.setting == setting]
        points = [(x(row), row.accuracy) for row in rows]
        lines[label] = sorted(
            [round(at, 2), round(100 * accuracy, 2)]
            for at, accuracy in points
            if at is not None and accuracy is not None
        )
    return lines


def digest(result: Result) -> str:
    """Return 12 hexadecimal digits of a plot's data, which the file holds so that a test can tell when it is stale."""
    return digest_of(curves(result))


def draw(result: Result, path: Path) -> None:
    """Write the plot of ``result`` to ``path``.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    data = curves(result)
    with plot_style():
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        panels = figure.subplots(1, len(data["panels"]), sharey=True, squeeze=False)[0]
        for axes, (title, lines) in zip(panels, data["panels"].items(), strict=True):
            _panel(axes, title, lines, data["full"])
        panels[0].set_ylabel("accuracy, %")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
        save_svg(figure, path, digest(result))


def budget_curves(results: Sequence[Result]) -> dict[str, dict[str, list[list[float]]]]:
    """Return name -> label -> [[percent kept, accuracy], ...], in percent; `ALL_TOKENS` ends every line at 100.

    Args:
        results: Results of several recipes; those with one backbone and setting form a panel.
    """
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for result in results:
        lines = panels.setdefault(str(result.recipe["name"]).removesuffix("-budgets"), {})
        for label, found in _lines(result, lambda row: 100 * row.ratio).items():
            lines[label] = sorted(lines.get(label, []) + found)
    # Only methods that were measured at all budgets have a line.
    longest = {name: max(map(len, lines.values())) for name, lines in panels.items()}
    return {n: {k: v for k, v in lines.items() if len(v) == longest[n]} for n, lines in panels.items()}


def draw_budgets(results: Sequence[Result], path: Path) -> None:
    """Write the plot of accuracy against the percentage kept, one panel for each backbone, to ``path``."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels, full = budget_curves(results), {}
    for result in results:
        full[str(result.recipe["name"])] = 100 * (result.full(result.recipe["settings"][0]).accuracy or 0.0)
    with plot_style():
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        for axes, (name, lines) in zip(figure.subplots(1, len(panels), sharey=True), panels.items(), strict=True):
            axes.axhline(full[name], color="black", linewidth=0.8, linestyle=":", label=ALL_TOKENS)
            colors = iter(mpl.colormaps["tab10"].colors)  # type: ignore[attr-defined]
            for label, points in sorted(lines.items(), key=lambda line: (line[0] != "resift", line[0])):
                x, y = zip(*points, strict=True)
                width = 2.4 if label == "resift" else 1.1
                axes.plot(x, y, marker="o", markersize=3, linewidth=width, label=label, color=next(colors))
            axes.set_xscale("log")
            axes.set_xticks([5, 10, 15, 25, 50], ["5", "10", "15", "25", "50"])
            axes.minorticks_off()
            axes.set_title(name)
            axes.set_xlabel("tokens kept, %")
            axes.spines[["top", "right"]].set_visible(False)
        figure.axes[0].set_ylabel("accuracy, %")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
        save_svg(figure, path, digest_of(panels))


def surface(result: Result, label: str) -> dict[str, Any]:
    """Return ``video`` and ``audio``, the percentages kept, and ``below``: points below all tokens, [video][audio]."""
    setting = result.recipe["settings"][0]
    full = result.full(setting).accuracy or 0.0
    cells = {}
    for row in result.rows:
        if row.label == label and row.percent and row.accuracy is not None:
            halves = (row.percent.split("/") * 2)[:2]
            cells[float(halves[0]), float(halves[1])] = round(100 * (row.accuracy - full), 2)
    cells[100.0, 100.0] = 0.0
    video, audio = (sorted({pair[index] for pair in cells}) for index in (0, 1))
    return {"video": video, "audio": audio, "below": [[cells[v, a] for a in audio] for v in video]}


def draw_surfaces(results: Sequence[Result], label: str, path: Path) -> None:
    """Write the plot of a method's accuracy by the fractions of video and audio kept, one panel for each result."""
    import numpy as np
    from matplotlib.figure import Figure

    from omnisift.budget import Budget

    data = {str(result.recipe["name"]).removeprefix("surface-"): surface(result, label) for result in results}
    with plot_style(8):
        figure = Figure(figsize=(9.0, 3.5), layout="constrained")
        for axes, result, (name, cells) in zip(figure.subplots(1, len(results)), results, data.items(), strict=True):
            video, audio = cells["video"], cells["audio"]
            below = np.array(cells["below"])
            shades = axes.pcolormesh(
                np.arange(len(audio)), np.arange(len(video)), below, vmin=-10, vmax=0, cmap="viridis"
            )
            for row, values in enumerate(below):
                for column, value in enumerate(values):
                    color = "white" if value < -4 else "black"
                    axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=6)
            _totals(axes, result, video, audio, [Budget(retain=total) for total in (0.05, 0.1, 0.15, 0.25, 0.35, 0.5)])
            axes.set_xticks(range(len(audio)), [f"{value:g}" for value in audio])
            axes.set_yticks(range(len(video)), [f"{value:g}" for value in video])
            axes.set_title(name)
            axes.set_xlabel("audio kept, %")
        figure.axes[0].set_ylabel("video kept, %")
        figure.colorbar(shades, ax=figure.axes, label="points below all tokens", shrink=0.8)
        save_svg(figure, path, digest_of(data))


def _totals(axes: Any, result: Result, video: list[float], audio: list[float], budgets: Sequence[Budget]) -> None:
    """Draw the line of equal totals and the default split of each budget."""
    import numpy as np

    kept = result.full(result.recipe["settings"][0]).kept
    n_video, n_audio = (kept[name][1] for name in ("video", "audio"))
    for budget in budgets:
        line = np.geomspace(audio[0], audio[-1], 60)
        rest = (100 * (budget.retain or 0.0) * (n_video + n_audio) - line * n_audio) / n_video
        inside = (rest >= video[0]) & (rest <= video[-1])
        x, y = (np.interp(np.log(values[inside]), np.log(ticks), range(len(ticks)))
                for values, ticks in ((line, audio), (rest, video)))  # fmt: skip
        axes.plot(x, y, color="white", linewidth=0.7)
        split = budget.rates(n_video, n_audio)
        at = [np.interp(np.log(100 * share), np.log(ticks), range(len(ticks)))
              for share, ticks in zip(split, (video, audio), strict=True)]  # fmt: skip
        axes.plot(at[1], at[0], marker="o", markersize=4, color="red")


def digest_of(data: Any) -> str:
    """Return 12 hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]


def _panel(axes: Any, title: str, lines: dict[str, list[list[float]]], full: float) -> None:
    import matplotlib as mpl

    axes.axhline(full, color="black", linewidth=0.8, linestyle=":", label=ALL_TOKENS)
    colors = iter(mpl.colormaps["tab20"].colors)  # type: ignore[attr-defined]
    for label, points in lines.items():
        if not points:
            continue
        x, y = zip(*points, strict=True)
        named = label in SHOWN
        style: dict[str, Any] = {"color": next(colors)} if named else {"color": "0.8", "zorder": 0}
        width = 2.2 if label.startswith("omnisift") else 1.1
        axes.plot(x, y, marker="o", markersize=3, linewidth=width, label=label if named else None, **style)
    axes.set_xlabel(title)
    axes.spines[["top", "right"]].set_visible(False)
