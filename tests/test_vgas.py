"""The selector: its size, its formulas, and loading of checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.oracle import selector_scores
from torch import Tensor

from omnisift.errors import CheckpointError, UsageError
from omnisift.vgas import GUIDES, RELEASED_PREFIX, VGAS, VGASConfig

NAMES = {"v_proj", "a_proj", "v_norm", "a_norm", "post_attn_norm", "cross_attn", "score_head"}
LAYOUTS = [(guide, 1) for guide in GUIDES] + [("cross", 3), ("self", 2), ("concat", 3)]
each_layout = pytest.mark.parametrize(("guide", "layers"), LAYOUTS)


def small(seed: int = 0, **config: object) -> VGAS:
    torch.manual_seed(seed)
    return VGAS(VGASConfig(**{"input_size": 24, "hidden_size": 16, "num_attention_heads": 2, **config})).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "parameters"), [(3584, 4_856_321), (2048, 3_283_457)])
def test_size_is_the_papers(width: int, parameters: int):
    with torch.device("meta"):
        selector = VGAS(VGASConfig(input_size=width))
    assert sum(p.numel() for p in selector.parameters()) == parameters
    assert {name.split(".")[0] for name in selector.state_dict()} == NAMES


def test_scores_are_the_formula_chunk_by_chunk():
    selector = small()
    video, audio = torch.randn(3, 5, 24), torch.randn(3, 7, 24)
    with torch.no_grad():
        scores = selector.scores(video, audio)
        for c in range(3):
            torch.testing.assert_close(scores[c], selector_scores(selector, video[c], audio[c]), atol=1e-5, rtol=0)


def refined(selector: VGAS, guide: str, v: Tensor, a: Tensor) -> Tensor:
    """The audio of one chunk after all layers, [A, hidden], computed with the selector's modules."""
    attentions = [selector.cross_attn, *selector.more_attn]
    for attention, norm in zip(attentions, [selector.post_attn_norm, *selector.more_norm], strict=True):
        keys = {"cross": v, "self": a, "concat": torch.cat([v, a])}[guide]
        a = norm(attention(a[None], keys[None], keys[None])[0][0] + a)
    return a


def attention_received(selector: VGAS, v: Tensor, a: Tensor) -> Tensor:
    """One chunk with guide "direct", [A]: log of the mean attention, over heads and anchors, to each audio token."""
    query, key = selector.query_proj(v), selector.key_proj(a)
    size = query.shape[1] // selector.config.num_attention_heads
    shares = [
        torch.softmax(key[:, part] @ anchor / size**0.5, dim=0)
        for part in torch.arange(query.shape[1]).split(size)
        for anchor in query[:, part]
    ]
    return torch.stack(shares).mean(dim=0).log()


def one_chunk(selector: VGAS, guide: str, video: Tensor, audio: Tensor) -> Tensor:
    """Logits [A] of a chunk without padding, for every guide."""
    a = selector.a_norm(selector.a_proj(audio))
    v = a[:0] if guide == "self" else selector.v_norm(selector.v_proj(video))
    if guide == "direct":
        return attention_received(selector, v, a)
    return selector.score_head(refined(selector, guide, v, a))[:, 0]


@each_layout
def test_every_layout_is_its_formula_chunk_by_chunk(guide: str, layers: int):
    selector = small(guide=guide, num_hidden_layers=layers)
    shaken(selector)
    video, audio = torch.randn(3, 5, 24), torch.randn(3, 7, 24)
    with torch.no_grad():
        logits = selector(video, audio)
        for c in range(3):
            torch.testing.assert_close(logits[c], one_chunk(selector, guide, video[c], audio[c]), atol=1e-5, rtol=1e-5)


@each_layout
@pytest.mark.parametrize("masks", ["video", "audio", "both"])
def test_padding_changes_nothing(guide: str, layers: int, masks: str):
    """Holds for any values in the padding, and with only one of the masks."""
    selector = small(guide=guide, num_hidden_layers=layers)
    video, audio = torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    anchors, sounds = (5 if masks == "audio" else 3), (7 if masks == "video" else 4)
    video[1, anchors:], audio[1, sounds:] = 50.0, -50.0
    video_valid = None if masks == "audio" else torch.arange(5) < torch.tensor([[5], [anchors]])
    audio_valid = None if masks == "video" else torch.arange(7) < torch.tensor([[7], [sounds]])
    with torch.no_grad():
        together = selector(video, audio, video_valid, audio_valid=audio_valid)
        alone = selector(video[1:, :anchors], audio[1:, :sounds])
        whole = selector(video[:1], audio[:1])
    assert together.isfinite().all()
    torch.testing.assert_close(together[1:, :sounds], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[:1], whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@each_layout
def test_padding_is_finite_in_both_directions(guide: str, layers: int, dtype: torch.dtype):
    selector = small(guide=guide, num_hidden_layers=layers).to(dtype)
    valid = torch.tensor([[True] * 4, [True] + [False] * 3])
    logits = selector(torch.randn(2, 4, 24, dtype=dtype), torch.randn(2, 4, 24, dtype=dtype), valid, audio_valid=valid)
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    logits.float().sigmoid().sum().backward()
    assert all(p.grad.isfinite().all() for p in selector.parameters() if p.grad is not None)


def test_cross_ignores_which_audio_is_padded():
    selector, video, audio = small(layers=2), torch.randn(2, 5, 24), torch.randn(2, 7, 24)
    with torch.no_grad():
        assert torch.equal(selector(video, audio, audio_valid=torch.rand(2, 7) > 0.5), selector(video, audio))


def test_self_does_not_see_the_video():
    selector, audio = small(guide="self", time_embedding=True), torch.randn(2, 7, 24)
    steps = torch.arange(7).expand(2, 7)
    with torch.no_grad():
        logits = selector(torch.full((2, 5, 24), torch.nan), audio, audio_step=steps)
        assert torch.equal(logits, selector(torch.randn(2, 1, 24), audio, audio_step=steps))
    assert logits.isfinite().all()


@pytest.mark.parametrize("guide", ["cross", "concat", "direct"])
def test_the_others_see_it(guide: str):
    selector, audio = small(guide=guide), torch.randn(1, 7, 24)
    with torch.no_grad():
        assert not torch.equal(selector(torch.randn(1, 5, 24), audio), selector(torch.randn(1, 5, 24), audio))


def test_direct_shares_one_unit_of_attention_in_each_chunk():
    selector = small(guide="direct")
    video_valid = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    audio_valid = torch.tensor([[True] * 6 + [False], [True] * 2 + [False] * 5])
    with torch.no_grad():
        share = selector(torch.randn(2, 5, 24), torch.randn(2, 7, 24), video_valid, audio_valid=audio_valid).exp()
    torch.testing.assert_close((share * audio_valid).sum(dim=1), torch.ones(2))
    assert (share[~audio_valid] == 0).all()


@pytest.mark.parametrize("time_embedding", [False, True])
@each_layout
def test_every_parameter_gets_a_gradient(guide: str, layers: int, time_embedding: bool):
    selector = small(guide=guide, num_hidden_layers=layers, time_embedding=time_embedding).double()
    shaken(selector)
    steps = torch.arange(5).expand(2, 5)
    video, audio = torch.randn(2, 2, 5, 24, dtype=torch.float64)
    selector(video, audio, None, steps, steps).square().sum().backward()
    without = {n for n, p in selector.named_parameters() if p.grad is None or p.grad.abs().max() < 1e-9}
    assert without == set()


def test_a_further_layer_adds_its_attention_and_norm_alone():
    one, three = small().state_dict(), small(num_hidden_layers=3).state_dict()
    assert list(three)[: len(one)] == list(one)
    assert {name.rsplit(".", 1)[0] for name in three.keys() - one.keys()} == {
        f"more_{part}" for k in (0, 1) for part in (f"attn.{k}", f"attn.{k}.out_proj", f"norm.{k}")
    }


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({}, ""),
        ({"time_embedding": True}, "time"),
        ({"guide": "self"}, "self"),
        ({"guide": "direct", "time_embedding": True}, "time+direct"),
        ({"num_hidden_layers": 3}, "3 layers"),
        ({"guide": "concat", "num_hidden_layers": 2, "time_embedding": True}, "time+concat+2 layers"),
    ],
)
def test_label_names_the_departures_from_the_paper(config: dict[str, object], label: str):
    assert small(**config).label == label


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"guide": "video"}, r"unknown guide 'video' of the selector; known: concat, cross, direct, self"),
        ({"num_hidden_layers": 0}, "at least 1, got 0"),
        ({"num_hidden_layers": 1.5}, r"got 1\.5"),
        ({"guide": "direct", "num_hidden_layers": 2}, "'direct' has one layer"),
        ({"hidden_size": 16, "num_attention_heads": 3}, "must divide hidden_size 16, got 3"),
        ({"guide": "Cross"}, r"did you mean 'cross'\?"),
    ],
)
def test_impossible_layouts_are_refused_in_one_line(config: dict[str, object], message: str):
    with pytest.raises(UsageError, match=message) as raised:
        VGASConfig(**config)  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_time_embedding_tells_equal_tokens_apart():
    selector = small(time_embedding=True)
    video, audio = torch.randn(1, 4, 24), torch.randn(1, 1, 24).expand(1, 6, 24)
    with torch.no_grad():
        logits = selector(video, audio, None, torch.zeros(1, 4, dtype=torch.int64), torch.arange(6)[None])
    assert logits.unique().numel() == 6


def test_time_embedding_asks_for_times():
    with pytest.raises(ValueError, match="audio_step"):
        small(time_embedding=True)(torch.randn(1, 4, 24), torch.randn(1, 6, 24))


@pytest.mark.parametrize("guide", GUIDES)
def test_time_embedding_works_with_every_guide(guide: str):
    selector = small(guide=guide, time_embedding=True)
    audio, steps = torch.randn(1, 1, 24).expand(1, 6, 24), torch.arange(6)[None]
    with torch.no_grad():
        logits = selector(torch.randn(1, 6, 24), audio, None, steps, steps)
    assert logits.unique().numel() == 6


@pytest.mark.parametrize("time_embedding", [False, True])
@each_layout
def test_save_and_load(tmp_path: Path, guide: str, layers: int, time_embedding: bool):
    selector = small(guide=guide, num_hidden_layers=layers, time_embedding=time_embedding)
    selector.save_pretrained(tmp_path)
    loaded = VGAS.from_pretrained(tmp_path)
    assert loaded.config.to_dict()["time_embedding"] is time_embedding
    assert (loaded.config.guide, loaded.config.num_hidden_layers, loaded.label) == (guide, layers, selector.label)
    assert loaded.state_dict().keys() == selector.state_dict().keys()
    assert_same(loaded, selector)


def test_a_config_written_before_the_layouts_is_the_papers(tmp_path: Path):
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["guide"], config["num_hidden_layers"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert VGAS.from_pretrained(tmp_path).label == ""


OLD_NAMES = {"width": 24, "hidden": 16, "heads": 2, "layers": 3, "picture": True}


def test_the_earlier_names_of_the_config_work():
    config = VGASConfig(**OLD_NAMES)  # type: ignore[arg-type]
    assert (config.input_size, config.hidden_size) == (config.width, config.hidden) == (24, 16)  # type: ignore[attr-defined]
    assert (config.num_attention_heads, config.num_hidden_layers, config.video_score) == (2, 3, True)
    assert not OLD_NAMES.keys() & config.to_dict().keys()


def test_a_selector_saved_under_the_earlier_names_is_read_and_saved_under_the_new_ones(tmp_path: Path):
    selector = small(num_hidden_layers=3, video_score=True, time_embedding=True)
    selector.save_pretrained(tmp_path)
    new = json.loads((tmp_path / "config.json").read_text())
    names = {"input_size", "hidden_size", "num_attention_heads", "num_hidden_layers", "video_score"}
    assert names <= new.keys()
    assert not OLD_NAMES.keys() & new.keys()
    old = {name: value for name, value in new.items() if name not in names} | OLD_NAMES
    (tmp_path / "config.json").write_text(json.dumps(old))
    loaded = VGAS.from_pretrained(tmp_path)
    assert loaded.label == selector.label == "time+3 layers+video score"
    assert_same(loaded, selector)
    assert {name.split(".")[0] for name in selector.state_dict()} >= {"picture", "v_proj", "more_attn"}


def test_from_pretrained_refuses_the_weights_of_another_layout(tmp_path: Path):
    small(guide="direct").save_pretrained(tmp_path)
    save_file(small().state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="key_proj"):
        VGAS.from_pretrained(tmp_path)


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
    loaded = VGAS.from_checkpoint(tmp_path, num_attention_heads=2)
    assert (loaded.config.input_size, loaded.config.hidden_size) == (24, 16)
    assert not loaded.training
    assert_same(loaded, selector)


def test_from_checkpoint_counts_the_layers(tmp_path: Path):
    selector = small(num_hidden_layers=3)
    write_checkpoint(tmp_path, selector.state_dict(), sharded=True)
    loaded = VGAS.from_checkpoint(tmp_path, num_attention_heads=2)
    assert loaded.label == "3 layers"
    assert_same(loaded, selector)


@pytest.mark.parametrize("guide", ["self", "direct"])
def test_from_checkpoint_refuses_another_guide(tmp_path: Path, guide: str):
    write_checkpoint(tmp_path, small(guide=guide).state_dict(), sharded=False)
    with pytest.raises(CheckpointError, match="missing"):
        VGAS.from_checkpoint(tmp_path, num_attention_heads=2)


def test_from_checkpoint_keeps_or_changes_the_dtype(tmp_path: Path):
    write_checkpoint(tmp_path, {k: v.bfloat16() for k, v in small().state_dict().items()}, sharded=True)
    assert VGAS.from_checkpoint(tmp_path, num_attention_heads=2).dtype == torch.bfloat16
    assert VGAS.from_checkpoint(tmp_path, num_attention_heads=2, dtype=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("change", ["missing", "surplus", "misshapen"])
@pytest.mark.parametrize("sharded", [False, True])
def test_from_checkpoint_refuses_what_does_not_fit(tmp_path: Path, sharded: bool, change: str):
    write_checkpoint(tmp_path, changed(small().state_dict(), change), sharded)
    with pytest.raises(CheckpointError, match=rf"{change}: (v_proj\.bias|extra)"):
        VGAS.from_checkpoint(tmp_path, num_attention_heads=2)


def test_from_checkpoint_names_what_is_wrong_with_the_folder(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no \.safetensors file"):
        VGAS.from_checkpoint(tmp_path)
    save_file({"lm_head.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="has no selector"):
        VGAS.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match=r"can't load .*model\.safetensors: SafetensorError"):
        VGAS.from_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not a safetensors index"):
        VGAS.from_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path):
    write_checkpoint(tmp_path, small().state_dict(), sharded=True)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        VGAS.from_checkpoint(tmp_path, num_attention_heads=2)


def shaken(selector: VGAS) -> None:
    """Perturb all parameters: biases start at zero and norms at one, which would hide mistakes."""
    with torch.no_grad():
        for parameter in selector.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


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
    """Write a full model's checkpoint: the selector among other tensors, in one file or in two with an index."""
    whole = {RELEASED_PREFIX + name: tensor for name, tensor in tensors.items()}
    whole["thinker.model.norm.weight"] = torch.zeros(2)
    if not sharded:
        save_file(whole, folder / "model.safetensors")
        return
    where = {name: ("a" if i % 2 else "b") + ".safetensors" for i, name in enumerate(sorted(whole))}
    where["talker.weight"] = "c.safetensors"  # a shard without selector tensors is not opened
    for file in ("a.safetensors", "b.safetensors"):
        save_file({name: whole[name] for name in whole if where[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.mark.parametrize("name", ["missing", "./missing", "some/missing/folder"])
def test_a_selector_folder_that_is_missing_is_named_without_a_network(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"no selector folder at {name}"):
        VGAS.from_pretrained(name)


def test_a_folder_without_weights_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "omnisift_vgas"}')
    with pytest.raises(CheckpointError, match="can't load a selector from"):
        VGAS.from_pretrained(tmp_path)
