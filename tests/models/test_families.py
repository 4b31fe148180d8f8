"""What single families need: clocks, prompts in the order of their processors, and refusals with one line."""

from __future__ import annotations

import functools
import inspect
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tests.helpers import models
from tests.helpers.contract import made
from tests.helpers.families import Clip, Family
from tests.helpers.family_contract import QUARTER, THREE, host
from tests.helpers.models import AUDIO, VIDEO, WIDTH
from tests.helpers.rare_families import FAMILIES, MOST

import omnisift
from omnisift.chunks import steps_in_chunk
from omnisift.errors import UnsupportedCall, UnsupportedModel
from omnisift.models import Prompt, adapter_class, adapter_for, model_class

each_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
most_families = pytest.mark.parametrize("family", MOST)
with_nemotron = pytest.mark.skipif("nemotron_h_omni" not in FAMILIES, reason="reads videos from Transformers 5.24 on")
READ_OR_CUT_ELSEWHERE = {
    "attention_mask", "cache", "cache_position", "input_ids", "inputs_embeds", "kwargs", "labels", "logits_to_keep",
    "output_attentions", "output_hidden_states", "output_router_logits", "past_key_values", "position_ids",
    "return_dict", "self", "use_cache",
}  # fmt: skip
OMNI = FAMILIES["qwen3_omni_moe_thinker"]


@each_family
def test_every_argument_of_the_language_model_has_a_rule(family: Family) -> None:
    """By signature, so that an argument of a new release is seen."""
    adapter = adapter_for(host(family))
    names = set(inspect.signature(type(adapter.parts.language_model).forward).parameters)
    assert names - READ_OR_CUT_ELSEWHERE - {"args"} == set(adapter.side_inputs)


@pytest.mark.parametrize("seconds", [1.0, 0.77, 2.5, 1 / 13])
def test_fractions_of_rotary_ids_are_kept(seconds: float) -> None:
    model, clip = host(OMNI), Clip(4, 2, 2, 13)
    adapter = adapter_for(model)
    core: Any = adapter.parts.core
    ids = torch.tensor([[30, 31, models.VISION_START, models.AUDIO_START, *OMNI.interleaved(clip, seconds), 32, 33]])
    inputs = {"video_grid_thw": torch.tensor([[4, 4, 4]]), "video_second_per_grid": torch.tensor([seconds])}
    rotary = core.get_rope_index(
        ids,
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=True,
        audio_seqlens=torch.tensor([1300]),
        second_per_grids=inputs["video_second_per_grid"],
    )[0][0, 0]
    layout = adapter.layout(Prompt(ids, torch.ones_like(ids).bool(), adapter.modality(ids), inputs))
    inside = layout.clip[0] >= 0
    assert int(inside.sum()) == 16 + 169
    time = (rotary[inside] - rotary[inside].min()).double() * 1e6 / 13
    assert float((layout.position[0, 0, inside] - time).abs().max()) < 2.0


@pytest.mark.parametrize("seconds", [1.0, 0.77, 2.5])
def test_prompts_of_qwen3_omni_have_the_order_of_its_processor(seconds: float) -> None:
    kind = transformers.Qwen3OmniMoeProcessor
    if not hasattr(kind, "replace_video_with_audio_token"):
        pytest.skip("this release writes prompts elsewhere")
    processor = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2), audio_bos_token="", audio_eos_token="", video_token="V",
        audio_token="A",
    )  # fmt: skip
    text = kind.replace_video_with_audio_token(
        processor,
        {"video_grid_thw": np.array([[4, 4, 4]]), "video_second_per_grid": [seconds]},
        0,
        {"num_audio_tokens": np.array([52])},
        0,
        position_id_per_seconds=13.0,
    )
    assert [{"V": VIDEO, "A": AUDIO}[letter] for letter in text] == OMNI.interleaved(Clip(4, 2, 2, 4), seconds)


@torch.no_grad()
@most_families
def test_arguments_that_can_not_be_cut_are_refused(family: Family) -> None:
    model, inputs = host(family), family.inputs(*THREE[:1])
    with omnisift.attach(model, made("random", QUARTER, WIDTH)):
        model(**inputs, logits_to_keep=1)
        with pytest.raises(UnsupportedCall, match="pass a number"):
            model(**inputs, logits_to_keep=torch.tensor([3, 4]))


@torch.no_grad()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_videos_encoded_before_the_compressor_was_attached_are_refused(name: str) -> None:
    family = FAMILIES[name]
    model, inputs = host(family), family.inputs(*THREE[:1])
    encoded = model.model.get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"], return_dict=True)
    text = {key: value for key, value in inputs.items() if key not in ("pixel_values_videos", "video_grid_thw")}
    with (
        omnisift.attach(model, made("random", QUARTER, WIDTH)),
        pytest.raises(UnsupportedCall, match="without video_grid_thw"),
    ):
        model(**text, mm_encoder_outputs={"video": encoded})


@each_family
def test_a_part_without_a_language_head_is_refused(family: Family) -> None:
    with pytest.raises(UnsupportedModel, match="language head"):
        adapter_class(family.model_type)(adapter_for(host(family)).parts.language_model)


@with_nemotron
@pytest.mark.parametrize("name", ["glm4v", "glm46v"])
def test_a_video_of_glm_that_nothing_tells_from_an_image_is_refused(name: str) -> None:
    """In a forward pass, and in ``generate``, which encodes the video first and passes its features alone."""
    model, inputs = host(FAMILIES[name]), FAMILIES[name].inputs(*THREE[:1])
    del inputs["mm_token_type_ids"]
    with omnisift.attach(model, "v_cast", retain=0.25):
        for call in (model, functools.partial(model.generate, max_new_tokens=1)):
            with pytest.raises(UnsupportedCall, match="without mm_token_type_ids"):
                call(**inputs)


def test_a_nemotron_that_fails_on_its_videos_or_drops_tokens_itself_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = host(FAMILIES["nemotron_h_omni"])
    with monkeypatch.context() as fault:
        fault.setattr(model.config, "video_pruning_rate", 0.5)
        with pytest.raises(UnsupportedModel, match=r"video_pruning_rate is 0\.5.* set it to 0"):
            omnisift.attach(model, "random", retain=0.25)
    # As the class is up to Transformers 5.23.
    old = transformers.GenerationMixin._expand_multimodal_outputs
    monkeypatch.setattr(type(model), "_expand_multimodal_outputs", old)
    with pytest.raises(UnsupportedModel, match=r"fails on its own videos.* install Transformers 5\.24"):
        omnisift.attach(model, "random", retain=0.25)


@with_nemotron
@torch.no_grad()
def test_nemotrons_videos_that_were_encoded_before_the_compressor_was_attached_are_refused() -> None:
    family = FAMILIES["nemotron_h_omni"]
    model, inputs = host(family), family.inputs(*THREE[:1])
    encoded = model.get_video_features(inputs.pop("pixel_values_videos"), return_dict=True)
    with (
        omnisift.attach(model, made("random", QUARTER, WIDTH)),
        pytest.raises(UnsupportedCall, match="encoded before the compressor was attached"),
    ):
        model(**inputs, mm_encoder_outputs={"video": encoded})


@torch.no_grad()
def test_frames_of_which_the_host_drops_tokens_are_refused() -> None:
    family = FAMILIES["video_llama_3"]
    inputs = family.inputs(*THREE[:1])
    inputs["video_compression_mask"][3] = False
    with (
        omnisift.attach(host(family), made("random", QUARTER, WIDTH)),
        pytest.raises(UnsupportedCall, match="use_token_compression=False"),
    ):
        host(family)(**inputs)


def test_a_class_that_transformers_lacks_is_one_line_with_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in {family.model_type for family in FAMILIES.values()}:
        assert model_class(kind).__name__ == adapter_class(kind).model_class
    monkeypatch.setattr(adapter_class("qwen3_vl"), "model_class", "Qwen9VLForConditionalGeneration")
    monkeypatch.setattr(adapter_class("qwen3_vl"), "release", "9.1")
    with pytest.raises(UnsupportedModel, match=r"needs Qwen9VL.* lacks; install Transformers 9\.1 or newer"):
        model_class("qwen3_vl")


@pytest.mark.parametrize("seconds", [1.0, 0.77, 2.5])
def test_time_steps_of_audio_at_13_tokens_a_second(seconds: float) -> None:
    """A selector with a time embedding sees them; computed here in exact fractions of seconds."""
    clip = Clip(5, 2, 2, 13)
    adapter = adapter_for(host(OMNI))
    ids = torch.tensor([[30, models.VISION_START, *OMNI.interleaved(clip, seconds), 32]])
    inputs = {"video_grid_thw": torch.tensor([[5, 4, 4]]), "video_second_per_grid": torch.tensor([seconds])}
    layout = adapter.layout(Prompt(ids, torch.ones_like(ids).bool(), adapter.modality(ids), inputs))
    stream = layout.stream(torch.zeros(1, ids.shape[1], 2))
    found = steps_in_chunk(stream)[stream.modality == int(omnisift.Modality.AUDIO)].tolist()
    frame, expected = Fraction(str(seconds)), []
    for rank in range(13 * 13):
        chunk = min(Fraction(rank, 13) // (2 * frame), 2)  # three chunks; the last frame's is as long as the others
        inside = Fraction(rank, 13) - chunk * 2 * frame
        expected.append(min(int(50 * inside / (2 * frame)), 49))
    # The clock counts whole microseconds, so a time on a border may fall on either side of it.
    assert all(abs(one - other) <= 1 for one, other in zip(found, expected, strict=True))
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 4
    assert len(set(found)) >= min(50, int(26 * seconds))


def test_an_own_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the place of the library's, also of none; its types are checked."""
    family = FAMILIES["qwen3_vl"]
    own = type("Own", (adapter_class("qwen3_vl"),), {})
    with omnisift.attach(host(family), "v_cast", retain=0.25, adapter=own) as attachment:
        assert type(attachment.adapter) is own
    monkeypatch.setattr("omnisift.models.base.ADAPTERS", ())
    with pytest.raises(UnsupportedModel, match="no adapter for"):
        omnisift.attach(host(family), "v_cast", retain=0.25)
    with omnisift.attach(host(family), "v_cast", retain=0.25, adapter=own), torch.no_grad():
        host(family)(**family.inputs(*THREE[:1]))
    other = type("Other", (own,), {"model_types": frozenset({"other"})})
    with pytest.raises(UnsupportedModel, match="Other is for other, got model_type 'qwen3_vl': add it"):
        omnisift.attach(host(family), "v_cast", retain=0.25, adapter=other)


@pytest.mark.parametrize("wrong", ["GridAdapter", 42, omnisift.GridAdapter])
def test_a_wrong_adapter_is_one_typed_error(wrong: Any) -> None:
    with pytest.raises(omnisift.UsageError, match=r"adapter must be|needs model_types"):
        omnisift.attach(host(FAMILIES["qwen3_vl"]), "v_cast", retain=0.25, adapter=wrong)
