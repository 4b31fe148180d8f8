"""Wrong recipes, data and run folders: one line with the file's name, before a model is loaded."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.helpers.broken_folders import set_value
from tests.helpers.wrong_recipes import BENCH, BENCH_VALUES, DATA, MUST_FAIL, ROWS, TORN, train_values

from omnisift.cli import train_commands
from omnisift.errors import CheckpointError, OmniSiftError, UsageError
from omnisift.lab.benchmark.recipe import load_recipe
from omnisift.training.data import load_samples
from omnisift.training.finetune import checkpoints, fine_tune
from omnisift.training.finetune import run as training_run
from omnisift.training.finetune.recipe import load_train_recipe

GOOD = {"model": "nano", "data": ["x"], "output_dir": "y", "retain": 0.25, "max_steps": 2, "selector": None}
CASES = [(key, value) for key, values in train_values().items() for value in values]


def refused(call: Callable[[], Any], name: str = "") -> OmniSiftError | None:
    """The error of ``call`` if it is one line that names the file; None if there is none."""
    try:
        call()
    except OmniSiftError as error:
        text = str(error)
        assert "\n" not in text
        assert len(text) < 1500
        assert name in text
        text.encode()
        return error
    return None


def written(folder: Path, values: dict[str, Any]) -> Path:
    """A recipe file. JSON is YAML too, and writes what YAML can't, but not NaN."""
    path = folder / "recipe.yaml"
    text = json.dumps(values) if _plain(values) else yaml.safe_dump(values)
    path.write_text(text, encoding="utf-8")
    return path


def _plain(values: Any) -> bool:
    text = json.dumps(values)
    return not any(word in text for word in ("NaN", "Infinity"))


@pytest.mark.parametrize("name", TORN)
def test_a_torn_recipe_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(TORN[name])
    assert refused(lambda: load_train_recipe(path), "recipe.yaml")
    assert refused(lambda: load_recipe(path), "recipe.yaml")


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda value: ascii(value)[:30])
def test_wrong_values_of_a_training_recipe(key: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, GOOD | {key: value} | ({"max_steps": None} if key == "num_train_epochs" else {}))
    error = refused(lambda: load_train_recipe(path))
    shown = str(value) if isinstance(value, float) and not math.isfinite(value) else value
    if not isinstance(shown, (list, dict)) and (key, shown) in MUST_FAIL:
        assert error is not None
        assert key in str(error)


BENCH_CASES = [(key, value) for key, values in BENCH_VALUES.items() for value in values]


@pytest.mark.parametrize(("key", "value"), BENCH_CASES, ids=lambda value: ascii(value)[:30])
def test_wrong_values_of_a_benchmark_recipe(key: str, value: Any, tmp_path: Path) -> None:
    path = written(tmp_path, BENCH | {key: value})
    assert refused(lambda: load_recipe(path), "recipe.yaml")


@pytest.mark.parametrize("text", ["[" * 50_000, "9" * 5000, "'", "!!python/name:os.system", "2020-99-99", "&a [*a"])
def test_values_of_the_command_line(text: str) -> None:
    assert refused(lambda: train_commands.overrides([f"seed={text}"]), "--set seed")


@pytest.mark.parametrize(
    "name", ["nothere.yaml", "x" * 5000, "a\0b", "\ud800", ".", "/proc/kmsg", "/dev/null"], ids=lambda name: name[:10]
)
def test_paths_of_recipes_and_data(name: str) -> None:
    for load in (load_train_recipe, load_recipe, load_samples):
        assert refused(lambda load=load: load(Path(name)))


# --- training data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
def test_wrong_data_is_one_line_with_the_place(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n" * (not name.startswith("list")) + DATA[name])
    error = refused(lambda: load_samples(path), "data.jsonl")
    assert error is not None
    if name.startswith("row") and name != "row:list":  # a file that begins with a bracket is a list of rows
        assert "data.jsonl:2" in str(error)


@pytest.mark.parametrize("name", ["begins-with-assistant", "assistant-alone", "role-list"])
def test_data_check_refuses_what_would_end_a_training(name: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(ROWS[name]), encoding="utf-8")
    with pytest.raises(UsageError, match=r"data\.jsonl:1: "):
        train_commands.data_check(path)


def test_a_conversation_that_begins_with_a_system_turn_stays_legal(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "assistant", "content": "Yes."}]
    (tmp_path / "data.jsonl").write_text(json.dumps({"messages": turns}), encoding="utf-8")
    assert len(load_samples(tmp_path / "data.jsonl")) == 1


# --- the folder of a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on text alone, with checkpoints 1 and 2."""
    folder = tmp_path_factory.mktemp("run")
    row = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "blue"}]}
    (folder / "data.jsonl").write_text(f"{json.dumps(row)}\n" * 4, encoding="utf-8")
    fine_tune(settings(folder, folder / "out", 2))
    return folder


def settings(folder: Path, out: Path, steps: int) -> Any:
    values = {"language": "lora", "save_steps": 1, "data": [str(folder / "data.jsonl")], "compressor": "uniform"}
    return load_train_recipe(
        written(folder, GOOD | values | {"output_dir": str(out), "max_steps": steps, "selector": None})
    )


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "recipe-torn": lambda run: (run / "recipe.json").write_text('{"model": "na'),
    "recipe-list": lambda run: (run / "recipe.json").write_text("[]"),
    "recipe-deep": lambda run: (run / "recipe.json").write_text("[" * 100_000),
    "recipe-binary": lambda run: (run / "recipe.json").write_bytes(b"\xff\xfe\x00"),
    "recipe-empty": lambda run: (run / "recipe.json").write_text(""),
    "recipe-digits": lambda run: (run / "recipe.json").write_text('{"seed": ' + "9" * 5000 + "}"),
    "log-list": lambda run: (run / "log.jsonl").write_text("[]\n"),
    "log-text": lambda run: (run / "log.jsonl").write_text("hello\n"),
    "log-step": lambda run: (run / "log.jsonl").write_text('{"step": "x"}\n'),
    "log-loss": lambda run: (run / "log.jsonl").write_text('{"step": 1, "loss": "x"}\n'),
    "log-deep": lambda run: (run / "log.jsonl").write_text("[" * 100_000 + "\n"),
    "adapter-bytes": lambda run: _flip(run / "checkpoint-2" / "adapter" / "adapter_model.safetensors"),
    "optimizer-bytes": lambda run: _flip(run / "checkpoint-2" / "optimizer.pt"),
    "state-bytes": lambda run: _flip(run / "checkpoint-2" / "trainer_state.json"),
    "random-bytes": lambda run: _flip(run / "checkpoint-2" / "rng_state.pth"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_one_line(name: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = copied(finished, tmp_path)
    DAMAGE[name](run)
    monkeypatch.setattr(training_run, "build", lambda *_: pytest.fail("the model was loaded"))
    recipe = settings(finished, run, 3)
    file = {"recipe": "recipe.json", "log": "log.jsonl"}.get(name.partition("-")[0], "checkpoint-2")
    assert refused(lambda: fine_tune(recipe), file)


def copied(finished: Path, target: Path) -> Path:
    run = Path(shutil.copytree(finished / "out", target / "run"))
    set_value(run / "recipe.json", "output_dir", str(run))
    return run


@pytest.mark.parametrize("content", ["[]", "{}", "3", "null", '"x"', '{"a": []}', '{"a": "x"}', "", "[" * 100_000])
def test_a_marker_that_is_none_makes_a_checkpoint_incomplete(content: str, finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    (run / "checkpoint-2" / checkpoints.MARKER).write_text(content, encoding="utf-8")
    assert not checkpoints.is_complete(run / "checkpoint-2")
    assert checkpoints.newest_checkpoint(run) == run / "checkpoint-1"


def test_a_copy_of_a_checkpoint_under_another_name_is_left_alone(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    for name in ("checkpoint-best", "checkpoint-2 copy", "checkpoint-"):
        (run / name).mkdir()
        (run / name / "notes.txt").write_text("mine")
    assert checkpoints.newest_checkpoint(run) == run / "checkpoint-2"
    assert (run / "checkpoint-best" / "notes.txt").read_text() == "mine"


def test_markers_of_earlier_versions_hold_sizes_alone(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path) / "checkpoint-2"
    marker = folder / checkpoints.MARKER
    marker.write_text(json.dumps({name: size for name, (size, _) in json.loads(marker.read_text()).items()}))
    assert checkpoints.is_complete(folder)
    checkpoints.check_seals(folder)
    _flip(folder / "optimizer.pt")
    checkpoints.check_seals(folder)  # the size alone says nothing


def test_after_a_damaged_checkpoint_is_deleted_the_run_resumes(finished: Path, tmp_path: Path) -> None:
    run = copied(finished, tmp_path)
    _flip(run / "checkpoint-2" / "optimizer.pt")
    with pytest.raises(CheckpointError, match=rf"optimizer\.pt holds other bytes than were written; delete {run}"):
        fine_tune(settings(finished, run, 3))
    shutil.rmtree(run / "checkpoint-2")
    assert fine_tune(settings(finished, run, 3)).steps == 3
