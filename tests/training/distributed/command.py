"""`omnisift train` on a small world of clips, in one process and in two: what the tests of each launch share."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[3]
STEPS = 3
TOLERANCE = 1e-5
"""Of losses and weights against those of one process (float32)."""


def arguments(world: Path) -> list[str]:
    """A selector and a language model that learn for three steps of two samples, with a checkpoint amid them."""
    given = [
        str(ROOT / "recipes/train/nano.yaml"),
        *("--set", f"data=[{world}]", "--set", "selector=null", "--set", "train_selector=true"),
    ]
    for pair in ("estimator=literal", f"steps={STEPS}", "batch_size=1", "rate=1.0e-3", "save_steps=2"):
        given += ["--set", pair]
    return given


def launch(command: list[str], environment: dict[str, str] | None = None) -> str:
    """What a command says on stdout; it must end well."""
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | (environment or {}),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def torchrun(*command: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command]


def run_alone(world: Path, out: Path) -> None:
    given = [*arguments(world), "--set", "accumulation=2", "--out", str(out)]
    launch([sys.executable, "-m", "omnisift.cli", "train", *given])


def log_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def forget(run: Path, *names: str) -> None:
    """Delete folders of a run, as if it had been killed before they were written."""
    for name in names:
        shutil.rmtree(run / name)


def check_same(run: Path, alone: Path) -> None:
    """The curve and the weights of ``run`` are those of one process, and the selector was seen to learn."""
    found, wanted = log_of(run), log_of(alone)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    for line, other in zip(found, wanted, strict=True):
        assert abs(line["loss"] - other["loss"]) < TOLERANCE
        assert line["selector_grad_norm"] > 0
    for name in ("model.safetensors", "selector/model.safetensors"):
        mine, theirs = load_file(run / "model" / name), load_file(alone / "model" / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[key], theirs[key], rtol=0, atol=TOLERANCE) for key in mine)


def check_learned(run: Path) -> None:
    """Both learned: runs that stood still would be equal too."""
    first, last = (load_file(run / f"checkpoint-{step}/selector/model.safetensors") for step in (2, 3))
    assert any(not torch.equal(first[key], last[key]) for key in first)
    first, last = (load_file(run / f"checkpoint-{step}/language/model.safetensors") for step in (2, 3))
    assert any(not torch.equal(first[key], last[key]) for key in first)
