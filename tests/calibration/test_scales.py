"""Files of scales, and what is said about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from omnisift import Scales
from omnisift.calibration.scales import FORMAT, Calibration
from omnisift.errors import CheckpointError

ABOUT = Calibration("nano", "resift", "0.25", ("a.mp4", "b.mp4"), 2, {"commit": "abc", "torch": "2"})


def scales() -> Scales:
    """Two layers of one role, one of another; audio has half and a quarter of the range of text, subtitles none."""
    largest = {
        "layers.0.mlp.down_proj": torch.tensor([[8.0, 1.0, 0.0], [4.0, 1.0, 2.0], [1.0, 4.0, 0.0], [0.0, 0.0, 0.0]]),
        "layers.1.mlp.down_proj": torch.tensor([[1.0, 1.0, 4.0], [4.0, 4.0, 4.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]),
        "layers.0.self_attn.q_proj": torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
    }
    percentile = {
        "layers.0.mlp.down_proj": torch.tensor([4.0, 2.0, 1.0, 0.0]),
        "layers.1.mlp.down_proj": torch.tensor([2.0, 2.0, 0.25, 0.0]),
        "layers.0.self_attn.q_proj": torch.tensor([1.0, 1.0, 0.5, 0.0]),
    }
    return Scales(largest, percentile, torch.tensor([10, 20, 30, 0]), ABOUT)


def test_a_file_holds_everything(tmp_path: Path) -> None:
    path = tmp_path / "scales.safetensors"
    scales().save(path)
    read = Scales.load(path)
    assert read.calibration == ABOUT
    assert torch.equal(read.tokens, scales().tokens)
    for name in ("largest", "percentile"):
        written, found = getattr(scales(), name), getattr(read, name)
        assert written.keys() == found.keys()
        assert all(torch.equal(written[layer], found[layer]) for layer in written)


def test_bits_lost_by_sharing_and_to_outliers() -> None:
    assert scales().bits_lost() == {"text": 0.0, "video": pytest.approx(1 / 3), "audio": pytest.approx(2.0)}
    assert scales().bits_lost("largest") == {
        "text": 0.0,
        "video": pytest.approx(1 / 3),
        "audio": pytest.approx((1 + 2 + 0) / 3),
    }
    assert scales().outlier_bits() == pytest.approx((1 + 1 + 0) / 3)


def test_layers_are_summed_up_by_role() -> None:
    down, query = scales().roles()
    assert (down.role, down.layers, query.role, query.layers) == ("down_proj", 2, "q_proj", 1)
    assert down.largest == {"text": 8.0, "video": 4.0, "audio": 4.0}
    assert down.ratio == pytest.approx((2 + 4) / 2)
    assert down.channels == pytest.approx((8 / 4 + 4 / 4) / 2)
    assert (query.ratio, query.channels) == (1.0, 1.0)


def test_the_verdict_names_the_modality_that_loses_most() -> None:
    assert scales().verdict().startswith("audio loses 2.0 bits of the grid where all modalities share one scale")
    assert scales().verdict().endswith("at 4, measure both with fake_quantized")
    equal = {layer: torch.ones(4) for layer in scales().largest}
    mild = Scales(scales().largest, equal, torch.tensor([10, 20, 30, 0]), ABOUT)
    assert mild.verdict().endswith("leave these out and share the scale")
    assert "0.0 bits" in mild.verdict()
    alone = Scales(scales().largest, equal, torch.tensor([10, 0, 0, 0]), ABOUT)
    assert alone.verdict() == "only text tokens were read, so modalities can't be compared"
    assert repr(alone).startswith("Scales(3 layers of 'nano'; resift, 0.25; tokens: 10 text)")


def broken(**changes: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file with changes; None leaves an entry out."""
    tensors: dict[str, Any] = {"tokens": torch.tensor([1, 1, 1, 0])}
    tensors |= {"largest.a": torch.ones(4, 3), "percentile.a": torch.ones(4)}
    about = {"model": "nano", "compressor": "none", "budget": "", "clips": ["a"], "questions": 1, "made": {}}
    metadata = {"format": FORMAT, "calibration": json.dumps(about)}
    for name, value in changes.items():
        place: dict[str, Any] = metadata if name in metadata else tensors
        place[name.replace("_", ".")] = value
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return kept, {name: text for name, text in metadata.items() if text is not None}


BROKEN: dict[str, dict[str, Any]] = {
    "another format": {"format": "omnisift scales 9"},
    "no metadata": {"format": None, "calibration": None},
    "no calibration": {"calibration": None},
    "calibration is no JSON": {"calibration": "{"},
    "calibration is a list": {"calibration": "[1]"},
    "calibration lacks a field": {"calibration": '{"model": "nano"}'},
    "calibration has another type": {
        "calibration": '{"model": 1, "compressor": "", "budget": "", "clips": [], "questions": 1, "made": {}}'
    },
    "no tokens": {"tokens": None},
    "tokens are floats": {"tokens": torch.ones(4)},
    "tokens are negative": {"tokens": torch.tensor([1, 1, 1, -1])},
    "no token was read": {"tokens": torch.tensor([0, 0, 0, 0])},
    "no channels": {"largest_a": torch.ones(4, 0)},
    "three modalities": {"tokens": torch.tensor([1, 1, 1])},
    "a layer has no percentile": {"percentile_a": None},
    "no layers": {"largest_a": None, "percentile_a": None},
    "a surplus tensor": {"other_a": torch.ones(1)},
    "another number of rows": {"largest_a": torch.ones(5, 3)},
    "another number of dimensions": {"largest_a": torch.ones(4)},
    "another dtype": {"largest_a": torch.ones(4, 3, dtype=torch.float16)},
    "NaN": {"percentile_a": torch.full((4,), torch.nan)},
    "negative": {"largest_a": -torch.ones(4, 3)},
}


def test_the_file_that_is_broken_below_is_read(tmp_path: Path) -> None:
    tensors, metadata = broken()
    save_file(tensors, str(tmp_path / "a.safetensors"), metadata=metadata)
    assert Scales.load(tmp_path / "a.safetensors").counts() == {"text": 1, "video": 1, "audio": 1}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_line(tmp_path: Path, name: str) -> None:
    tensors, metadata = broken(**BROKEN[name])
    path = tmp_path / "a.safetensors"
    save_file(tensors or {"x": torch.ones(1)}, str(path), metadata=metadata)
    with pytest.raises(CheckpointError, match="omnisift calibrate") as error:
        Scales.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\xff" * 100, b"version https://git-lfs.github.com/spec/v1"])
def test_another_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        Scales.load(path)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError):
        Scales.load(tmp_path / "missing.safetensors")
