"""QLoRA: adapters and a selector learn on a quantised language model, whose weights stay bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.finetune.test_finetune import recipe

import omnisift
from omnisift.models import adapter_for
from omnisift.training.data import read_rows
from omnisift.training.finetune import fine_tune
from omnisift.training.finetune.building import build
from omnisift.training.finetune.checkpoints import save_model
from omnisift.training.finetune.recipe import QUANTIZED_BYTES
from omnisift.training.finetune.run import make_collator
from omnisift.world.dataset import write_dataset

pytestmark = [pytest.mark.slow, pytest.mark.quant]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=3, seed=0, questions_per_clip=2, step=lambda: None)
    return folder


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("way", QUANTIZED_BYTES)
def test_a_run_learns_resumes_and_saves_what_it_computed(way: str, data: Path, clip: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "language": "lora", "lora_dropout": 0.0, "quantization": way, "learning_rate": 3e-3,
        "gradient_checkpointing": way == "bitsandbytes-nf4",
    }  # fmt: skip
    fine_tune(recipe(data, tmp_path / "run", max_steps=4, **changes))
    fine_tune(recipe(data, tmp_path / "run", max_steps=12, **changes))
    found = losses(tmp_path / "run")
    assert len(found) == 12
    assert sum(found[-3:]) < sum(found[:3])
    trained = omnisift.load(tmp_path / "run" / "model", retain=0.25)
    assert not getattr(trained.host.thinker, "is_quantized", False)
    assert trained.ask(clip, "What colour is the circle?").text
    again = omnisift.load(tmp_path / "run" / "model", retain=0.25, quantization=way)
    assert again.ask(clip, "What colour is the circle?").text


@pytest.mark.parametrize("way", QUANTIZED_BYTES)
def test_only_adapters_and_selector_learn(way: str, data: Path, tmp_path: Path) -> None:
    settings = recipe(data, tmp_path, language="lora", lora_dropout=0.0, quantization=way)
    host, model = build(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "selector" in name for name in learned)
    assert any("lora_" in name for name in learned)
    encoders = adapter_for(model.thinker).parts.encoders
    assert {p.dtype for encoder in encoders for p in encoder.parameters()} == {torch.float32}
    samples = read_rows([data]).samples
    batch = make_collator(settings, host.processor)(samples[:2])
    batch.pop("skipped")
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(2):
        model(**batch).loss.backward()
        assert {name for name, p in model.named_parameters() if p.grad is not None} <= learned
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    # What is saved gives the logits of the model that was trained.
    batch.pop("labels"), batch.pop("frame_seconds", None)
    model.attachment.detach()
    model.eval()
    with torch.no_grad():
        expected = model.thinker(**batch).logits
    save_model(model, host.processor, tmp_path / "saved", torch.float32)
    saved = omnisift.load(tmp_path / "saved", compressor=None).host.thinker
    with torch.no_grad():
        torch.testing.assert_close(saved(**batch).logits, expected, rtol=0, atol=TOLERANCE[way])


TOLERANCE = {"bitsandbytes-nf4": 1e-3, "bitsandbytes-int8": 1.0}
"""Of logits of about 20; the largest difference of int8 was 0.7: its products round their inputs as well, and weights
alone are saved."""
