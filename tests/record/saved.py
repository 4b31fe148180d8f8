"""The few names of the library that saved files are read with. A rename is followed here; the old files stay."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import tarfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.record import seams

from omnisift import attach, load
from omnisift.batch import Item, ModelSettings, ResultsFile
from omnisift.batch.run_lock import MAX_CRASHES
from omnisift.cli import main
from omnisift.evaluation.public.eval_run import read_run
from omnisift.evaluation.public.rows import read_rows
from omnisift.lab.benchmark.encoded import Encoded
from omnisift.lab.benchmark.journal import Journal
from omnisift.lab.benchmark.recipe import load_recipe
from omnisift.lab.benchmark.results import read_result
from omnisift.pipeline.loading import read_selector
from omnisift.pipeline.prompt import build_inputs
from omnisift.training.data import load_samples
from omnisift.training.distill.samples import DistillSample
from omnisift.training.finetune import fine_tune, load_train_recipe
from omnisift.training.finetune.checkpoints import is_complete, newest_checkpoint
from omnisift.training.finetune.recipe import RENAMED_KEYS
from omnisift.vgas import VGAS
from omnisift.world.dataset import write_dataset

FILES = Path(__file__).parent / "files"
RENAMED_VALUES: Mapping[Any, Any] = {"literal": "straight_through"}
"""Old value of a training recipe -> today's, where they differ."""

__all__ = [
    "FILES",
    "MAX_CRASHES",
    "VGAS",
    "DistillSample",
    "Encoded",
    "Item",
    "Journal",
    "ModelSettings",
    "ResultsFile",
    "fine_tune",
    "is_complete",
    "load_recipe",
    "load_samples",
    "load_train_recipe",
    "newest_checkpoint",
    "read_result",
    "read_rows",
    "read_run",
    "write_dataset",
]


def selector(name: str, scratch: Path) -> Any:
    """The selector of a folder, by the reader of that kind of folder."""
    if name == "adapter":
        return read_selector(name, str(FILES), FILES / "selectors" / name, 32).eval()
    folder = FILES / "selectors" / name
    if not folder.is_dir():
        with tarfile.open(folder.with_name(f"{name}.tar.gz")) as archive:
            archive.extractall(scratch, filter="data")
        folder = scratch / name
    return VGAS.from_pretrained(str(folder)).eval()


@torch.no_grad()
def selector_values(vgas: Any) -> dict[str, Any]:
    """Its label, layout and outputs on inputs from a formula."""
    config, width = vgas.config, vgas.config.width
    video, audio = (_formula(2, count, width, salt) for count, salt in ((3, 1), (5, 2)))
    video_step, audio_step = torch.tensor([[0, 20, 40]] * 2), torch.tensor([[0, 10, 20, 30, 49]] * 2)
    result = {
        "label": vgas.label,
        "layout": [width, config.hidden, config.heads, config.layers, config.guide, config.time_embedding],
        "audio": _rounded(vgas(video, audio, video_step=video_step, audio_step=audio_step)),
    }
    if vgas.picture is not None:
        result["video"] = [_rounded(part) for part in vgas.picture(video, audio[:, :3])]
    return result


def checkpoint_values(folder: Path) -> dict[str, Any]:
    """What the exported checkpoint answers about a rendered clip, read with its own selector."""
    pipeline = load(str(folder), compressor="omnisift", retain=0.25, dtype="float32")
    media, question = seams.clip_and_question(0)
    answer = pipeline.ask(media, question, max_new_tokens=2)
    inputs = build_inputs(pipeline.host.processor, media, question)
    with torch.inference_mode(), attach(pipeline.host.thinker, pipeline.compressor) as attachment:
        logits = pipeline.host.thinker(**inputs, use_cache=False).logits[0, -1]
    keep = attachment.last.keep[0].nonzero()[:, 0].tolist()
    return {
        "kept": [answer.report.tokens.video_kept, answer.report.tokens.audio_kept],
        "tokens": keep,
        "logits": _rounded(logits[:24]),
    }


def recipe_departures(recipe: Any, old: Mapping[str, Any]) -> list[str]:
    """Keys of an old recipe whose values the recipe of today does not hold."""

    def today(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else RENAMED_VALUES.get(value, value)

    return [key for key, value in old.items() if getattr(recipe, RENAMED_KEYS.get(key, key)) != today(value)]


def result_values(result: Any) -> dict[str, Any]:
    """Row -> seeds, accuracy, share kept, evidence tokens and events kept; None where the budget is out of reach."""
    return {
        row.key: None
        if row.accuracy is None
        else [row.seeds, *(round(float(value), 9) for value in (row.accuracy, row.ratio, row.recall, row.coverage))]
        for row in result.rows
    }


def outcome_values(outcome: Any) -> dict[str, Any]:
    """Numbers of a finished run of a public benchmark."""
    return {
        "kept": [outcome.kept("video"), outcome.kept("audio"), outcome.kept_together],
        "seconds": [outcome.seconds("prefill"), outcome.seconds("decode")],
        "rest": [outcome.flops, outcome.peak_memory_bytes, outcome.unread, outcome.is_full, outcome.judge],
        "right": [one.right for one in outcome.graded()] if outcome.is_choice else None,
        "verdicts": {name: dataclasses.asdict(counts) for name, counts in sorted(outcome.counts.items())},
    }


def command(*arguments: object, folder: Path) -> str:
    """Standard output of `omnisift`, called in this process with ``folder`` as the current one."""
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["omnisift", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
    assert not stop.value.code, output.getvalue()
    return output.getvalue()


def json_of(name: str) -> Any:
    """The content of a recorded ``.json`` file."""
    return json.loads((FILES / name).read_text(encoding="utf-8"))


def _formula(rows: int, count: int, width: int, salt: int) -> torch.Tensor:
    index = np.arange(rows * count * width, dtype=np.int64)
    return torch.from_numpy(((index * 37 + salt * 11) % 64 / 32 - 1).astype(np.float32)).view(rows, count, width)


def _rounded(values: torch.Tensor) -> list[Any]:
    rounded: list[Any] = np.round(values.float().numpy().astype(np.float64), 5).tolist()
    return rounded
