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
        *("--set", f"data=[{world / 'data.jsonl'}]", "--set", "selector=null", "--set", "train_selector=true"),
    ]
    for pair in (
        "estimator=straight_through",
        f"max_steps={STEPS}",
        "per_device_train_batch_size=1",
        "learning_rate=1.0e-4",
        "save_steps=2",
        f"eval_data={world / 'clips'}",
    ):
        given += ["--set", pair]
    return given


def write_world(folder: Path) -> None:
    """Six samples, one epoch: three of a clip with sound, one of a silent clip, two of text alone.

    Three of six, so in one step at least one process hears something and the other does not.
    """
    from omnisift.training.data import Sample, Turn, load_samples, save_samples
    from omnisift.world import make_scene, world_setting, write_clip
    from omnisift.world.dataset import write_dataset

    write_dataset(folder / "clips", clips=1, seed=0, questions_per_clip=2, step=lambda: None)
    heard = load_samples(folder / "clips")
    assert len(heard) == 3
    silent = folder / "silent.mp4"
    write_clip(make_scene(1, "train", world_setting("silent").config), silent)
    talk = (Turn("user", "a red circle"), Turn("assistant", "a blue square"))
    others = [Sample("silent", silent, (Turn("user", "How many objects do you see?"), Turn("assistant", "2")))]
    others += [Sample(f"text {number}", None, talk) for number in (1, 2)]
    save_samples([*heard, *others], folder / "data.jsonl", "messages")


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
    given = [*arguments(world), "--set", "gradient_accumulation_steps=2", "--out", str(out)]
    launch([sys.executable, "-m", "omnisift.cli", "train", *given])


def log_of(run: Path, key: str = "loss") -> list[dict[str, float]]:
    """The lines of the log that have ``key``."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


def forget(run: Path, *names: str) -> None:
    """Delete folders of a run, as if it had been killed before they were written."""
    for name in names:
        shutil.rmtree(run / name)


def check_same(run: Path, alone: Path) -> None:
    """The curve and the weights of ``run`` are those of one process, and the selector was seen to learn."""
    check_curve(run, alone)
    check_evaluations(run, alone)
    assert max(line["selector_grad_norm"] for line in log_of(run)) > 0
    for name in ("model.safetensors", "selector/model.safetensors"):
        mine, theirs = load_file(run / "model" / name), load_file(alone / "model" / name)
        assert mine.keys() == theirs.keys()
        assert all(torch.allclose(mine[key], theirs[key], rtol=0, atol=TOLERANCE) for key in mine)


def check_curve(run: Path, alone: Path) -> None:
    """The loss of each step is that of one process."""
    result, wanted = log_of(run), log_of(alone)
    assert [line["step"] for line in result] == list(range(1, STEPS + 1))
    for line, other in zip(result, wanted, strict=True):
        assert abs(line["loss"] - other["loss"]) < TOLERANCE


def check_evaluations(run: Path, alone: Path) -> None:
    """Three validation samples: one process has two of them, the other one and a batch of none."""
    result, wanted = log_of(run, "eval_loss"), log_of(alone, "eval_loss")
    assert [line["step"] for line in result] == [2, 3]
    for line, other in zip(result, wanted, strict=True):
        assert abs(line["eval_loss"] - other["eval_loss"]) < TOLERANCE
        assert line["eval_samples"] == other["eval_samples"] == 3
        # Sharded models generate nothing.
        assert line.get("eval_accuracy", other["eval_accuracy"]) == other["eval_accuracy"]


def check_learned(run: Path) -> None:
    """Both learned: runs that stood still would be equal too."""
    first, last = (load_file(run / f"checkpoint-{step}/selector/model.safetensors") for step in (2, 3))
    assert any(not torch.equal(first[key], last[key]) for key in first)
    first, last = (load_file(run / f"checkpoint-{step}/language/model.safetensors") for step in (2, 3))
    assert any(not torch.equal(first[key], last[key]) for key in first)
