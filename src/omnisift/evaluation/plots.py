"""Accuracy against the share kept, as SVG. Needs the ``eval`` extra (matplotlib)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from omnisift.evaluation.results import Result

SHOWN = (
    *("omnisift+time", "omnisift", "random", "uniform", "salient", "evs"),
    *("divprune", "omnipack-I-attention", "tome", "seats-I", "omnizip-rebounded", "visionzip"),
)
"""Lines that a plot labels; the others are grey."""


def curves(result: Result) -> dict[str, Any]:
    """What a plot shows, as plain data: label -> [[share kept, accuracy], ...] in percent, and all tokens' accuracy."""
    setting = result.recipe["settings"][0]
    lines: dict[str, list[list[float]]] = {}
    for way in result.recipe["ways"]:
        rows = [row for row in result.rows if row.label == way["label"] and row.setting == setting]
        points = [[round(100 * row.ratio, 2), round(100 * row.accuracy, 2)] for row in rows if row.accuracy is not None]
        lines[way["label"]] = sorted(points)
    return {"full": round(100 * (result.full(setting).accuracy or 0.0), 2), "lines": lines}


def digest(result: Result) -> str:
    """12 hexadecimal digits of what a plot shows: written into the file, so that a test can tell when it is stale."""
    return hashlib.sha256(json.dumps(curves(result), sort_keys=True).encode()).hexdigest()[:12]


def draw(result: Result, path: Path) -> None:
    """Write the plot. Raises `ImportError` without matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    data = curves(result)
    with mpl.rc_context({"svg.hashsalt": "omnisift", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        axes = figure.subplots()
        axes.axhline(data["full"], color="black", linewidth=0.8, linestyle=":", label="all tokens")
        colors = iter(mpl.colormaps["tab20"].colors)  # type: ignore[attr-defined]
        for label, points in data["lines"].items():
            if not points:
                continue
            x, y = zip(*points, strict=True)
            named = label in SHOWN
            style: dict[str, Any] = {"color": next(colors)} if named else {"color": "0.8", "zorder": 0}
            width = 2.2 if label.startswith("omnisift") else 1.1
            axes.plot(x, y, marker="o", markersize=3, linewidth=width, label=label if named else None, **style)
        axes.set_xlabel("video and audio tokens kept, %")
        axes.set_ylabel("accuracy, %")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None, "Identifier": digest(result)})
