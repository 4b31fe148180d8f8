"""Plots of accuracy against the percentage kept, as SVG; they need matplotlib (extra ``eval``)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnisift.evaluation.plots import plot_style, save_svg
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.results import Result, ResultRow

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
    return hashlib.sha256(json.dumps(curves(result), sort_keys=True).encode()).hexdigest()[:12]


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
