"""Write docs/estimators.md and its plots from benchmarks/results/estimators.jsonl and estimators_wide.jsonl."""

from __future__ import annotations

import json
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omnisift.estimators import ESTIMATORS
from omnisift.evaluation.tables import table
from omnisift.utils.jsonl import parse_jsonl

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "benchmarks/results/probe.json"
RESULTS, PAGE = ROOT / "benchmarks/results/estimators.jsonl", ROOT / "docs/estimators.md"
WIDE = ROOT / "benchmarks/results/estimators_wide.jsonl"
TEXT = Path(__file__).with_name("estimators_page.md")
"""The page, with `{{name}}` in place of each table."""
NAMES = {
    "distil": "**distillation**", "blind": "distillation, shuffled video", "untrained": "untrained selector",
    "oracle": "oracle: the evidence first", "random": "random audio", "salient": "salient audio",
    "all": "all tokens", "attention": "the model's own attention, on the test clips",
    "resift": "`resift`, audio half, unmerged", "ridge": "ridge, audio alone", "ridge-video": "ridge, with video",
}  # fmt: skip
_PROBE_NAMES = {
    "attention": "attention, all tokens kept", "straight_through, kept only": "`straight_through`, kept tokens alone",
}  # fmt: skip
Line = dict[str, Any]


def read(path: Path = RESULTS) -> list[Line]:
    return [line for _, line in parse_jsonl(renamed(path.read_text(encoding="utf-8")), path)]


def renamed(text: str) -> str:
    """Replace ``literal``, the name in older results, by ``straight_through``."""
    return text.replace("literal", "straight_through")


def spread(values: list[float], scale: float = 100.0) -> str:
    """Mean, and the range where there are several."""
    mean = scale * statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ({scale * min(values):.1f} to {scale * max(values):.1f})"


def accuracy(lines: list[Line], part: str, ways: list[str]) -> str:
    """Accuracy on sound_with, events kept, and mean accuracy, at both ratios."""
    rows = []
    for way in ways:
        runs = [line for line in lines if line.get("part") == part and line.get("way") == way and "0.25" in line]
        if not runs:
            continue
        row = [NAMES.get(way, f"`{way}`"), str(len(runs))]
        for retain in ("0.25", "0.15"):
            row.append(spread([run[retain]["accuracy"]["sound_with"] for run in runs]))
            row.append(spread([run[retain]["kept"]["events"] for run in runs]))
        row.append(spread([run["0.25"]["accuracy"]["mean"] for run in runs]))
        rows.append(row)
    if not rows:
        return "Not measured yet (`python benchmarks/accuracy/estimators.py` continues it)."
    head = ["audio selected by", "seeds", "25 %: sound_with", "events kept", "15 %: sound_with", "events kept",
            "25 %: mean of 8 types"]  # fmt: skip
    return table(head, rows)


def rates(lines: list[Line]) -> str:
    return _by_rate(lines, "rates", lambda line: line["0.15"]["kept"]["events"])


def _by_rate(lines: list[Line], part: str, value: Callable[[Line], float]) -> str:
    result: dict[str, dict[float, float]] = defaultdict(dict)
    for line in lines:
        if line.get("part") == part:
            result[line["way"]][line["rate"]] = value(line)
    tried = sorted({rate for row in result.values() for rate in row})
    rows = [
        [NAMES.get(way, f"`{way}`"), *(f"{100 * row[rate]:.1f}" if rate in row else "-" for rate in tried)]
        for way, row in result.items()
    ]
    return table(["method", *(f"rate {rate:g}" for rate in tried)], rows)


def wide_rates(lines: list[Line]) -> str:
    """Accuracy on questions about sound on validation clips, mean of both ratios."""
    both = ("0.25", "0.1")
    return _by_rate(lines, "tune", lambda line: statistics.mean(line[r]["accuracy"]["audio"] for r in both))


def wide(lines: list[Line]) -> str:
    """Accuracy and events kept on test clips at both ratios, and the time to train."""
    ways = ["all", "oracle", "attention", "resift", "distil", "ridge", "ridge-video", "reinforce", "perturbed",
            "straight_through", "untrained", "salient", "random"]  # fmt: skip
    rows = []
    for way in ways:
        runs = [line for line in lines if line.get("part") == "test" and line.get("way") == way]
        if not runs:
            continue
        row = [NAMES.get(way, f"`{way}`"), str(len(runs))]
        for retain in ("0.25", "0.1"):
            parts = [run if way == "all" else run[retain] for run in runs]
            row += [spread([part["accuracy"][name] for part in parts]) for name in ("audio", "sound_with", "mean")]
            row.append("100.0" if way == "all" else spread([part["kept"]["events"] for part in parts]))
        trained = way in ESTIMATORS or way in ("distil", "ridge", "ridge-video")
        row.append(f"{statistics.median(run['cpu_seconds'] for run in runs):.0f}" if trained else "-")
        rows.append(row)
    measures = ("questions about sound", "sound_with", "all types", "events kept")
    head = [f"{percent} %: {name}" for percent in (25, 10) for name in measures]
    return table(["audio selected by", "seeds", *head, "CPU seconds"], rows)


def cost(lines: list[Line]) -> str:
    seconds: dict[str, list[float]] = defaultdict(list)
    steps = 80
    for line in lines:
        if line.get("part") == "seeds" and "cpu_seconds" in line:
            seconds[line["way"]].append(line["cpu_seconds"] / len(line["loss"]))
            steps = len(line["loss"])
    base = statistics.median(seconds["straight_through"])
    rows = [
        [NAMES.get(way, f"`{way}`"), f"{statistics.median(result):.2f}", f"{statistics.median(result) / base:.1f}"]
        for way, result in sorted(seconds.items(), key=lambda pair: statistics.median(pair[1]))
        if way != "blind"
    ]
    return table(["method", "CPU seconds per step", "times straight_through"], rows) + f"\n{steps} steps per run."


def cosines(lines: list[Line]) -> str:
    runs = [line for line in lines if line.get("part") == "cosine"]
    if not runs:
        return "Not measured."
    names = ["noise", *(name for name in runs[0]["cosine"] if name != "noise")]
    head = ["gradient", *(f"after {run['after']} steps of distillation, seed {run['seed']}" for run in runs)]
    label = {"noise": "the reference, with a second reference"}
    rows = []
    for name in names:
        way, _, progress = name.partition("@")
        text = label.get(name, NAMES.get(way, f"`{way}`") + (", hardened" if progress == "0.8" else ""))
        rows.append([text, *(f"{run['cosine'][name]:+.2f}" for run in runs)])
    return table(head, rows)


def probe() -> str:
    if not PROBE.is_file():
        return "Not measured yet (`benchmarks/accuracy/probe.py`)."
    result = json.loads(renamed(PROBE.read_text(encoding="utf-8")))
    rows = []
    for name in result["prompts"][0]:
        way, _, progress = name.partition("@")
        text = _PROBE_NAMES.get(name, f"`{way}`" + (", hardened" if progress == "0.8" else ""))
        values = [run[name] for run in result["prompts"]]
        rows.append([text, f"{statistics.mean(values):+.2f}", f"{min(values):+.2f} to {max(values):+.2f}"])
    made = f"{len(result['prompts'])} prompts, {result['layers']} layers; commit {result['commit'][:7]}, "
    made += f"torch {result['torch']}"
    return table(["gradient", "rank correlation with the benefit", "over prompts"], rows) + f"\n{made}."


def kinds() -> str:
    return table(["name", "the gradient"], [[f"`{name}`", kind.gradient] for name, kind in ESTIMATORS.items()])


def session(lines: list[Line]) -> str:
    first = next(line["session"] for line in lines if "session" in line)
    versions = first.get("versions", first)
    parts = [f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions]
    commit = str(first.get("commit", "unknown"))[:7]
    return f"commit {commit}, {', '.join(parts)}, changed files: {str(first.get('changed', False)).lower()}"


def draw(lines: list[Line], folder: Path) -> None:
    """Write two plots: every seed as a dot, and the loss of every step."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "omnisift"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    ways = [*ESTIMATORS, "distil", "untrained"]
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    levels = {way: next(line for line in lines if line.get("part") == "seeds" and line.get("way") == way)
              for way in ("random", "salient", "oracle")}  # fmt: skip
    for axis, retain in zip(axes, ("0.25", "0.15"), strict=True):
        for index, way in enumerate(ways):
            runs = [line for line in lines if line.get("part") == "seeds" and line.get("way") == way]
            axis.plot(
                [index] * len(runs), [100 * run[retain]["accuracy"]["sound_with"] for run in runs], "o", alpha=0.6
            )
        for way, line in levels.items():
            level = 100 * line[retain]["accuracy"]["sound_with"]
            axis.axhline(level, color="grey", lw=0.8, ls="--")
            axis.text(1.01, level, way, fontsize=7, va="center", transform=axis.get_yaxis_transform())
        axis.set_xticks(range(len(ways)), ways, rotation=40, ha="right")
        axis.set_title(f"{100 * float(retain):g} % kept")
    axes[0].set_ylabel("sound_with, %")
    figure.tight_layout()
    figure.savefig(folder / "seeds.svg", metadata={"Date": None})
    figure, axis = pyplot.subplots(figsize=(7, 3.6))
    for way in [*ESTIMATORS, "distil"]:
        runs = [line["loss"] for line in lines if line.get("part") == "seeds" and line.get("way") == way]
        mean = [statistics.mean(values) for values in zip(*runs, strict=True)]
        smooth = [statistics.mean(mean[max(0, i - 4) : i + 5]) for i in range(len(mean))]
        axis.plot([math.log10(max(value, 1e-4)) for value in smooth], label=way)
    axis.set_xlabel("step")
    axis.set_ylabel("log10 of the loss of each method")
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figure.tight_layout()
    figure.savefig(folder / "loss.svg", metadata={"Date": None})


def page(lines: list[Line], on_wide: list[Line]) -> str:
    every = ["oracle", "distil", "blind", *ESTIMATORS, "untrained", "salient", "random"]
    full = next(line for line in lines if line.get("part") == "seeds" and line.get("way") == "all")["accuracy"]
    tables = {
        "kinds": kinds(),
        "session": session(lines),
        "all": f"{100 * full['sound_with']:.1f} % of sound_with, {100 * full['mean']:.1f} % on average",
        "seeds": accuracy(lines, "seeds", every),
        "exact": accuracy(lines, "exact", every),
        "joint": accuracy(lines, "joint", every),
        "rates": rates(lines),
        "cost": cost(lines),
        "cosines": cosines(lines),
        "probe": probe(),
        "wide": wide(on_wide),
        "wide-rates": wide_rates(on_wide),
        "wide-session": session(on_wide[::-1]),
    }
    text = TEXT.read_text(encoding="utf-8")
    for name, value in tables.items():
        text = text.replace("{{" + name + "}}", value.rstrip("\n"))
    return text


def main() -> None:
    lines = read()
    draw(lines, PAGE.with_suffix(""))
    PAGE.write_text(page(lines, read(WIDE)), encoding="utf-8")
    sys.stdout.write(f"{PAGE.relative_to(ROOT)}: written\n")


if __name__ == "__main__":
    main()
