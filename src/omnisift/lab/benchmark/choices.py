"""What is chosen on validation clips, reported on test clips: of the same world, and of the other one.

Two things are chosen: a pair of methods, and how a fixed number of tokens is shared between video and audio. The
choice is the most accurate candidate on validation clips. Its *regret* is the accuracy of the candidate that is best
on the test clips, minus its own accuracy there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from omnisift.evaluation.tables import pct, pct_with_interval, points, table
from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_tables import csv_links, percents, versions

WORLDS = {"base": "", "wide": "wide-"}
"""Setting -> prefix of the names of its results."""
VALIDATION = "-validation"
"""Suffix of the names of results on validation clips."""
INPUTS = (
    "pairs-validation",
    *(f"{prefix}splits{suffix}" for prefix in WORLDS.values() for suffix in (VALIDATION, "")),
    *(f"wide-pairs{suffix}" for suffix in (VALIDATION, "")),
)
"""Names of the results that only this module reads; `pairs` also has a section of its own."""
TOTALS = (25, 10)
"""Percentages of all tokens at which choices are compared."""
MEAN = "mean"
"""Name of the mean over percentages."""
RECOMMENDED = "v_cast & divprune"
PAPER = "stvp & omnisift"
"""Pairs with which the chosen one is always compared."""

PAIR_TITLE = """### The pair, chosen on validation clips

The most accurate pair on {clips} validation clips, and its accuracy on the test clips above. The difference from each
alternative is paired. The best pair on the test clips was picked on these, so chance makes its lead too large.

"""
TITLE = """## Chosen on one world, tested on the other

Two choices are made on validation clips of `base` (96 video and 150 audio tokens) and of [`wide`](wide.md) (600 and
150), and each is tested on test clips of both: the *pair* of methods among those that both worlds measured, and the
*split* of a fixed total between video and audio. In the other world a split becomes the one whose fraction of audio
divided by its fraction of video is nearest; *by share of tokens*, the one whose kept tokens are most nearly the same
part video.

The cells are the regret in points: the accuracy of the best candidate on the test clips minus that of the chosen one,
with its 95 % interval. The best candidate was picked on the test clips, so chance makes every regret too high, but
not the last column: the choice of the tested world minus that of the other one.

<!-- not run: takes hours -->
```bash
omnisift bench-quality recipes/pairs-validation.yaml recipes/splits-validation.yaml recipes/splits.yaml
omnisift bench-quality recipes/wide-pairs-validation.yaml recipes/wide-pairs.yaml
omnisift bench-quality recipes/wide-splits-validation.yaml recipes/wide-splits.yaml
```

{clips}

"""
SPLITS_TITLE = """
What was chosen. A split is the percentage kept of video / of audio. The last two columns are what the choice of the
other world costs in points, against the choice of the tested world. {shares}

"""


Measure = Callable[[ResultRow], float]
"""What makes splits of two worlds the same."""


@dataclass(frozen=True)
class Candidates:
    """The candidates of one choice in one world."""

    validation: dict[str, ResultRow]
    """Name -> row on validation clips."""
    test: dict[str, ResultRow]
    """Name -> row on test clips; the same names."""
    result: Result
    """The result on test clips, for intervals."""

    @cached_property
    def chosen(self) -> str:
        """Name of the most accurate candidate on validation clips; the first one of equals."""
        return best(self.validation)

    def only(self, names: Set[str]) -> Candidates:
        """Return the candidates with these names."""
        validation, test = ({n: row for n, row in rows.items() if n in names} for rows in (self.validation, self.test))
        return Candidates(validation, test, self.result)

    def like(self, row: ResultRow, measure: Measure) -> ResultRow:
        """Return the test row of the same pair as a row of another world, or of the split of the nearest measure."""
        if row.label in self.test:
            return self.test[row.label]
        return min(self.test.values(), key=lambda mine: abs(math.log(measure(mine) / measure(row))))


Choice = Mapping[str, Candidates]
"""World -> candidates."""


def best(rows: Mapping[str, ResultRow]) -> str:
    """Return the name of the most accurate row; the first one of equals."""
    return max(rows, key=lambda name: rows[name].accuracy or 0.0)


def balance(row: ResultRow) -> float:
    """Return the fraction of audio kept, divided by the fraction of video kept."""
    return row.share("audio") / row.share("video")


def video_part(row: ResultRow) -> float:
    """Return the fraction of the kept tokens that are video."""
    return row.kept["video"][0] / (row.kept["video"][0] + row.kept["audio"][0])


def total(row: ResultRow) -> int:
    """Return the entry of `TOTALS` that is nearest to the percentage of tokens that a row keeps."""
    return min(TOTALS, key=lambda percent: abs(percent - 100 * row.ratio))


def pair_choice(results: Mapping[str, Result], percent: str) -> Choice:
    """Return the candidates of the pair at one percentage: the pairs that all results have."""
    choice = {}
    for world, prefix in WORLDS.items():
        validation, test = results[f"{prefix}pairs{VALIDATION}"], results[f"{prefix}pairs"]
        rows = _by_label(validation, world, percent), _by_label(test, world, percent)
        choice[world] = Candidates(*rows, test)
    shared = set.intersection(*({*each.validation} & {*each.test} for each in choice.values()))
    return {world: each.only(shared) for world, each in choice.items()}


def split_choice(results: Mapping[str, Result], method: str, kept: int) -> Choice:
    """Return the candidates of one method's split at one total."""
    choice = {}
    for world, prefix in WORLDS.items():
        validation, test = results[f"{prefix}splits{VALIDATION}"], results[f"{prefix}splits"]
        rows = _by_split(validation, world, method, kept), _by_split(test, world, method, kept)
        choice[world] = Candidates(*rows, test)
    return choice


def _by_label(result: Result, setting: str, percent: str) -> dict[str, ResultRow]:
    rows = {label: result.row(setting, label, percent) for label in result.methods}
    return {label: row for label, row in rows.items() if row is not None and row.right is not None}


def _by_split(result: Result, setting: str, method: str, kept: int) -> dict[str, ResultRow]:
    rows = {percent: result.row(setting, method, percent) for percent in percents(result)}
    return {p: row for p, row in rows.items() if row is not None and row.right is not None and total(row) == kept}


def regrets(choices: Sequence[Choice], tested: str, measure: Measure = balance) -> list[str]:
    """Return the cells of one line: the mean regret over ``choices`` by the world of choice, and own minus other."""
    mine = [choice[tested] for choice in choices]
    result, best_rows = mine[0].result, [each.test[best(each.test)] for each in mine]
    by_world = {}
    for world in WORLDS:
        chosen = [choice[world].test[choice[world].chosen] for choice in choices]
        # The choice of the tested world is taken as it is, that of the other world is translated.
        if world != tested:
            chosen = [each.like(row, measure) for each, row in zip(mine, chosen, strict=True)]
        by_world[world] = mean_row(chosen)
    other = next(world for world in WORLDS if world != tested)
    gaps = [result.difference(mean_row(best_rows), by_world[world])[0] for world in WORLDS]
    return [points(gap) for gap in (*gaps, result.difference(by_world[tested], by_world[other])[0])]


def mean_row(rows: Sequence[ResultRow]) -> ResultRow:
    """Return a row whose correctness is the mean over ``rows``, question by question."""
    return replace(rows[0], right=np.mean([row.right for row in rows if row.right is not None], axis=0))


def pairs_of_base(results: Mapping[str, Result]) -> dict[str, Candidates]:
    """Return percentage -> all pairs of `base`; under ``mean``, their mean over the percentages."""
    validation, test = results[f"pairs{VALIDATION}"], results["pairs"]
    choices = {
        percent: Candidates(_by_label(validation, "base", percent), _by_label(test, "base", percent), test)
        for percent in percents(test)
    }
    labels = list(next(iter(choices.values())).test)
    means = Candidates(
        {label: mean_row([each.validation[label] for each in choices.values()]) for label in labels},
        {label: mean_row([each.test[label] for each in choices.values()]) for label in labels},
        test,
    )
    return choices | {MEAN: means}


def chosen_pair(results: Mapping[str, Result]) -> str:
    """Return the table of the pair that is chosen on validation clips of `base`; empty without these results."""
    if not {"pairs", f"pairs{VALIDATION}"} <= results.keys():
        return ""
    lines = []
    for percent, rows in pairs_of_base(results).items():
        ranked = sorted(rows.validation, key=lambda label: -(rows.validation[label].accuracy or 0.0))
        others = {RECOMMENDED: "", PAPER: "OmniSIFT", ranked[1]: "second there", best(rows.test): "best on test"}
        own = rows.test[rows.chosen]
        kept, before = percent if percent == MEAN else f"{percent} %", rows.validation[rows.chosen]
        cells = [kept, rows.chosen, pct(before.accuracy), pct_with_interval(rows.result.interval(own))]
        for label, why in others.items():
            if label != rows.chosen:
                title = f"{label} ({why})" if why else label
                gap, _ = rows.result.difference(own, rows.test[label])
                lines.append([*cells, title, pct(rows.test[label].accuracy), points(gap)])
                cells = [""] * len(cells)
    head = ["kept", "chosen", "on validation", "on test", "alternative", "on test", "chosen minus alternative"]
    return PAIR_TITLE.format(clips=results[f"pairs{VALIDATION}"].clips["base"]) + table(head, lines)


def transfer(results: Mapping[str, Result]) -> str:
    """Return the section on choices in one world tested in the other; empty without its results."""
    if not {*INPUTS, "pairs"} <= results.keys():
        return ""
    methods = list(results["splits"].methods)
    pairs = {kept: pair_choice(results, str(kept)) for kept in TOTALS}
    splits = {kept: {method: split_choice(results, method, kept) for method in methods} for kept in TOTALS}
    mean, by_total = f"mean of {len(methods)} methods", {kept: list(each.values()) for kept, each in splits.items()}
    tables = [
        [what, f"{kept} %", tested, *regrets(choices[kept], tested, measure)]
        for what, choices, measure in (
            ("pair", {kept: [choice] for kept, choice in pairs.items()}, balance),
            (f"split, {mean}", by_total, balance),
            (f"split by share of tokens, {mean}", by_total, video_part),
        )
        for kept in TOTALS
        for tested in WORLDS
    ]
    head = ["choice", "kept", "tested on", *(f"chosen on {world}" for world in WORLDS), "own minus other"]
    named = {f"pair, {kept} %": choice for kept, choice in pairs.items()}
    named |= {f"{method}, {kept} %": choice for kept, each in splits.items() for method, choice in each.items()}
    lines = [
        [name, *(choice[world].chosen for world in WORLDS), *(regrets([choice], tested)[-1] for tested in WORLDS)]
        for name, choice in named.items()
    ]
    second = ["choice", *(f"chosen on {world}" for world in WORLDS), *(f"tested on {world}" for world in WORLDS)]
    shares = " ".join(_video_shares(list(each.values()), kept) for kept, each in splits.items())
    title, subtitle = TITLE.format(clips=_clips(results)), SPLITS_TITLE.format(shares=shares)
    return title + table(head, tables) + subtitle + table(second, lines)


def _video_shares(choices: Sequence[Choice], kept: int) -> str:
    """Return a sentence on the fraction of the kept tokens that the chosen splits give to video."""
    ranges = []
    for world in WORLDS:
        shares = [100 * video_part(choice[world].test[choice[world].chosen]) for choice in choices]
        ends = dict.fromkeys(f"{end:.0f}" for end in (min(shares), max(shares)))
        ranges.append(f"{' to '.join(ends)} % on `{world}`")
    return f"At {kept} %, video gets {' and '.join(ranges)} of the kept tokens."


def _clips(results: Mapping[str, Result]) -> str:
    counts = [
        f"{what} of `{world}`, {results[f'{prefix}{what}{VALIDATION}'].clips[world]} and "
        f"{results[f'{prefix}{what}'].clips[world]}"
        for what in ("pairs", "splits")
        for world, prefix in WORLDS.items()
    ]
    last = results[INPUTS[-1]]
    return f"Validation and test clips: {'; '.join(counts)}. {versions(last)}{csv_links(INPUTS)}"
