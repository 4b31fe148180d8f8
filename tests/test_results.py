"""docs/results.md, its CSV files and its plots match the result files, and the results are complete."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from tests.record import saved

from omnisift.lab.benchmark.plots import budget_curves, digest, digest_of, surface
from omnisift.lab.benchmark.recipe import ONLY, load_recipe
from omnisift.lab.benchmark.results import Result, read_result, renamed
from omnisift.lab.benchmark.results_claim import BUDGETS, MAIN, OURS, SURFACES, claim_page
from omnisift.lab.benchmark.results_claim import PAGE as CLAIM
from omnisift.lab.benchmark.results_frames import measured
from omnisift.lab.benchmark.results_page import ORDER, PLOTTED, SHARED, own_page, page
from omnisift.lab.benchmark.results_tables import as_csv, short_table
from omnisift.lab.benchmark.results_wide import PAGE as WIDE
from omnisift.lab.benchmark.results_wide import wide_page
from omnisift.profiling.advice import TABLE

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "results" / "quality"
RESULTS = {path.stem: read_result(path) for path in sorted(FOLDER.glob("*.jsonl"))}
RECORDED = saved.json_of("results.json")
"""Numbers that commit 6229157 read from the result files, and the digest of each file."""
each_result = pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS.keys())


def test_all_recipes_have_a_result() -> None:
    """Every recipe has a result, and every result a page."""
    unmeasured = {"frames-wide60"}  # has no result yet
    assert set(RESULTS) == {*ORDER, *SHARED, *WIDE, *CLAIM, "nano"} - unmeasured
    assert set(RESULTS) == {path.stem for path in (ROOT / "recipes").glob("*.yaml")} - unmeasured


def test_the_pages_match_the_files() -> None:
    for name, text in {"results": claim_page(RESULTS), "more-results": page(FOLDER, ROOT / "recipes")}.items():
        assert (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") == text, "run: omnisift bench-report"


def test_the_page_of_nano_matches_the_files() -> None:
    text = own_page(RESULTS["nano"], ROOT / "recipes", FOLDER.parent / "nano.json")
    assert (ROOT / "docs" / "nano-results.md").read_text(encoding="utf-8") == text, "run: omnisift bench-report"


def test_the_page_of_wide_matches_the_files() -> None:
    text = (ROOT / "docs" / "wide-results.md").read_text(encoding="utf-8")
    assert text == wide_page(RESULTS), "run: omnisift bench-report"


@each_result
def test_csv_files_match_the_files(result: Result) -> None:
    path = ROOT / "docs" / "results" / f"{result.recipe['name']}.csv"
    assert path.read_text(encoding="utf-8") == as_csv(result), "run: omnisift bench-report"


@pytest.mark.parametrize("name", PLOTTED)
def test_plots_match_the_files(name: str) -> None:
    assert digest(RESULTS[name]) in (ROOT / "docs" / "results" / f"{name}.svg").read_text(encoding="utf-8")


def test_plots_of_the_default_match_the_files() -> None:
    data = {
        "budgets": budget_curves([RESULTS[name] for name in (*MAIN, *BUDGETS)]),
        "surface": {name.removeprefix("surface-"): surface(RESULTS[name], OURS) for name in SURFACES},
    }
    for name, values in data.items():
        assert digest_of(values) in (ROOT / "docs" / "results" / f"{name}.svg").read_text(encoding="utf-8")


def test_the_table_of_advise_matches_the_files() -> None:
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    assert table == measured(RESULTS), "run: python -m omnisift.lab.benchmark.results_frames"


def test_the_conclusion_about_frames_holds() -> None:
    """On 20 s the usual sampling is best at every number of tokens, beyond chance."""
    for level in measured(RESULTS)["lengths"][0]["levels"]:
        others = [each for each in level["samplings"] if (each["fps"], each["pixels"]) != (2.0, 1.0)]
        assert len(others) == len(level["samplings"]) - 1
        assert all(each["minus_best"][2] < 0 for each in others), level["tokens"]


def test_the_readme_matches_the_files() -> None:
    assert short_table(FOLDER) in (ROOT / "README.md").read_text(encoding="utf-8"), "copy it from omnisift bench-report"


@each_result
def test_results_are_complete_and_match_the_recipe(result: Result) -> None:
    recipe = load_recipe(ROOT / "recipes" / f"{result.recipe['name']}.yaml")
    assert list(result.methods) == [renamed(method.label) for method in recipe.methods]
    labels = {
        (row.setting, renamed(row.method.label), row.key.partition("#")[0].rpartition("@")[2]) for row in recipe.rows()
    }
    assert len(labels) == len(result.rows)
    assert {label[:2] for label in labels} == {(row.setting, row.label) for row in result.rows}
    assert set(result.clips.values()) == {recipe.clips}


@each_result
def test_methods_kept_the_same_numbers(result: Result) -> None:
    """Every method keeps as many video and audio tokens as the first, except those that move tokens between them."""
    baselines = {f"{only} only" for only in ONLY}
    for row in result.rows:
        if row.right is None or not row.percent or row.label in baselines:
            continue
        ours = result.row(row.setting, next(iter(result.methods)), row.percent)
        assert ours is not None
        assert row.ratio == pytest.approx(ours.ratio, abs=1e-9), row.key
        if row.label.split()[0] not in ("routed", "joint"):
            assert row.share("video") == ours.share("video"), row.key
            assert row.share("audio") == ours.share("audio") or row.setting == "silent", row.key


@each_result
def test_results_were_finished_by_a_clean_commit(result: Result) -> None:
    assert all(session["commit"] for session in result.sessions)
    assert not result.sessions[-1]["changed"], result.sessions[-1]
    assert result.sessions[-1]["minutes"] > 0


@pytest.mark.parametrize("name", RECORDED["quality"])
def test_numbers_are_unchanged(name: str) -> None:
    """Compared row by row in the order of the file, because labels may have changed since."""
    assert list(saved.result_values(RESULTS[name]).values()) == list(RECORDED["quality"][name].values())


def test_result_files_are_unchanged() -> None:
    """A file that is measured again gets its new digest in tests/record/files/results.json, in the same commit."""
    result = {name: sha256((FOLDER.parent / name).read_bytes()).hexdigest() for name in RECORDED["sha256"]}
    assert result == RECORDED["sha256"]
