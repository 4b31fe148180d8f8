"""Recipes: those in the repository are whole and name methods that exist; wrong ones are refused in one line."""

from pathlib import Path

import pytest
import yaml

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, make_compressor
from omnisift.errors import BudgetError, UsageError
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.recipe import load_recipe, parse_recipe
from omnisift.lab.training.protocol import selector_config
from omnisift.utils.assets import bundled_path
from omnisift.vgas import VGAS, VGASConfig

RECIPES = sorted((Path(__file__).parents[3] / "recipes").glob("*.yaml"))
SMALL = {
    "name": "small",
    "title": "Small",
    "clips": 4,
    "retain": [0.25, [0.5, 1]],
    "seeds": [0, 1],
    "rows": [{"method": "evs"}, {"method": "random"}],
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_of_the_repository(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert f"omnisift bench-quality recipes/{path.name}" in path.read_text(encoding="utf-8")
    selector = VGAS(VGASConfig(input_size=16, hidden_size=16, num_attention_heads=2))
    for spec in (spec for spec in recipe.methods if not spec.only):
        assert make_compressor(spec.method, Budget(retain=0.5), selector=selector if spec.selector else None)
        if spec.selector and not (bundled_path(recipe.backbone) / spec.selector).is_dir():
            selector_config(spec.selector)


def test_every_method_is_measured_without_training():
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "training-free"))
    own = {name for name, method in COMPRESSORS.items() if method.__module__.startswith("omnisift.")}
    later = {"resift", "gleanvid", "a_pack", "omnifocus"}  # without results yet
    assert {spec.method.partition(":")[0] for spec in recipe.methods} == own - later


def test_entries_that_older_results_lack_are_stored_only_where_they_are_set():
    plain = parse_recipe(SMALL).as_dict()
    assert "backbone" not in plain
    assert "shuffled_video" not in plain["ways"][0]
    rows = [{"method": "evs", "shuffled_video": True}]
    other = parse_recipe({**SMALL, "backbone": "nano", "rows": rows}).as_dict()
    assert (other["backbone"], other["ways"][0]["shuffled_video"]) == ("nano", True)


def test_a_recipe_can_keep_numbers_of_tokens():
    both = parse_recipe(SMALL | {"tokens": [500, 64], "retain": [0.25], "seeds": [0], "rows": [{"method": "evs"}]})
    assert [row.key for row in both.rows()][1:] == ["base/evs@25", "base/evs@500 tokens", "base/evs@64 tokens"]
    assert [row.budget for row in both.rows()][2:] == [Budget(tokens=500), Budget(tokens=64)]
    assert both.as_dict()["tokens"] == (500, 64)
    only = parse_recipe({name: value for name, value in SMALL.items() if name != "retain"} | {"tokens": [500]})
    assert only.retain == ()
    assert "tokens" not in parse_recipe(SMALL).as_dict()
    for wrong in ([0], [0.5], [True], 500, []):
        with pytest.raises((TypeError, ValueError), match="tokens"):
            parse_recipe(SMALL | {"tokens": wrong})


def test_a_recipe_can_tune_on_validation_and_hold_baselines():
    recipe = parse_recipe(SMALL | {"split": "validation", "rows": [{"only": "audio"}, {"method": "evs"}]})
    assert recipe.as_dict()["split"] == "validation"
    assert [row.key for row in recipe.rows()][:3] == [f"base/{ALL_TOKENS}", "base/audio only@25", "base/evs@25"]
    assert parse_recipe(SMALL).split == "test"
    assert "only" not in parse_recipe(SMALL).as_dict()["ways"][0]
    for wrong in ({"split": "train"}, {"rows": [{"only": "smell"}]}, {"rows": [{"only": "audio", "method": "evs"}]}):
        with pytest.raises((UsageError, ValueError)):
            parse_recipe(SMALL | wrong)


def test_rows_are_all_combinations():
    keys = [row.key for row in parse_recipe(SMALL).rows()]
    assert keys == [
        f"base/{ALL_TOKENS}",
        "base/evs@25",
        "base/random@25#0",
        "base/random@25#1",
        "base/evs@50/100",
        "base/random@50/100#0",
        "base/random@50/100#1",
    ]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"rows": [{"method": "evs"}, {"method": "evs"}]}, UsageError, r"two rows have the label 'evs'"),
        ({"settings": ["base fps=4", "base  fps=4.0"]}, UsageError, r"two settings are the same"),
        ({"rows": [{"method": "auto"}]}, UsageError, r"a row names a method, got 'auto'"),
        ({"settings": ["mars"]}, UsageError, r"unknown setting 'mars'; choose one of"),
        ({"protocol": "magic"}, UsageError, r"protocol must be one of training-free, trained, got 'magic'"),
        ({"backbone": "qwen"}, UsageError, r"backbone must be one of neutral, nano, wide, wide-qwen3, got 'qwen'"),
        ({"retain": [1.5]}, BudgetError, r"fraction kept .* got 1\.5"),
        ({"rows": [{"methud": "evs"}]}, UsageError, r"unknown key of a row 'methud'; did you mean 'method'\?"),
        ({"rows": [{"label": "evs"}]}, UsageError, r"not a recipe \('method'\)"),
        ({"speed": 3}, UsageError, r"unknown entry 'speed'"),
        ({"retian": [0.5]}, UsageError, r"unknown entry 'retian'; did you mean 'retain'\?"),
        ({"train": {"step": 3}}, UsageError, r"unknown key of train 'step'; did you mean 'steps'\?"),
        ({"settings": ["bse"]}, UsageError, r"unknown setting 'bse'; .*; did you mean 'base'\?"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(tmp_path, change, error, says):
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **change}), encoding="utf-8")
    with pytest.raises(error, match=says) as caught:
        load_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_is_missing_or_no_recipe(tmp_path):
    with pytest.raises(UsageError, match="no recipe at"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is not a recipe"):
        load_recipe(tmp_path / "list.yaml")
