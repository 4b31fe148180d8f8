"""The selector: its size, its formula, and checkpoints that fit or are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.reference import selector_scores

from omnisift.errors import CheckpointError
from omnisift.vgas import RELEASED_PREFIX, VGAS, VGASConfig

NAMES = {"v_proj", "a_proj", "v_norm", "a_norm", "post_attn_norm", "cross_attn", "score_head"}


def small(seed: int = 0, **config: object) -> VGAS:
    torch.manual_seed(seed)
    return VGAS(VGASConfig(**{"width": 24, "hidden": 16, "heads": 2, **config})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "parameters"), [(3584, 4_856_321), (2048, 3_283_457)])
def test_size_is_the_papers(width: int, parameters: int):
    with torch.device("meta"):
        selector = VGAS(VGASConfig(width=width))
    assert sum(p.numel() for p in selector.parameters()) == parameters
    assert {name.split(".")[0] for name in selector.state_dict()} == NAMES


def test_scores_are_the_formula_chunk_by_chunk():
    selector = small()
    video, audio = torch.randn(3, 5, 24), torch.randn(3, 7, 24)
    with torch.no_grad():
        scores = selector.scores(video, audio)
        for c in range(3):
            torch.testing.assert_close(scores[c], selector_scores(selector, video[c], audio[c]), atol=1e-5, rtol=0)


def test_padding_changes_nothing():
    selector = small()
    video, audio = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        together = selector(video, audio, valid)
        alone = selector(video[1:, :3], audio[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)


def test_every_parameter_gets_a_gradient():
    selector = small(time_embedding=True)
    steps = torch.zeros(2, 5, dtype=torch.int64)
    selector(torch.randn(2, 5, 24), torch.randn(2, 5, 24), None, steps, steps).square().sum().backward()
    without = {name for name, p in selector.named_parameters() if p.grad is None or not p.grad.any()}
    assert without == set()


def test_time_embedding_tells_equal_tokens_apart():
    selector = small(time_embedding=True)
    video, audio = torch.randn(1, 4, 24), torch.randn(1, 1, 24).expand(1, 6, 24)
    with torch.no_grad():
        logits = selector(video, audio, None, torch.zeros(1, 4, dtype=torch.int64), torch.arange(6)[None])
    assert logits.unique().numel() == 6


def test_time_embedding_asks_for_times():
    with pytest.raises(ValueError, match="audio_step"):
        small(time_embedding=True)(torch.randn(1, 4, 24), torch.randn(1, 6, 24))


@pytest.mark.parametrize("time_embedding", [False, True])
def test_save_and_load(tmp_path: Path, time_embedding: bool):
    selector = small(time_embedding=time_embedding)
    selector.save_pretrained(tmp_path)
    loaded = VGAS.from_pretrained(tmp_path)
    assert loaded.config.to_dict()["time_embedding"] is time_embedding
    assert_same(loaded, selector)


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
def test_from_pretrained_refuses_what_does_not_fit(tmp_path: Path, change: str):
    small().save_pretrained(tmp_path)
    save_file(changed(small().state_dict(), change), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"v_proj\.bias|extra"):
        VGAS.from_pretrained(tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_from_checkpoint_takes_the_selector_out_of_a_model(tmp_path: Path, sharded: bool):
    selector = small()
    write_checkpoint(tmp_path, selector.state_dict(), sharded)
    loaded = VGAS.from_checkpoint(tmp_path, heads=2)
    assert (loaded.config.width, loaded.config.hidden) == (24, 16)
    assert not loaded.training
    assert_same(loaded, selector)


def test_from_checkpoint_keeps_or_changes_the_dtype(tmp_path: Path):
    write_checkpoint(tmp_path, {k: v.bfloat16() for k, v in small().state_dict().items()}, sharded=True)
    assert VGAS.from_checkpoint(tmp_path, heads=2).dtype == torch.bfloat16
    assert VGAS.from_checkpoint(tmp_path, heads=2, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
@pytest.mark.parametrize("sharded", [False, True])
def test_from_checkpoint_refuses_what_does_not_fit(tmp_path: Path, sharded: bool, change: str):
    write_checkpoint(tmp_path, changed(small().state_dict(), change), sharded)
    with pytest.raises(CheckpointError, match=rf"{change}: (v_proj\.bias|extra)"):
        VGAS.from_checkpoint(tmp_path, heads=2)


def test_from_checkpoint_names_what_is_wrong_with_the_folder(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        VGAS.from_checkpoint(tmp_path)
    save_file({"lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no selector"):
        VGAS.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="can't be read"):
        VGAS.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a safetensors index"):
        VGAS.from_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
    write_checkpoint(tmp_path, small().state_dict(), sharded=True)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        VGAS.from_checkpoint(tmp_path, heads=2)


def assert_same(loaded: VGAS, selector: VGAS) -> None:
    for name, tensor in selector.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def changed(tensors: dict[str, torch.Tensor], change: str) -> dict[str, torch.Tensor]:
    tensors = dict(tensors)
    if change == "missing":
        del tensors["v_proj.bias"]
    elif change == "surplus":
        tensors["extra.weight"] = torch.zeros(1)
    else:
        tensors["v_proj.bias"] = torch.zeros(3)
    return tensors


def write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], sharded: bool) -> None:
    """A whole model's checkpoint: the selector among other tensors, in one file or in two with an index."""
    whole = {RELEASED_PREFIX + name: tensor for name, tensor in tensors.items()}
    whole["thinker.model.norm.weight"] = torch.zeros(2)
    if not sharded:
        save_file(whole, folder / "model.safetensors")
        return
    where = {name: ("a" if i % 2 else "b") + ".safetensors" for i, name in enumerate(sorted(whole))}
    where["talker.weight"] = "c.safetensors"  # a shard without the selector is not even opened
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: whole[name] for name in whole if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
