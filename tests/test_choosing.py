"""docs/choosing.md recommends what the result files say."""

from __future__ import annotations

import re
from pathlib import Path

from omnisift.evaluation.tables import pct, points
from omnisift.lab.benchmark.choices import (
    INPUTS,
    MEAN,
    RECOMMENDED,
    WORLDS,
    pair_choice,
    pairs_of_base,
    regrets,
    split_choice,
    video_part,
)
from omnisift.lab.benchmark.results import ResultRow, read_result

ROOT = Path(__file__).parents[1]
KINDS = {
    "colour of a shape": "color_of_shape",
    "shape of a colour": "shape_of_color",
    "position": "place",
    "which came last": "order",
    "counting": "count",
    "sound of a shape": "sound_with",
    "colour of what sounds": "color_with_sound",
    "was it heard": "heard",
    "reading a title": "written",
    "hearing a word": "said",
    "which came first": "before",
}
RESULTS = ROOT / "benchmarks" / "results" / "quality"
WIDE = [read_result(RESULTS / f"{name}.jsonl") for name in ("wide", "wide-budgets")]
ROWS = [row for result in WIDE for row in result.rows if row.right is not None]


def accuracy(row: ResultRow, kind: str) -> float:
    return 100 * float(row.by_type[list(row.types).index(kind)])


def smallest(label: str, kind: str, full: float) -> str:
    """The smallest fraction within one point of all tokens for which every larger one is too; ``-`` if none is."""
    rows = sorted((row for row in ROWS if row.label == label and row.percent), key=lambda row: -float(row.percent))
    result = "-"
    for row in rows:
        if full - accuracy(row, kind) > 1 + 1e-9:
            break
        result = f"{float(row.percent) / 100:g}"
    return result


def test_the_table_of_fractions_matches_the_results() -> None:
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    (header,) = re.findall(r"^\| question \|(.+)\|$", text, re.MULTILINE)
    methods = [cell.strip() for cell in header.split("|")][1:]
    every_token = WIDE[0].full("wide")
    for name, kind in KINDS.items():
        line = re.findall(rf"^\| {name} \|(.+)\|$", text, re.MULTILINE)[0]
        full, *cells = [cell.strip() for cell in line.split("|")]
        assert full == f"{accuracy(every_token, kind):.1f}"
        assert cells == [smallest(method, kind, accuracy(every_token, kind)) for method in methods], name


def test_the_recommended_pair_is_compared_with_the_one_chosen_on_validation_clips() -> None:
    results = {name: read_result(RESULTS / f"{name}.jsonl") for name in ("pairs", "pairs-validation")}
    pairs = pairs_of_base(results)
    chosen, ours = pairs[MEAN].chosen, RECOMMENDED
    gap, _ = results["pairs"].difference(pairs[MEAN].test[chosen], pairs[MEAN].test[ours])
    choosing = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    names = [f"`{label.replace(' & ', '+')}`" for label in (ours, chosen)]
    first, second = (pct(pairs[MEAN].test[label].accuracy) for label in (ours, chosen))
    text = " ".join(choosing.split())
    assert f"the best pair is {names[1]}, whose mean accuracy on test clips at 25, 15 and 10 % is {second} %" in text
    assert f"{names[0]} has {first} %. The difference is {points(gap).replace(' (', ' points (')}." in text
    results |= {name: read_result(RESULTS / f"{name}.jsonl") for name in ("wide-pairs", "wide-pairs-validation")}
    wide = in_points(regrets([pair_choice(results, "10")], "wide")[-1])
    assert f"{names[0]} is the better one by {wide}." in text


def test_what_transfers_between_the_worlds_is_what_the_results_say() -> None:
    results = {name: read_result(RESULTS / f"{name}.jsonl") for name in ("pairs", *INPUTS)}
    text = " ".join((ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8").split())
    first, second = (pair_choice(results, kept) for kept in ("25", "10"))
    names = {world: f"`{second[world].chosen.replace(' & ', '+')}`" for world in WORLDS}
    assert first["base"].chosen == first["wide"].chosen == "v_cast & omnipack-I"
    assert "At 25 % both choose `v_cast+omnipack`." in text
    cost = {world: regrets([second], world)[-1] for world in WORLDS}
    assert f"At 10 % `base` chooses {names['base']} and `wide` {names['wide']};" in text
    assert f"the other world costs {in_points(cost['base'])} on `base` and {cost['wide']} on `wide`." in text
    methods = results["splits"].methods
    splits = {kept: {method: split_choice(results, method, kept) for method in methods} for kept in (25, 10)}
    mean = {(kept, world): regrets([*each.values()], world)[-1] for kept, each in splits.items() for world in WORLDS}
    assert f"{in_points(mean[25, 'base'])} at 25 % and {mean[10, 'base']} at 10 % on `base`" in text
    assert f"and {mean[25, 'wide']} and {mean[10, 'wide']} on `wide`." in text
    shares = [regrets([*each.values()], "base", video_part)[-1].split()[0] for each in splits.values()]
    assert f"As a share of the tokens it costs {shares[0]} and {shares[1]} on `base`" in text
    own = [regrets([splits[25]["omnisift"]], world)[-1].split()[0] for world in WORLDS]
    assert f"costs it {own[0]} points on `base` and {own[1]} on `wide`." in text
    assert {choice["wide"].chosen for each in splits.values() for choice in each.values()} == {"19/50", "8/18"}


def in_points(difference: str) -> str:
    """``+0.9 (+0.6 to +1.2)`` with the unit after the number."""
    return difference.replace(" (", " points (")
