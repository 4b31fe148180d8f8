"""`omnisift calibrate`: a file of scales from clips, a table, and errors of one line that leave nothing behind."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from omnisift import Scales

Omnisift = Callable[..., tuple[int, str, str]]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "questions.txt"
    path.write_text("What is heard?\n", encoding="utf-8")
    return path


def test_a_folder_of_clips_gives_scales_and_a_table(
    omnisift: Omnisift, clip: Path, tmp_path: Path, prompts: Path
) -> None:
    """One of the names is not UTF-8."""
    folder, out = tmp_path / "clips", tmp_path / "scales.safetensors"
    folder.mkdir()
    shutil.copy(clip, folder / os.fsdecode(b"caf\xe9.mp4"))
    code, shown, err = omnisift("calibrate", "nano", "--media", folder, "--prompts", prompts, "-o", out)
    assert code == 0, err
    scales = Scales.load(out)
    assert scales.counts().keys() == {"text", "video", "audio"}
    assert (scales.calibration.model, scales.calibration.compressor, scales.calibration.budget) == (
        "nano",
        "resift",
        "0.25",
    )
    lines = shown.splitlines()
    assert lines[0].startswith("1 clip, resift at 0.25; tokens: ")
    assert lines[1].split() == ["largest", "input", "layers", "text", "video", "audio", "ratio", "channels"]
    down = next(role for role in scales.roles() if role.role == "down_proj")
    expected = [*(f"{value:.1f}" for value in down.largest.values()), f"{down.ratio:.1f}", f"{down.channels:.1f}"]
    assert next(line.split() for line in lines if line.startswith("down_proj")) == ["down_proj", "4", *expected]
    assert f"{scales.verdict()}." in shown
    assert f"{out}: " in lines[-1]


def test_json_of_all_tokens(omnisift: Omnisift, clip: Path, tmp_path: Path, prompts: Path) -> None:
    out = tmp_path / "scales.safetensors"
    options = ("--compressor", "none", "--max-new-tokens", 1, "--json")
    code, shown, err = omnisift("calibrate", "nano", "--media", clip, "--prompts", prompts, "-o", out, *options)
    assert (code, err) == (0, "")
    report = json.loads(shown)
    assert report["tokens"]["video"] == 96  # all of them
    assert report["tokens"]["audio"] == 150
    assert (report["compressor"], report["clips"], report["questions"]) == ("none", [clip.name], 1)
    assert report["verdict"] == Scales.load(out).verdict()
    assert {role["role"] for role in report["roles"]} >= {"q_proj", "down_proj"}


def test_errors_are_one_line_and_leave_nothing(omnisift: Omnisift, clip: Path, tmp_path: Path, prompts: Path) -> None:
    out, empty, noise = tmp_path / "scales.safetensors", tmp_path / "empty", tmp_path / "noise.mp4"
    empty.mkdir()
    noise.write_bytes(b"no media")
    exists = tmp_path / "exists.safetensors"
    exists.write_text("mine", encoding="utf-8")
    wrong: list[tuple[list[object], str]] = [
        (["nano", "--media", clip, "-o", tmp_path / "scales.pt"], "must end in .safetensors"),
        (["nano", "--media", clip, "-o", exists], "add --force"),
        (["nano", "--media", clip, "-o", tmp_path / "no" / "s.safetensors"], "does not exist"),
        (["nano", "--media", empty, "-o", out], "no clips in"),
        (["nano", "--media", tmp_path / "missing", "-o", out], "nothing at"),
        (["nano", "--media", clip, "-o", out, "--prompts", tmp_path / "missing.txt"], "can't read the questions"),
        (["nano", "--media", clip, "-o", out, "--compressor", "x"], "no compressor named 'x'"),
        (["nano", "--media", clip, "-o", out, "--retain", "2"], "retain"),
        (["nano", "--media", clip, "-o", out, "--retain-text", "0.5"], "text='subtitles'"),
        ([tmp_path, "--media", clip, "-o", out], "config.json"),
        (["nano", "--media", noise, "-o", out, "--prompts", prompts], "noise.mp4"),
        (["nano", "-o", out], "Missing option '--media'"),
    ]
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in wrong:
        code, shown, err = omnisift("calibrate", *arguments)
        assert (code, shown) == (2, ""), arguments
        assert message in err
        assert err.strip().splitlines()[-1].startswith("error (")
        assert "Traceback" not in err
        assert sorted(tmp_path.rglob("*")) == before
    assert exists.read_text(encoding="utf-8") == "mine"
