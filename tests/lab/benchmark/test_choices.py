"""Choices on validation clips and their accuracy on test clips."""

from __future__ import annotations

import numpy as np
import pytest

from omnisift.lab.benchmark.choices import (
    INPUTS,
    Candidates,
    balance,
    chosen_pair,
    mean_row,
    pair_choice,
    regrets,
    split_choice,
    total,
    transfer,
    video_part,
)
from omnisift.lab.benchmark.recipe import percent
from omnisift.lab.benchmark.results import Result, ResultRow

CLIPS = 40
BASE = [(0.5, 0.1), (0.25, 0.26), (0.25, 0.02), (0.125, 0.1)]
WIDE = [(0.3, 0.06), (0.25, 0.26), (0.12, 0.02), (0.1, 0.1)]
PAIRS = ("stvp & omnisift", "v_cast & divprune", "vidcom2 & pooled")


def row(world: str, label: str, split: tuple[float, float], right: float) -> ResultRow:
    """A row whose first questions of every clip are right."""
    types = 8 if world == "base" else 11
    video, audio = (96, 150) if world == "base" else (600, 150)
    kept = {"video": [round(split[0] * video), video], "audio": [round(split[1] * audio), audio]}
    correct = np.arange(CLIPS * types).reshape(CLIPS, types) < right * CLIPS * types
    return ResultRow(world, label, percent(*split), correct.astype(float), kept)


def result(name: str, world: str, rows: list[ResultRow]) -> Result:
    labels = dict.fromkeys(each.label for each in rows)
    recipe = {"name": name, "settings": [world], "ways": [{"label": label, "group": ""} for label in labels]}
    return Result(recipe, {}, [], rows, {world: CLIPS})


@pytest.fixture
def results() -> dict[str, Result]:
    """Accuracies by candidate; on validation clips of base the first pair wins, everywhere else the second."""
    found = {}
    for world, prefix, splits in (("base", "", BASE), ("wide", "wide-", WIDE)):
        for suffix in ("-validation", ""):
            first = 0.9 if (world, suffix) == ("base", "-validation") else 0.7
            pairs = [
                row(world, label, (rate, rate), value)
                for rate in (0.25, 0.1)
                for label, value in zip(PAIRS[: 3 if world == "base" else 2], (first, 0.8, 0.95), strict=False)
            ]
            found[f"{prefix}pairs{suffix}"] = result(f"{prefix}pairs{suffix}", world, pairs)
            # On base the first split of each total wins, on wide the second.
            values = (0.8, 0.7) if world == "base" else (0.6, 0.9)
            rows = [row(world, "resift", split, values[number % 2]) for number, split in enumerate(splits)]
            found[f"{prefix}splits{suffix}"] = result(f"{prefix}splits{suffix}", world, rows)
    return found


def test_pairs_that_one_world_lacks_are_no_candidates(results):
    choice = pair_choice(results, "25")
    assert {world: list(candidates.test) for world, candidates in choice.items()} == {
        "base": list(PAIRS[:2]),
        "wide": list(PAIRS[:2]),
    }
    assert (choice["base"].chosen, choice["wide"].chosen) == PAIRS[:2]


def test_regret_is_what_the_best_on_test_has_more(results):
    choice = pair_choice(results, "25")
    # The first pair has 70 % on test clips of either world, the second 80 %.
    assert [cell.partition(" ")[0] for cell in regrets([choice], "base")] == ["+10.0", "+0.0", "-10.0"]
    assert [cell.partition(" ")[0] for cell in regrets([choice], "wide")] == ["+10.0", "+0.0", "+10.0"]


def test_a_split_goes_to_the_nearest_ratio_of_the_other_world(results):
    choice = split_choice(results, "resift", 25)
    assert (choice["base"].chosen, choice["wide"].chosen) == ("50/10", "25/26")
    assert choice["wide"].like(choice["base"].test["50/10"], balance).percent == "30/6"
    assert choice["base"].like(choice["wide"].test["25/26"], balance).percent == "25/26"
    assert choice["base"].like(choice["wide"].test["25/26"], video_part).percent == "50/10"
    tenth = split_choice(results, "resift", 10)
    assert tenth["wide"].like(tenth["base"].test["12.5/10"], balance).percent == "10"
    assert [cell.partition(" ")[0] for cell in regrets([choice], "wide")] == ["+30.0", "+0.0", "+30.0"]


def test_balance_and_total():
    assert balance(row("base", "x", (0.25, 0.5), 1)) == 75 / 150 / (24 / 96)
    assert video_part(row("wide", "x", (0.25, 0.5), 1)) == 150 / 225
    assert [total(row("base", "x", split, 1)) for split in BASE] == [25, 25, 10, 10]
    assert [total(row("wide", "x", split, 1)) for split in WIDE] == [25, 25, 10, 10]


def test_the_first_of_equals_is_chosen():
    rows = {name: row("base", name, (0.25, 0.25), 0.5) for name in ("b", "a")}
    assert Candidates(rows, rows, result("x", "base", list(rows.values()))).chosen == "b"


def test_the_mean_of_rows():
    rows = [row("base", name, (0.25, 0.25), right) for name, right in (("a", 0.5), ("b", 1.0))]
    assert mean_row(rows).accuracy == 0.75


def test_sections(results):
    text = chosen_pair(results)
    assert "| 25 % | vidcom2 & pooled | 95.0 |" in text
    assert "| v_cast & divprune | 80.0 | +15.0" in text
    text = transfer(results)
    assert "| resift, 25 % | 50/10 | 25/26 | +10.0" in text
    assert "| pair | 10 % | wide | +10.0" in text


def test_without_results_there_is_no_section(results):
    assert chosen_pair({}) == ""
    for name in (*INPUTS, "pairs"):
        assert transfer({key: value for key, value in results.items() if key != name}) == ""
