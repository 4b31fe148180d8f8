"""The example with Ray Data's vLLM processor gives the answers of the pipeline, and names the broken file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from omnisift.pipeline import load
from omnisift.world import make_scene, write_clip

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
EXAMPLE = Path(__file__).parents[2] / "examples" / "serving" / "ray_data.py"
QUESTION = "what sound comes with the red shape ?"


def test_answers_are_those_of_the_pipeline(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    clips.mkdir()
    for seed in range(3):
        write_clip(make_scene(seed, split="test"), clips / f"{seed}.mp4")
    (clips / "broken.mp4").write_bytes(b"not a video")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(clips), QUESTION],
        env=os.environ | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    # As a full model nano is any checkpoint that has a selector.
    pipeline = load("nano", compressor="omnisift", retain=0.25)
    answers = [pipeline.ask(clips / f"{seed}.mp4", QUESTION) for seed in range(3)]
    expected = [
        f"{seed}.mp4  {answer.text}  ({answer.report.tokens.prompt_kept} tokens read)"
        for seed, answer in enumerate(answers)
    ]
    lines = done.stdout.splitlines()
    assert [line for line in lines if "tokens read" in line] == expected
    assert next(line for line in lines if "LOOK" in line).startswith("broken.mp4  LOOK: ")
    assert len(lines) == 4
