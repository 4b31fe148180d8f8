"""`omnisift run --engine vllm`, as a command: the rows of the Transformers engine, after a kill, and over Ray.

``nox -s vllm`` runs this in the environment that has vLLM.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.batch.fakes import rows
from tests.inspector.media_files import write_audio

from omnisift.world import SETTINGS, make_scene, write_clip
from omnisift.world.dataset import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
OPTION = "; --compress-audio (compress_audio=True) compresses it"
"""End of a notice where the engine can compress plain audio."""
FLAGS = ("--", "--enforce-eager", "--block-size", "32", "--max-model-len", "160")
"""Too short for the long clip, even compressed."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips, an audio file, a broken file, and a long clip."""
    folder = tmp_path_factory.mktemp("run") / "clips"
    write_dataset(folder, 4, 0, 2, lambda: None)
    (folder / "bad.mp4").write_bytes(b"not a video")
    write_audio(folder / "tone.wav")
    write_clip(make_scene(0, split="test", config=SETTINGS["long"].config), folder / "long.mp4")
    return folder


@pytest.fixture(scope="module")
def rules(folder: Path) -> Path:
    """Two questions for each clip."""
    path = folder.parent / "rules.txt"
    path.write_text("buzz: is there a buzz ?\nshapes: how many shapes are there ?\n")
    return path


def command(folder: Path, rules: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "omnisift.cli", "run", str(folder), "--task", "moderate", "--rules", str(rules),
            "--out", str(out), *more]  # fmt: skip


def environment() -> dict[str, str]:
    return os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


def go(folder: Path, rules: Path, out: Path, *more: str) -> list[dict]:
    done = subprocess.run(
        command(folder, rules, out, *more), env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return rows(out)


@pytest.fixture(scope="module")
def expected(folder: Path, rules: Path) -> dict[str, dict]:
    """The rows of the Transformers engine."""
    written = go(folder, rules, folder.parent / "transformers.jsonl")
    return {row["id"]: row | {"seconds": 0} for row in written}


def check(result: list[dict], expected: dict[str, dict]) -> None:
    """The rows are equal except for times, an option and held prompts, which vLLM lacks; the long clip is too long."""
    assert any(OPTION in notice for notice in expected["tone.wav"]["notices"])
    assert sorted(row["id"] for row in result) == sorted(expected)
    for row in result:
        if row["id"] == "long.mp4":
            assert row["error"]["type"] == "TooBig"
            assert "--max-model-len" in row["error"]["message"]
        else:
            wanted = expected[row["id"]]
            if "error" not in wanted:
                counts = {name: count for name, count in wanted["tokens"].items() if name != "prompt_cached"}
                notices = [notice.removesuffix(OPTION) for notice in wanted["notices"]]
                wanted = wanted | {"notices": notices, "tokens": counts}
            assert row | {"seconds": 0} == wanted
            assert row["seconds"]["total"] > 0
    assert "hits" in expected["tone.wav"]
    assert expected["bad.mp4"]["error"]["type"] == "NotMedia"


def test_killed_in_between_the_rows_are_those_of_transformers(
    folder: Path, rules: Path, expected: dict[str, dict], tmp_path: Path
) -> None:
    out, options = tmp_path / "a.jsonl", ("--engine", "vllm", "--batch-size", "3", *FLAGS)
    process = subprocess.Popen(command(folder, rules, out, *options), env=environment(), stderr=subprocess.DEVNULL)
    until = time.monotonic() + 400
    while not (out.exists() and out.read_bytes().count(b"\n") >= 1):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until, "no row in 400 s"
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 1 <= len(out.read_bytes().splitlines()) < len(expected)
    result = go(folder, rules, out, *options)
    check(result, expected)
    assert [row["id"] for row in result] == list(expected), "in the order of the folder"


def test_a_question_that_no_prompt_can_hold_is_a_row_among_others(folder: Path, tmp_path: Path) -> None:
    """The other clips of the batch are answered, where the run has begun; before, the question is refused."""
    names = [f"clip-{number:06d}.mp4" for number in range(3)]
    texts = ["what shape is it ?", "what is <|VIDEO|> ?", "how many shapes are there ?"]
    source, asked = folder / "three.txt", tmp_path / "questions.jsonl"
    source.write_text("\n".join(names))
    pairs = zip(names, texts, strict=True)
    asked.write_text("\n".join(json.dumps({"clip": name, "question": text}) for name, text in pairs))
    options = ("--task", "qa", "--questions", str(asked), "--engine", "vllm", "--batch-size", "3", *FLAGS)
    line = [sys.executable, "-m", "omnisift.cli", "run", str(source), "--out", str(tmp_path / "a.jsonl"), *options]
    refused = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr[-3000:]
    (tmp_path / "a.jsonl").touch()
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [row.get("error", {}).get("type") for row in rows(tmp_path / "a.jsonl")] == [None, "UsageError", None]


def test_over_ray(folder: Path, rules: Path, expected: dict[str, dict], tmp_path: Path) -> None:
    check(
        go(folder, rules, tmp_path / "a.jsonl", "--engine", "vllm", "--ray", "local", "--workers", "1", *FLAGS),
        expected,
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--device", "cuda"), "runs on cpu"),
        (("--device", "cpu:1"), "runs on cpu"),
        (("--", "--no-such-flag"), "--no-such-flag"),
        (("--compressor", "visionzip"), "vLLM's encoders"),
        (("--", "--max-model-len", "3000000"), "max_model_len (3000000)"),
    ],
)
def test_what_is_refused_at_the_start(
    folder: Path, rules: Path, tmp_path: Path, more: tuple[str, ...], message: str
) -> None:
    out = tmp_path / "a.jsonl"
    done = subprocess.run(
        command(folder, rules, out, "--json", "--engine", "vllm", *more),
        env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    output = [line for line in done.stderr.splitlines() if line.startswith("error (")]
    assert len(output) == 1
    assert message in output[0]
    assert not out.exists()
    assert json.loads(done.stdout or "null") is None
