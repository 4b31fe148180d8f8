"""`omnisift bench-quality`, `bench-report` and `methods` as a user meets them."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from omnisift.cli import main
from omnisift.compressors import COMPRESSORS
from omnisift.lab.benchmark.recipe import MethodSpec, RecipeRow
from omnisift.lab.benchmark.run import _folder_name
from omnisift.lab.training import protocol
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS

RECIPE = {
    "name": "tiny",
    "title": "Tiny",
    "protocol": "trained",
    "clips": 2,
    "retain": [0.25],
    "train": {"steps": 1},
    "rows": [{"method": "omnisift", "selector": "cross-time"}, {"method": "dycoke"}, {"method": "evs"},
             {"method": "omnisift", "selector": "cross", "label": "ste", "straight_through": True}],
}  # fmt: skip


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["omnisift", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Sixteen training clips instead of 640, one step of everything."""
    monkeypatch.setattr("omnisift.lab.benchmark.run.SHARD", 16)
    monkeypatch.setattr(protocol, "CLIPS", 16)
    settings = protocol.NanoSettings.small()
    monkeypatch.setattr(protocol, "NanoSettings", lambda: settings)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return tmp_path


def bench(monkeypatch, folder, *more):
    return call(monkeypatch, "bench-quality", folder / "tiny.yaml", "--out", folder / "results", "--work",
                folder / "work", "--workers", 0, "--backbone", nano_path(), "--json", *more)  # fmt: skip


@pytest.mark.slow
def test_a_trained_recipe_from_nothing_and_again(monkeypatch, small, capsys):
    assert bench(monkeypatch, small) == 0
    rows = json.loads(capsys.readouterr().out)["tiny"]
    assert set(rows) == {"base/all tokens", "base/omnisift (cross-time)@25", "base/evs@25", "base/ste@25"}
    lines = (small / "results" / "tiny.jsonl").read_text()
    assert "dycoke can't keep" in lines
    assert bench(monkeypatch, small) == 0
    assert (small / "results" / "tiny.jsonl").read_text() == lines
    assert bench(monkeypatch, small, "--clips", 3) == 0
    assert (small / "results" / "tiny.jsonl").read_text().startswith(lines)
    capsys.readouterr()
    assert call(monkeypatch, "bench-report", "--results", small / "results", "--out", small / "results.md") == 0
    assert "## Tiny" in (small / "results.md").read_text()


def test_a_backbone_of_another_family(monkeypatch, second_backbone, tmp_path, capsys):
    """Clips of the wide family, with its longer audio tokens; what would train the backbone is refused."""
    rows = [{"method": "omnisift", "selector": "selector"}, {"method": "random"}]
    recipe = RECIPE | {"protocol": "training-free", "settings": ["wide"], "clips": 1, "rows": rows}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = ["bench-quality", tmp_path / "tiny.yaml", "--backbone", second_backbone, "--workers", 0, "--json"]
    words += ["--out", tmp_path / "results", "--work", tmp_path / "work"]
    assert call(monkeypatch, *words) == 0
    assert set(json.loads(capsys.readouterr().out)["tiny"]) == {"wide/all tokens", "wide/omnisift (selector)@25",
                                                               "wide/random@25"}  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "results" / "tiny.jsonl").read_text().splitlines()]
    (kept,) = [line["kept"] for line in lines if line.get("row") == "wide/random@25#0"]
    assert (kept["video"][1], kept["audio"][1]) == (600, 78)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    assert call(monkeypatch, *words) == 2
    assert "only Qwen2.5-Omni is trained here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bench-quality", "none.yaml"], "error (UsageError): no recipe at none.yaml"),
        (["bench-quality", "none.yaml", "--backbone", "nowhere"], "error (UsageError): nowhere has no config.json"),
        (["bench-report", "--results", "nowhere"], "error (UsageError): no result files in nowhere"),
        (["bench-report", "--results", ".", "--out", "no/page.md"], "error (UsageError): folder no does not exist"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.jsonl").write_text("")
    assert call(monkeypatch, *words) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith(says)
    assert "\n" not in error


def test_methods_lists_all(monkeypatch, capsys):
    assert call(monkeypatch, "methods", "--json") == 0
    assert set(json.loads(capsys.readouterr().out)) == set(COMPRESSORS)
    assert call(monkeypatch, "methods") == 0
    screen = capsys.readouterr().out
    assert all(name in screen for name in COMPRESSORS)


def test_a_missing_extra_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks/results/quality").mkdir(parents=True)
    (tmp_path / "benchmarks/results/quality/x.jsonl").write_text("")
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr("omnisift.cli.bench_commands.find_spec", lambda name: None)
    assert call(monkeypatch, "bench-report") == 2
    error = capsys.readouterr().err.strip()
    assert "matplotlib" in error
    assert ".[eval]" in error
    assert "\n" not in error


def test_a_trained_model_is_taken_only_for_what_it_was_trained_under():
    def place(way, video=0.25, seed=0):
        return _folder_name(RecipeRow(way, "base", video, 0.25, seed), {})

    way = MethodSpec("evs", label="mine")
    assert place(way) == place(way, seed=1)
    others = [
        place(MethodSpec("vidcom2", label="mine")),
        place(way, video=0.5),
        place(MethodSpec("evs:mode=frame", label="mine")),
    ]
    assert len({place(way), *others}) == 4
    full = MethodSpec("", label="all tokens")
    assert place(full) == place(full, video=0.5)


def test_a_selector_that_was_not_saved_whole_is_no_selector(monkeypatch, small, capsys):
    def broken(self, folder):
        (Path(folder) / "config.json").write_text("{}")
        begun.append(folder)
        raise KeyboardInterrupt

    begun: list[Path] = []

    with monkeypatch.context() as patch:
        patch.setattr(VGAS, "save_pretrained", broken)
        assert bench(monkeypatch, small) == 130
    left = [path.parent.name for path in (small / "work").glob("*/selectors/*/config.json")]
    assert begun
    assert not left
