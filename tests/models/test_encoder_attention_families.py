"""Encoder attention of every family: the host's own eager weights, on the right tokens, and methods that read them."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers.families import FAMILIES, Clip, Family, Row
from tests.helpers.family_contract import THREE, apart, compressor, expected_logits, note, read
from tests.helpers.family_contract import host as plain_host
from tests.helpers.models import AUDIO, VIDEO, WIDTH, Image
from tests.models.hosts import HALF, ReadsAttention
from tests.models.test_encoder_attention import recorded_runs
from torch import Tensor
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import _get_feat_extract_output_lengths

import omnisift
from omnisift.budget import Budget
from omnisift.errors import CompressorError
from omnisift.models import adapter_for
from omnisift.models.attention_probe import ProbedEncoder
from omnisift.models.encoder_probes import AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME, ChunkedAudioProbe

OMNI = FAMILIES["qwen3_omni_moe_thinker"]
ROWS: dict[str, list[Row]] = {
    "one clip": [[5, Clip(4, 3, 5), 6]],
    "two clips": [[3, Clip(4, 2, 6, 4), 4, Clip(2, 5, 3, 2), 6]],
    "an image of the video's size": [[4, Image(2, 3), 3, Clip(1, 2, 3), 9]],
    "a batch": [[5, Clip(4, 2, 4, 4), 6], [9, Clip(3, 5, 5, 3), 2, Image(4, 2), 21], [7]],
}
BEFORE_THE_CALL: list[Row] = [
    [3, Image(5, 6), 5, Clip(4, 2, 3), 6],
    [9, Clip(1, 5, 6), 3, Clip(3, 2, 2), 21],
    [2, Clip(2, 2, 2), 1],
]
each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
OTHERS = [family for name, family in FAMILIES.items() if name != "qwen2_5_omni_thinker"]
each_other = pytest.mark.parametrize("family", OTHERS, ids=str)
"""`test_encoder_attention.py` is about Qwen2.5-Omni."""


@functools.cache
def host(family: Family, attention: str = "sdpa", windows: int = 400, layers: int = 1) -> Any:
    """Encoders whose heads attend unevenly: of even attention any order would pass. The last block sees its frame."""
    config = family.config()
    if hasattr(config.vision_config, "fullatt_block_indexes"):
        config.vision_config.fullatt_block_indexes = [config.vision_config.depth - 1]
    if family is OMNI:
        config.audio_config.n_window_infer, config.audio_config.encoder_layers = windows, layers
    model = replace(family, config=lambda: config).model()
    model.set_attn_implementation(attention)
    for name, weight in model.named_parameters():
        if name.endswith(("attn.qkv.weight", "attn.q.weight", "attn.k.weight")) or "audio_tower" in name:
            weight.data *= 2.0 if "audio_tower" in name else 6.0
    return model


@torch.no_grad()
def extras_of(model: Any, inputs: dict[str, Any], *needs: str) -> dict[str, Tensor]:
    """[B, S] each: the extras that the compressor gets."""
    method = ReadsAttention(HALF, frozenset(needs)) if needs else ReadsAttention()
    with omnisift.attach(model, method):
        model(**inputs)
    return {name: value.view_as(inputs["input_ids"]) for name, value in method.extras[0].items()}


def weights_received(monkeypatch: pytest.MonkeyPatch, module: Any, call: Any) -> Tensor:
    """[T]: attention received by each step of ``module`` in ``call``, from the weights of the host's eager function."""
    source: Any = sys.modules[type(module).__module__]
    original, found = source.eager_attention_forward, []

    def watched(attention: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = original(attention, *args, **kwargs)
        if attention is module:
            found.append(weights[0].sum(dim=1).mean(dim=0))
        return output, weights

    with monkeypatch.context() as patched:
        patched.setattr(source, "eager_attention_forward", watched)
        call()
    return torch.cat(found)


def on_tokens(inputs: dict[str, Any], token: int, values: Tensor) -> Tensor:
    return torch.zeros(inputs["input_ids"].shape).masked_scatter(inputs["input_ids"] == token, values)


@torch.no_grad()
@each_other
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_video_attention_is_the_hosts_own_in_the_order_of_its_tokens(
    family: Family, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, eager = family.inputs(*rows), host(family, "eager")
    tower: Any = adapter_for(eager).parts.vision_encoder
    arguments = inputs["pixel_values_videos"], inputs["video_grid_thw"]
    patches = weights_received(monkeypatch, tower.blocks[-1].attn, lambda: tower(*arguments))
    tokens = patches.view(-1, 4).mean(dim=1)
    # The host itself brings values into the order of its tokens, if its merger is made to put them out.
    handle = tower.merger.register_forward_hook(lambda m, a, o: tokens.unsqueeze(1).expand(-1, WIDTH))
    ordered = tower(*arguments).pooler_output[:, 0]
    handle.remove()
    expected = on_tokens(inputs, VIDEO, ordered)
    assert ordered.std() > 0.05
    for model in (eager, host(family)):
        found = extras_of(model, inputs)
        torch.testing.assert_close(found[VIDEO_FRAME], expected, rtol=1e-4, atol=1e-5)
        assert bool(found[AUDIO_CLIP].any()) == ("input_features" in inputs)
    assert not recorded_runs()


@torch.no_grad()
@pytest.mark.parametrize(("name", "windows"), [(AUDIO_WINDOW, 200), (AUDIO_CLIP, 2000)])
def test_audio_attention_of_qwen3_omni_is_the_hosts_own_where_the_hosts_window_is_ours(
    name: str, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = OMNI.inputs([4, Clip(5, 2, 2, 5), 3, Clip(2, 2, 3, 2), 4], [6, Clip(3, 2, 2, 3), 2])
    eager = host(OMNI, "eager", windows, layers=2)
    attention = adapter_for(eager).parts.audio_encoder.layers[-1].self_attn  # type: ignore[union-attr, index]
    values = weights_received(
        monkeypatch,
        attention,
        lambda: eager.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]),
    )
    assert values.std() > 0.05
    found = extras_of(host(OMNI, "sdpa", windows, layers=2), inputs, name)
    torch.testing.assert_close(found[name], on_tokens(inputs, AUDIO, values), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "windows"), [(AUDIO_WINDOW, 200), (AUDIO_CLIP, 2000)])
def test_audio_attention_covers_its_span_whatever_the_encoder_attends_within(
    name: str, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one layer, what enters it does not depend on the encoder's own windows, here of four seconds."""
    inputs = OMNI.inputs([4, Clip(6, 2, 2, 6), 3], [6, Clip(3, 2, 2, 3), 2])
    eager = host(OMNI, "eager", windows)
    attention = adapter_for(eager).parts.audio_encoder.layers[-1].self_attn  # type: ignore[union-attr, index]
    values = weights_received(
        monkeypatch,
        attention,
        lambda: eager.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"]),
    )
    found = extras_of(host(OMNI), inputs, name)
    torch.testing.assert_close(found[name], on_tokens(inputs, AUDIO, values), rtol=1e-4, atol=1e-5)


def test_steps_of_qwen3_omnis_audio_are_its_tokens() -> None:
    """For every length up to eleven seconds, by the host's own rule."""
    encoder: Any = adapter_for(host(OMNI)).parts.audio_encoder
    attention = encoder.layers[-1].self_attn
    probe = ChunkedAudioProbe(ProbedEncoder(encoder, attention, attention.q_proj, attention.k_proj), frozenset())
    lengths = range(1, 1101)
    assert [probe.steps(length) for length in lengths] == [
        int(_get_feat_extract_output_lengths(torch.tensor(length))) for length in lengths
    ]


@torch.no_grad()
@each_other
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_gives_the_same_although_it_encodes_before_the_call(family: Family, beams: int) -> None:
    model = host(family)
    if beams > 1 and "video" not in model.input_modalities:
        pytest.skip("this release gives beams of Qwen3.5 the pixels of other rows, with nothing attached")
    inputs = family.inputs(*BEFORE_THE_CALL)
    method = ReadsAttention(HALF, frozenset({VIDEO_FRAME}))
    with omnisift.attach(model, method):
        model.generate(**inputs, max_new_tokens=3, num_beams=beams)
        model.generate(**family.inputs([4, Clip(2, 3, 3), 5]), max_new_tokens=2)
    expected = extras_of(model, inputs, VIDEO_FRAME)[VIDEO_FRAME].repeat_interleave(beams, dim=0)
    torch.testing.assert_close(method.extras[0][VIDEO_FRAME].view_as(expected), expected)
    assert len(method.extras) == 2


@torch.no_grad()
@each_family
@pytest.mark.parametrize(
    "name",
    [
        "visionzip",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("omnizip", "seats", "attended", "omnipack:attention=true")
        ),
    ],
)
def test_methods_that_read_it_cut_prompts_of_every_family(family: Family, name: str) -> None:
    model, inputs = plain_host(family), family.inputs(*THREE)
    method = compressor(family, name, Budget(retain=0.5))
    assert method.needs
    logits, attachment, cut, merged = read(model, inputs, method)
    assert attachment.last is not None
    full = expected_logits(family, model, inputs, attachment.last.keep, merged)
    note(family, "encoder attention", apart(logits, full, cut))


@each_family
def test_an_extra_that_no_encoder_has_is_refused_by_name(family: Family) -> None:
    method = ReadsAttention(HALF, frozenset({VIDEO_FRAME, "text_attention"}))
    with pytest.raises(CompressorError, match=r"needs \['text_attention'\].*can't supply"):
        omnisift.attach(plain_host(family), method)
