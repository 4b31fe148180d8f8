"""What subtitles are worth: accuracy with sound, with lines of text, and with both. (Half an hour; resumes.)

    python benchmarks/accuracy/subtitles.py --out benchmarks/results/subtitles.json
    python benchmarks/accuracy/subtitles.py --table        # the tables of docs/subtitles.md

The first test clips of ``wide`` as files, read by the backbone that has seen lines (`omnisift.lab.wide_text`), one
question of each type; the first word of an answer counts. All conditions get the same questions and, at a budget, the
same number of tokens of video, sound and lines, so that differences are paired, with intervals over clips. What was
answered about a clip is kept in ``--work``, from which an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import pct, pct_with_interval, points
from omnisift.evaluation.tables import table as markdown
from omnisift.lab.benchmark.plan import tensors_digest
from omnisift.lab.benchmark.subtitles import (
    ALL,
    CONDITIONS,
    METHODS,
    PLAIN,
    SHARES,
    Study,
    budgets_of,
    key_of,
)
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import WIDE_TYPES

BACKBONE, SELECTOR = "wide-text", "wide"
"""Bundled checkpoints: what answers, and whose selector `omnisift` has (the encoders are the same)."""
HEARD = ("said", "heard", "sound_with", "color_with_sound")
"""Types that sound answers."""
GROUPS = {"all types": WIDE_TYPES, **{name: (name,) for name in WIDE_TYPES}, "heard types": HEARD,
          "other types": tuple(name for name in WIDE_TYPES if name not in HEARD)}  # fmt: skip
PAIRS = (
    ("lines", "sound"),
    ("both", "sound"),
    ("both", "lines"),
    ("lines", "neither"),
    ("both, sound pays", "both"),
    ("both, video pays", "both"),
    ("both, sound pays", "both, video pays"),
    ("both, half of the lines", "both"),
    ("wrong lines", "sound"),
    ("both, wrong lines", "sound"),
    ("late lines", "sound"),
    ("both, late lines", "sound"),
    ("both, late lines", "both"),
)
"""Conditions that are compared: the first minus the second."""
NAMES = {
    "neither": "video alone",
    "sound": "sound",
    "lines": "lines",
    "both": "sound and lines",
    "both, sound pays": "sound and lines, sound pays",
    "both, video pays": "sound and lines, video pays",
    "both, half of the lines": "sound and half of the lines",
    "wrong lines": "wrong lines",
    "both, wrong lines": "sound and wrong lines",
    "late lines": "late lines",
    "both, late lines": "sound and late lines",
}
"""Condition -> its name in tables."""
FAULTY = tuple(name for name in CONDITIONS if name.endswith(("wrong lines", "late lines")))
Outcomes = Sequence[dict[str, dict[str, Any]]]
"""For each clip: key -> what `Study.clip` returns."""


def results(outcomes: Outcomes) -> dict[str, Any]:
    """Accuracies of all conditions, and the differences of all pairs, with intervals over clips."""
    bootstrap = ClusterBootstrap(len(outcomes))

    def right(key: str, types: Sequence[str]) -> np.ndarray[Any, Any]:
        places = [WIDE_TYPES.index(name) for name in types]
        return np.array([sum(clip[key]["right"][place] == "1" for place in places) for clip in outcomes])

    def shares(values: dict[str, np.ndarray[Any, Any]]) -> dict[str, list[float]]:
        return {g: _rounded(bootstrap.share(v, np.full(len(outcomes), len(GROUPS[g])))) for g, v in values.items()}

    rows, differences = [], []
    for name in CONDITIONS:
        for method, share in budgets_of(name):
            key = key_of(name, method, share)
            kept = np.mean([clip[key]["kept"] for clip in outcomes], axis=0)
            accuracy = shares({group: right(key, types) for group, types in GROUPS.items()})
            rows.append(
                {"condition": name, "method": method, "share": share, "kept": kept.round(2).tolist(), **accuracy}
            )
    for first, second in PAIRS:
        for method, share in budgets_of(first):
            if (method, share) in budgets_of(second):
                keys = [key_of(name, method, share) for name in (first, second)]
                found = shares({g: right(keys[0], types) - right(keys[1], types) for g, types in GROUPS.items()})
                differences.append({"first": first, "second": second, "method": method, "share": share, **found})
    return {
        "clips": len(outcomes),
        "questions": len(outcomes) * len(WIDE_TYPES),
        "rows": rows,
        "differences": differences,
    }


def _rounded(interval: Interval) -> list[float]:
    """Value and interval, in 0..1."""
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


class Tables:
    """The tables of a result.

    Args:
        result: what `results` returns.
    """

    def __init__(self, result: dict[str, Any]) -> None:
        self.rows = {(row["condition"], row["method"], row["share"]): row for row in result["rows"]}
        self.differences = {(r["first"], r["second"], r["method"], r["share"]): r for r in result["differences"]}

    def accuracy(self, method: str, names: Sequence[str], group: str) -> str:
        """Markdown: accuracy by condition and budget."""
        lines = []
        for name in names:
            cells = [self.rows.get((name, method if share < ALL else "", share)) for share in (ALL, *SHARES)]
            lines.append(
                [NAMES[name], *("-" if cell is None else pct_with_interval(Interval(*cell[group])) for cell in cells)]
            )
        return markdown(["read with", "all tokens", *(f"{100 * share:g} %" for share in SHARES)], lines)

    def difference(self, method: str, pairs: Sequence[tuple[str, str]], group: str) -> str:
        """Markdown: paired differences in points by budget."""
        lines = []
        for first, second in pairs:
            cells = [self.differences.get((first, second, method if s < ALL else "", s)) for s in (ALL, *SHARES)]
            shown = ["-" if cell is None else points(Interval(*cell[group])) for cell in cells]
            lines.append([f"{NAMES[first]} - {NAMES[second]}", *shown])
        return markdown(["difference", "all tokens", *(f"{100 * share:g} %" for share in SHARES)], lines)

    def types(self, method: str, share: float, names: Sequence[str]) -> str:
        """Markdown: accuracy by type at one budget."""
        found = [self.rows[name, method, share] for name in names]
        lines = [[NAMES[r["condition"]], _kept(r), *(pct(r[kind][0]) for kind in WIDE_TYPES)] for r in found]
        return markdown(["read with", "tokens", *(f"`{kind}`" for kind in WIDE_TYPES)], lines)

    def parts(self) -> dict[str, str]:
        """Name of each table of the page -> the table."""
        first, second = METHODS
        return {
            "subtitles": self.accuracy(first, PLAIN, "all types"),
            "subtitles_heard": self.accuracy(first, PLAIN, "heard types"),
            "subtitles_differences": self.difference(first, PAIRS[:4], "all types"),
            "subtitles_rules": self.difference(first, PAIRS[4:8], "all types"),
            "subtitles_types": self.types(first, 0.1, PLAIN),
            "subtitles_wrong": self.accuracy(first, FAULTY, "heard types"),
            "subtitles_wrong_differences": self.difference(first, PAIRS[8:], "heard types"),
            "subtitles_omnisift": self.accuracy(second, PLAIN, "all types"),
        }  # fmt: skip


def _kept(row: dict[str, Any]) -> str:
    """Kept tokens of video, sound and lines: ``45 + 25 + 5``."""
    return " + ".join(f"{count:.0f}" for count in row["kept"])


def main(arguments: list[str] | None = None) -> None:
    """Measure, write one JSON file, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=300, help="clips, from the first of the split")
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/subtitles.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/subtitles.jsonl"), help="what was answered, by clip")
    parser.add_argument("--table", action="store_true", help="print the tables of the result file")
    options = parser.parse_args(arguments)
    if not options.table:
        measure(options)
    for name, table in Tables(json.loads(options.out.read_text(encoding="utf-8"))).parts().items():
        print(f"{name}\n\n{table}\n")


def measure(options: argparse.Namespace) -> None:
    """Answer about the clips that are missing in the working file, and write the result."""
    torch.set_num_threads(1)
    silence_libraries()
    made, backbone = provenance(), bundled_path(BACKBONE)
    about = {"backbone": tensors_digest(backbone), "split": options.split, "commit": made["commit"]}
    options.work.parent.mkdir(parents=True, exist_ok=True)
    file = JsonLines(options.work)
    done = {row["clip"]: row["outcomes"] for _, row in file.records() if row["about"] == about}
    study = Study(backbone, bundled_path(SELECTOR) / "selector")
    for clip in range(options.clips):
        if clip not in done:
            done[clip] = study.clip(clip, options.split)
            file.append({"about": about, "clip": clip, "outcomes": done[clip]})
            if clip % 10 == 9:
                print(f"{clip + 1} of {options.clips} clips", flush=True)
    command = f"python benchmarks/accuracy/subtitles.py --clips {options.clips} --split {options.split}"
    found = results([done[clip] for clip in range(options.clips)])
    write_atomic(options.out, json.dumps({"command": command, **about, **found, **made}, indent=1) + "\n")


if __name__ == "__main__":
    main()
