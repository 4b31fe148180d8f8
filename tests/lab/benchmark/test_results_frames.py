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


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    draws, rows = rng.random((CLIPS, 11)), []
    sizes = dict(zip(ACCURACIES, (500, 2000, 1000), strict=True))
    for setting, (full, by_tokens) in ACCURACIES.items():
        kept = {"video": [sizes[setting] * CLIPS] * 2, "audio": [500 * CLIPS] * 2}
        rows.append(ResultRow(setting, "full", "", (draws < full).astype(float), kept))
        for tokens, accuracy in by_tokens.items():
            for label, lead in (("resift", 0.0), ("uniform", -0.2)):
                right = (draws < accuracy + lead).astype(float)
                rows.append(ResultRow(setting, label, f"{tokens} tokens", right, kept))
    ways = [{"label": label, "group": ""} for label in ("resift", "uniform")]
    recipe = {"name": "frames-wide20", "backbone": "wide", "settings": list(ACCURACIES), "ways": ways}
    return Result(recipe, {}, [], rows, dict.fromkeys(ACCURACIES, CLIPS))


def test_the_section_names_the_best_sampling_of_every_budget(result):
    text = " ".join(frames_section({"frames-wide20": result}).split())
    assert "- 20 s, 250 tokens: best at 4 images per second at a quarter of the pixels" in text
    assert "- 20 s, 500 tokens: best at 2 images per second (" in text
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
