"""Frames and pixels at equal tokens: the section and the packaged table say what made-up results hold."""

import numpy as np
import pytest

from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_frames import frames_section, measured

CLIPS = 200
ACCURACIES = {  # images per second and pixels -> all tokens, then by tokens
    "wide20 fps=0.5": (0.60, {250: 0.50, 500: 0.55}),
    "wide20": (0.82, {250: 0.60, 500: 0.80}),
    "wide20 fps=4 pixels=19600": (0.70, {250: 0.66, 500: 0.56}),
}


SIZES = {"wide20 fps=0.5": 500, "wide20 fps=4 pixels=19600": 1000, "wide20 fps=4": 4000}


def made_up(name, accuracies):
    """A result of two methods; ``accuracies`` is as above, with the name of a row's budget in place of its tokens."""
    rng = np.random.default_rng(0)
    draws, rows = rng.random((CLIPS, 11)), []
    for setting, (full, by_budget) in accuracies.items():
        size = SIZES.get(setting, 2000)
        kept = {"video": [size * CLIPS] * 2, "audio": [500 * CLIPS] * 2}
        rows.append(ResultRow(setting, "full", "", (draws < full).astype(float), kept))
        for budget, accuracy in by_budget.items():
            percent = budget if isinstance(budget, str) else f"{budget} tokens"
            few = {"video": [30 * CLIPS, size * CLIPS], "audio": [20 * CLIPS, 500 * CLIPS]}
            for label, lead in (("resift", 0.0), ("uniform", -0.2)):
                rows.append(ResultRow(setting, label, percent, (draws < accuracy + lead).astype(float), few))
    ways = [{"label": label, "group": ""} for label in ("resift", "uniform")]
    recipe = {"name": name, "backbone": "wide", "settings": list(accuracies), "ways": ways}
    return Result(recipe, {}, [], rows, dict.fromkeys(accuracies, CLIPS))


@pytest.fixture(scope="module")
def result():
    return made_up("frames-wide20", ACCURACIES)


def test_the_controls_stand_beside_it(result):
    held = {
        "wide20 hold=4": (0.82, {250: 0.60}),
        "wide20": (0.82, {250: 0.61}),
        "wide20 detail=39200": (0.8, {250: 0.5}),
    }
    usual = ACCURACIES["wide20"]
    ruled = made_up("frames-wide20", {"wide20 fps=4": (0.8, {250: 0.3}), "wide20": (usual[0], {250: 0.6})})
    split = made_up("frames-wide20-split", {"wide20 fps=4": (0.8, {"4/16": 0.7})})
    known = made_up("frames-wide20-known", held)
    page = frames_section({"frames-wide20": ruled, "frames-wide20-known": known, "frames-wide20-split": split})
    lines = [line for line in page.splitlines() if line.startswith("| 250 | 30 + 20 | ")]
    assert len(lines) == 1
    assert "| +4" in lines[0] or "| +3" in lines[0]
    assert [line[:16] for line in page.splitlines() if "| 2,000 |" in line][-3:] == [
        "| 0.5 | all | 2,",
        "| 2 | all | 2,00",
        "| 2 | half | 2,0",
    ]
    assert "more audio" not in frames_section({"frames-wide20": result})


def test_the_section_names_the_best_sampling_of_every_budget(result):
    text = " ".join(frames_section({"frames-wide20": result}).split())
    assert "- 20 s, 250 tokens: 4 images per second at a quarter of the pixels is best" in text
    assert "- 20 s, 500 tokens: 2 images per second is best (" in text
    assert text.count("within chance of it: no other.") == 2
    assert "200 test clips of 20 s" in text
    assert "| method, tokens | 0.5 / all | 2 / all | 4 / a quarter |" in text
    assert frames_section({}) == ""


def test_the_table_of_the_package_has_shares_and_differences_from_the_best(result):
    (length,) = measured({"frames-wide20": result})["lengths"]
    assert (length["setting"], length["seconds"], length["clips"], length["backbone"]) == ("wide20", 20, CLIPS, "wide")
    assert [(level["tokens"], level["share"]) for level in length["levels"]] == [(250, 0.1), (500, 0.2)]
    first, usual, small = length["levels"][0]["samplings"]
    assert (first["fps"], first["pixels"], small["pixels"]) == (0.5, 1.0, 0.25)
    assert small["minus_best"] == [0.0, 0.0, 0.0]
    assert usual["minus_best"][0] == pytest.approx(usual["accuracy"] - small["accuracy"], abs=0.011)
    assert usual["minus_best"][1] < usual["minus_best"][0] < usual["minus_best"][2] < 0
