"""A model's generation_config.json: decoding stays greedy, and what it can't be is one line at load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import omnisift
from omnisift.errors import CheckpointError

QUESTION = "What colour is the ball?"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(omnisift.nano_path(), tmp_path / "model"))


def write(folder: Path, **values: Any) -> None:
    path = folder / "generation_config.json"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    path.write_text(json.dumps(old | values), encoding="utf-8")


@pytest.mark.parametrize(
    "values",
    [
        {"eos_token_id": 10**30},
        {"eos_token_id": [1, -1]},
        {"eos_token_id": True},
        {"pad_token_id": "x"},
        {"begin_suppress_tokens": "x"},
        {"suppress_tokens": [10**6]},
        {"dola_layers": "low"},
        {"constraints": [1]},
        {"force_words_ids": [[1]]},
        {"assistant_early_exit": 3},
        {"prompt_lookup_num_tokens": 3},
        {"penalty_alpha": 0.6, "top_k": 4},
    ],
    ids=str,
)
def test_what_is_not_greedy_is_refused(folder: Path, values: dict[str, Any]) -> None:
    write(folder, **values)
    with pytest.raises(CheckpointError, match=r"generation_config|can.t load") as raised:
        omnisift.load(folder, compressor=None)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 2},
        {"num_beams": 2, "length_penalty": "x"},
        {"return_dict_in_generate": True, "output_scores": True, "output_logits": True},
        {"do_sample": True, "temperature": 5.0, "top_k": 3},
        {"is_assistant": True},
    ],
    ids=str,
)
def test_what_does_not_concern_greedy_decoding_changes_nothing(
    folder: Path, clip: Path, values: dict[str, Any]
) -> None:
    expected = omnisift.load("nano", compressor=None).ask(clip, QUESTION).text
    write(folder, **values)
    assert omnisift.load(folder, compressor=None).ask(clip, QUESTION).text == expected
