"""`make-dataset`, `convert`, `data-check` and `train` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from omnisift.cli.app import app
from omnisift.errors import UsageError
from omnisift.training.data import load_samples


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "world"
    result = run("make-dataset", str(folder), "--clips", "2", "--questions", "1", "--json")
    assert json.loads(result.stdout.splitlines()[-1]) == {"folder": str(folder), "clips": 2, "samples": 4}
    return folder


def test_a_data_set_is_made_once(world: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in world.glob("*.mp4")}
    assert run("make-dataset", str(world), "--clips", "3", "--questions", "0").exit_code == 0
    after = {path.name: path.stat().st_mtime_ns for path in world.glob("*.mp4")}
    assert len(after) == 3
    assert before.items() <= after.items()
    assert isinstance(run("make-dataset", str(world / "clip-000000.mp4")).exception, UsageError)


def test_convert_there_and_back(world: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert run("convert", str(world), str(first), "--to", "llava").exit_code == 0
    assert run("convert", str(first), str(second), "--to", "messages").exit_code == 0
    assert load_samples(second) == load_samples(world)
    assert isinstance(run("convert", str(world), str(first)).exception, UsageError)  # never overwritten unasked
    assert run("convert", str(world), str(first), "--force").exit_code == 0
    assert isinstance(run("convert", str(world), str(tmp_path / "c"), "--to", "csv").exception, UsageError)
    assert isinstance(run("convert", str(world), str(tmp_path / "none" / "c")).exception, UsageError)


def test_convert_back_to_a_folder(world: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(world, tmp_path / "copy")
    moved, rows = tmp_path / "copy", tmp_path / "copy" / "rows.jsonl"
    assert run("convert", str(moved), str(rows)).exit_code == 0
    before = [(sample.media, sample.turns) for sample in load_samples(moved)]
    assert isinstance(run("convert", str(rows), str(moved), "--to", "folder").exception, UsageError)
    assert run("convert", str(rows), str(moved), "--to", "folder", "--force").exit_code == 0
    assert [(sample.media, sample.turns) for sample in load_samples(moved)] == before
    (tmp_path / "other").mkdir()
    refused = run("convert", str(rows), str(tmp_path / "other"), "--to", "folder")
    assert "its clip is not in" in str(refused.exception)


def test_data_check_finds_what_would_not_be_learned_from(world: Path, tmp_path: Path) -> None:
    from omnisift.world import make_scene, world_setting, write_clip

    write_clip(make_scene(0, "train", world_setting("silent").config), tmp_path / "silent.mp4")
    write_clip(make_scene(0, "train", world_setting("long").config), tmp_path / "long.mp4")
    (tmp_path / "torn.mp4").write_bytes(b"not a video")
    _tone(tmp_path / "sound.wav")
    names = ["gone.mp4", "torn.mp4", "long.mp4", "silent.mp4", "sound.wav", str(world / "clip-000000.mp4")]
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "blue"}]
    data, clean = tmp_path / "data.jsonl", tmp_path / "clean.jsonl"
    data.write_text("".join(json.dumps({"messages": talk, "videos": [name]}) + "\n" for name in names))
    result = run("data-check", str(data), "--clean", str(clean), "--max-seconds", "10", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    found = {kind: [Path(name).name for name in clips] for kind, clips in report["found"].items() if clips}
    assert found == {
        "missing": ["gone.mp4"],
        "broken": ["torn.mp4"],
        "too long": ["long.mp4"],
        "silent": ["silent.mp4"],
        "no video": ["sound.wav"],
    }
    assert (report["samples"], report["usable"]) == (6, 3)
    assert len(load_samples(clean)) == 3
    shown = run("data-check", str(data))
    assert "missing: 1" in shown.output
    assert "4 of 6 samples can be used" in shown.output


def _tone(path: Path) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((np.sin(np.arange(16000) / 20) * 20000).astype("<i2").tobytes())


def test_train_says_what_it_did(world: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: nano\ndata: {world}\noutput_dir: x\nretain: 0.25\nselector: null\nmax_steps: 1\n")
    out = tmp_path / "run"
    result = run("train", str(recipe), "--out", str(out), "--set", "learning_rate=1.0e-4", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["finished"] is True
    assert report["model"] == str(out / "model")
    assert json.loads((out / "recipe.json").read_text())["learning_rate"] == 1e-4
    assert "tokens kept" in run("train", str(recipe), "--out", str(out), "--set", "learning_rate=1.0e-4").output
    assert isinstance(run("train", str(recipe), "--set", "learning_rate").exception, UsageError)
