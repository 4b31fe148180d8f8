"""`swift sft` as a user runs it, on nano as a full Qwen2.5-Omni: `nox -s swift` (its own environment).

nano knows the answers about its world. That its loss is low from the first step on shows that embeddings, positions and
labels were cut in the same way.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from omnisift.integrations.ms_swift import plugin_path
from omnisift.training.data import load_samples, save_samples
from omnisift.utils.assets import nano_path
from omnisift.world.dataset import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.swift]

IN_ADAPTER = "base_model.model.thinker.compressor."
MOVED = 5e-4
"""Half of the learning rate. Adam's first step moves a weight by that much or more; weight decay moves it less."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, clips and ``world.jsonl``."""
    folder = tmp_path_factory.mktemp("swift")
    save_full_nano(folder / "model")
    write_dataset(folder / "world", clips=3, seed=0, questions_per_clip=2, step=lambda: None)
    save_samples(load_samples(folder / "world"), folder / "world.jsonl", "messages")
    return folder


def save_full_nano(folder: Path) -> None:
    """nano's thinker and processor in a checkpoint of the full model, without a talker."""
    from transformers import AutoProcessor, Qwen2_5OmniConfig, Qwen2_5OmniForConditionalGeneration
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    thinker: Any = Thinker.from_pretrained(nano_path(), dtype=torch.float32)
    config = Qwen2_5OmniConfig(thinker_config=thinker.config.to_dict(), enable_audio_output=False)
    full: Any = Qwen2_5OmniForConditionalGeneration(config)
    full.thinker.load_state_dict(thinker.state_dict())
    full.save_pretrained(folder)
    AutoProcessor.from_pretrained(nano_path()).save_pretrained(folder)
    torch.save({}, folder / "spk_dict.pt")  # voices, without which the host does not load


def swift(folder: Path, *arguments: str, **environment: str | None) -> tuple[int, str]:
    """Run ``swift`` in ``folder``; returns exit code and output. None removes a variable."""
    defaults: dict[str, str | None] = {
        "USE_AUDIO_IN_VIDEO": "true",
        "SWIFT_AUDIO_LOAD_BACKEND": "soundfile_pyav",
        "VIDEO_MIN_PIXELS": str(112 * 112),
        "VIDEO_MAX_PIXELS": str(224 * 224),
        "OMNISIFT_SELECTOR": str(nano_path() / "selector"),
        "USE_HF": "1",
        **environment,
    }
    variables = {**os.environ, **defaults}
    done = subprocess.run(
        [sys.executable, "-m", "swift.cli.main", *arguments],
        cwd=folder,
        env={name: value for name, value in variables.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout


def sft(folder: Path, out: str, *more: str, **environment: str | None) -> tuple[int, str]:
    """Two steps of LoRA, as in docs/ms-swift.md."""
    return swift(
        folder, "sft", "--external_plugins", str(plugin_path()), "--model_type", "omnisift_qwen2_5_omni",
        "--model", "model", "--dataset", "world.jsonl", "--output_dir", out, "--add_version", "false",
        "--tuner_type", "lora", "--lora_rank", "4", "--modules_to_save", "compressor",
        "--target_regex", r"^thinker\.model\.layers\..*\.(q_proj|v_proj)$",
        "--max_steps", "2", "--learning_rate", "1e-3", "--lr_scheduler_type", "constant", "--warmup_ratio", "0",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--logging_steps", "1",
        "--split_dataset_ratio", "0", "--dataloader_num_workers", "0", "--torch_dtype", "float32",
        "--attn_impl", "sdpa", "--report_to", "none", *more, **environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The folder of a run."""
    code, output = sft(folder, "out")
    assert code == 0, output[-3000:]
    return folder / "out"


def test_a_run_cuts_tokens_and_learns(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "logging.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 2
    for step in steps:
        assert step["retained_video"] == pytest.approx(0.25)
        assert step["retained_audio"] == pytest.approx(0.26)
        assert step["retained_ratio"] == pytest.approx(63 / 246)
        assert math.isfinite(step["loss"])
        assert step["grad_norm"] > 0
    assert steps[0]["loss"] != steps[1]["loss"]
    assert steps[0]["loss"] < 1
    assert steps[0]["token_acc"] > 0.8


def test_the_adapter_holds_a_trained_selector(trained: Path) -> None:
    adapter = load_file(trained / "checkpoint-2" / "adapter_model.safetensors")
    before = load_file(nano_path() / "selector" / "model.safetensors")
    saved = {name.removeprefix(IN_ADAPTER): value for name, value in adapter.items() if name.startswith(IN_ADAPTER)}
    assert saved.keys() == before.keys()
    assert {name for name, value in saved.items() if (value - before[name]).abs().max() < MOVED} == set()
    lora = {name: value for name, value in adapter.items() if "lora_B" in name}
    assert lora
    assert all(".thinker.model.layers." in name and value.abs().max() > 0 for name, value in lora.items())


def test_the_trained_model_answers_in_omnisift(folder: Path, trained: Path) -> None:
    """Merged by ms-swift it is a checkpoint in the released layout; the selector alone comes from the adapter too."""
    import omnisift
    from omnisift.training.export import selector_of

    code, output = swift(
        folder, "export", "--adapters", "out/checkpoint-2", "--merge_lora", "true", "--output_dir", "done"
    )
    assert code == 0, output[-3000:]
    answer = omnisift.load(str(folder / "done")).ask(
        folder / "world" / "clip-000000.mp4", "How many objects do you see?"
    )
    assert answer.report.tokens.retained_ratio == pytest.approx(63 / 246)
    assert answer.text.strip()
    merged, alone = (selector_of(folder / "done", place).state_dict() for place in (None, trained / "checkpoint-2"))
    assert all(torch.equal(merged[name], alone[name]) for name in merged)


def test_two_processes_do_not_wait_for_each_other(folder: Path, trained: Path) -> None:
    """One has only text while the other has a clip: the selector needs a gradient in both."""
    clips = (folder / "world.jsonl").read_text().splitlines()
    text = json.dumps({"messages": [{"role": role, "content": "a circle"} for role in ("user", "assistant")]})
    (folder / "mixed.jsonl").write_text("\n".join([clips[0], text, text, clips[1]]) + "\n")
    code, output = sft(
        folder, "pair", "--dataset", "mixed.jsonl", "--per_device_train_batch_size", "1",
        "--use_cpu", "true", "--ddp_backend", "gloo", "--ddp_find_unused_parameters", "false",
        "--train_dataloader_shuffle", "false", NPROC_PER_NODE="2",
    )  # fmt: skip
    assert code == 0, output[-3000:]
    lines = [json.loads(line) for line in (folder / "pair" / "logging.jsonl").read_text().splitlines()]
    assert [line["retained_ratio"] for line in lines if "loss" in line] == [pytest.approx(63 / 246)] * 2


def test_answers_are_generated_on_compressed_prompts(folder: Path, trained: Path) -> None:
    """The model refuses uncompressed prompts, so an answer is proof."""
    code, output = swift(
        folder, "infer", "--adapters", "out/checkpoint-2", "--val_dataset", "world.jsonl#2", "--max_new_tokens", "30",
        "--temperature", "0", "--stream", "false", "--result_path", "answers.jsonl",
    )  # fmt: skip
    assert code == 0, output[-3000:]
    answers = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    assert all(answer["response"] for answer in answers)


@pytest.mark.parametrize(
    ("more", "environment", "message"),
    [
        ([], {"USE_AUDIO_IN_VIDEO": None}, "TrainingError: training without audio: USE_AUDIO_IN_VIDEO is not set"),
        (["--template", "qwen2_5_omni"], {}, "TrainingError: training without compression: the model was called"),
        (["--enable_dft_loss", "true"], {}, "TrainingError: this run computes its loss outside the model"),
        ([], {"OMNISIFT_SELECTOR": None}, "model has no selector weights; set OMNISIFT_SELECTOR"),
        (["--ddp_backend", "gloo"], {"NPROC_PER_NODE": "2"}, "TrainingError: 2 processes should train together, but"),
    ],
    ids=["no audio", "built-in template", "loss outside the model", "no selector", "processes that never joined"],
)
def test_a_run_without_compression_stops(
    folder: Path, more: list[str], environment: dict[str, str | None], message: str
) -> None:
    code, output = sft(folder, "stopped", *more, **environment)
    assert code != 0
    errors = [line for line in output.splitlines() if "omnisift.errors." in line]
    assert errors, output[-3000:]
    assert all(message in error for error in errors)
    assert not list((folder / "stopped").glob("checkpoint-*"))
