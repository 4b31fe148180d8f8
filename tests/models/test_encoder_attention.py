"""Encoder attention in the extras of a compressor: the host's own weights, on the right tokens, of this call only."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from tests.helpers.models import (
    AUDIO,
    VIDEO,
    WIDTH,
    Audio,
    Image,
    Part,
    Video,
    language_model,
    prompt,
    row_of,
    thinker,
    thinker_config,
)
from tests.models.hosts import ALL, HALF, ReadsAttention, half, language_model_arguments
from tests.models.test_attach import Wrapper, same, state
from torch import Tensor
from transformers import Qwen2_5OmniThinkerForConditionalGeneration
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

import omnisift
from omnisift.errors import CompressorError
from omnisift.models.attention_probe import EncoderRun

AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME = "audio_attention", "audio_attention_window", "video_attention"
ROWS: dict[str, list[list[Part]]] = {
    "one video": [[5, Video(4, 5, 6), 6]],
    "two videos with audio": [[4, Video(3, 5, 2, audio=70), 3, Video(2, 2, 6, audio=40), 9]],
    "images and videos": [[3, Image(6, 5), 2, Video(2, 5, 5, audio=30), 4, Image(2, 2), 7]],
    "an image of the video's size": [[3, Image(5, 6), 2, Video(1, 5, 6, audio=25), 4]],
    "plain audio and a video": [[3, Audio(33), 2, Video(4, 2, 3, audio=90), 4, Audio(12), 2]],
    "a batch": [[5, Video(4, 2, 3, audio=90), 6], [9, Video(2, 5, 6, audio=31), 21], [2, Audio(8), 3], [7]],
}


def host(attention: str = "sdpa", n_window: int = 50, seed: int = 0) -> Any:
    """Two layers in each encoder, so that the last one differs from the first; windows of 4 x 4 tokens in the first."""
    torch.manual_seed(seed)
    config = thinker_config()
    config.audio_config.encoder_layers, config.audio_config.n_window = 2, n_window
    config.vision_config.depth, config.vision_config.fullatt_block_indexes = 2, [1]
    model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation=attention)
    for name, weight in model.named_parameters():
        if name.endswith(("attn.q.weight", "attn.k.weight", "q_proj.weight", "k_proj.weight")):
            weight.data *= 20  # random weights attend to everything alike, and any order would pass
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    model.generation_config.suppress_tokens = list(range(20))
    return model.eval()


MODEL = host()


def core(model: Any) -> Any:
    return model if hasattr(model, "audio_tower") else model.model


def odd(inputs: dict[str, Any], more: int = 2) -> dict[str, Any]:
    """One or two more mel frames in each audio clip: half a token, which the host drops."""
    mask, mel = inputs["feature_attention_mask"], inputs["input_features"]
    wide = torch.nn.functional.pad(mask, (0, more))
    for row, length in zip(wide, mask.sum(1).tolist(), strict=True):
        row[length : length + more] = 1
    tail = torch.randn(*mel.shape[:2], more, generator=torch.Generator().manual_seed(5))
    return {**inputs, "feature_attention_mask": wide, "input_features": torch.cat([mel, tail], dim=2)}


@torch.no_grad()
def extras_of(model: Any, inputs: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    """[B, S] each: the extras that the compressor gets."""
    compressor = ReadsAttention(**options)
    with omnisift.attach(model, compressor):
        model(**inputs)
    assert len(compressor.extras) == 1
    return {name: value.view_as(inputs["input_ids"]) for name, value in compressor.extras[0].items()}


def on_tokens(inputs: dict[str, Any], token: int, values: Tensor) -> Tensor:
    zeros = torch.zeros(inputs["input_ids"].shape)
    return zeros.masked_scatter(inputs["input_ids"] == token, values)


def pooled(steps: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Audio by audio, as ``AvgPool1d(2, stride=2)`` does."""
    lengths = ((inputs["feature_attention_mask"].sum(1) + 1) // 2).tolist()
    pooler = torch.nn.AvgPool1d(2, stride=2)
    return torch.cat([pooler(part.view(1, -1))[0] for part in steps.split(lengths)])


class Weights:
    """Records the softmax weights of the host's own eager attention."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_module: dict[Any, list[Tensor]] = {}
        self.original = modeling.eager_attention_forward
        monkeypatch.setattr(modeling, "eager_attention_forward", self)

    def __call__(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = self.original(module, *args, **kwargs)
        self.by_module.setdefault(module, []).append(weights)
        return output, weights

    def received(self, module: Any) -> Tensor:
        return torch.cat([weights[0].sum(dim=1).mean(dim=0) for weights in self.by_module[module]])


@torch.no_grad()
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS.keys())
def test_video_attention_is_the_hosts_own_in_the_order_of_its_tokens(
    rows: list[list[Part]], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, eager = prompt(*rows), host("eager")
    weights, tower = Weights(monkeypatch), core(eager).visual
    arguments = {"hidden_states": inputs["pixel_values_videos"], "grid_thw": inputs["video_grid_thw"]}
    tower(**arguments)
    tokens = weights.received(tower.blocks[-1].attn).view(-1, 4).mean(1)
    # The host itself brings values back into order, if its merger is made to put them out.
    handle = tower.merger.register_forward_hook(lambda m, a, o: tokens.unsqueeze(1).expand(-1, WIDTH))
    ordered = tower(**arguments).pooler_output[:, 0]
    handle.remove()
    expected = on_tokens(inputs, VIDEO, ordered)
    assert expected[inputs["input_ids"] == VIDEO].std() > 0.05
    for model in (eager, MODEL):
        torch.testing.assert_close(extras_of(model, inputs)[VIDEO_FRAME], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("name", "n_window"), [(AUDIO_WINDOW, 100), (AUDIO_CLIP, 700)])
@pytest.mark.parametrize("more", [0, 1, 2])
def test_audio_attention_is_the_hosts_own_where_the_hosts_window_is_ours(
    name: str, n_window: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds are 200 mel frames; 1400 hold a complete audio clip."""
    inputs = odd(prompt([3, Audio(33), 2, Video(4, 2, 3, audio=140), 4], [2, Video(2, 1, 2, audio=50), 3]), more)
    eager = host("eager", n_window)
    weights = Weights(monkeypatch)
    eager.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
    tokens = pooled(weights.received(core(eager).audio_tower.layers[-1].self_attn), inputs)
    torch.testing.assert_close(extras_of(eager, inputs)[name], on_tokens(inputs, AUDIO, tokens), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("more", [0, 2])
@pytest.mark.parametrize("rows", [rows for name, rows in ROWS.items() if name != "one video"])
def test_audio_attention_covers_its_span_although_the_encoder_attends_in_smaller_windows(
    rows: list[list[Part]], more: int
) -> None:
    inputs, layer, seen = prompt(*rows), core(MODEL).audio_tower.layers[-1], []
    inputs = odd(inputs, more) if more else inputs
    handle = layer.register_forward_pre_hook(lambda m, a, k: seen.append([*a, *k.values()][0]), with_kwargs=True)
    MODEL.get_audio_features(inputs["input_features"], inputs["feature_attention_mask"])
    handle.remove()
    states = layer.self_attn_layer_norm(seen[0])
    query, key = (
        projection(states).view(-1, 2, 8).transpose(0, 1)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    )
    lengths = (inputs["feature_attention_mask"].sum(1) + 1) // 2
    clip = torch.repeat_interleave(lengths)
    second = torch.cat([torch.arange(length) // 100 for length in lengths.tolist()])
    for name, span in ((AUDIO_CLIP, clip), (AUDIO_WINDOW, clip * 1000 + second)):
        logits = (query @ key.transpose(1, 2) / 8**0.5).masked_fill(span != span.unsqueeze(1), -torch.inf)
        expected = on_tokens(inputs, AUDIO, pooled(logits.softmax(-1).sum(1).mean(0), inputs))
        torch.testing.assert_close(extras_of(MODEL, inputs)[name], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("pad", ["left", "right"])
def test_rows_of_a_batch_get_the_extras_of_single_prompts(pad: str) -> None:
    rows: list[list[Part]] = [
        [5, Video(4, 2, 3, audio=90), 6],
        [9, Video(2, 5, 6, audio=31), 3, Video(3, 2, 2, audio=20), 21],
        [2, Audio(8), 3, Video(1, 3, 3, audio=9), 4],
    ]
    inputs = prompt(*rows, pad=pad)
    batch = extras_of(MODEL, inputs)
    for index, row in enumerate(rows):
        single = extras_of(MODEL, row_of(inputs, row, index, rows))
        real = inputs["attention_mask"][index].bool()
        for name, value in batch.items():
            torch.testing.assert_close(value[index, real], single[name][0], rtol=1e-4, atol=1e-5)
            assert not value[index, ~real].any()


@torch.no_grad()
def test_values_are_float32_on_their_own_tokens_and_zero_elsewhere() -> None:
    inputs = prompt(*ROWS["images and videos"])
    for name, value in extras_of(MODEL, inputs).items():
        assert value.dtype == torch.float32
        assert torch.equal(value > 0, inputs["input_ids"] == (VIDEO if name == VIDEO_FRAME else AUDIO))


@torch.no_grad()
def test_a_video_without_audio_gives_zeros_for_audio() -> None:
    extras = extras_of(MODEL, prompt([5, Video(4, 2, 3), 6]))
    assert extras.keys() == ReadsAttention.needs
    assert not extras[AUDIO_CLIP].any()
    assert not extras[AUDIO_WINDOW].any()
    assert extras[VIDEO_FRAME].any()


@torch.no_grad()
def test_a_half_precision_host_gives_nearly_the_same() -> None:
    model, inputs = host().to(torch.bfloat16), prompt(*ROWS["a batch"])
    exact = extras_of(MODEL, inputs)
    for name, value in extras_of(model, inputs).items():
        assert value.dtype == torch.float32
        assert (value - exact[name]).abs().max() < 0.1
        assert torch.equal(value > 0, exact[name] > 0)


# --- only what is needed, only while attached ------------------------------------------------------------------------


def recorded_runs() -> list[EncoderRun]:
    """Every run in memory, whoever refers to it."""
    gc.collect()
    return [item for item in gc.get_objects() if type(item) is EncoderRun]


def hooked(model: Any) -> set[str]:
    """Encoders with hooks inside; the vision encoder itself always has the one that reads its grids."""
    towers = {"audio": core(model).audio_tower, "video": core(model).visual}
    return {
        name
        for name, tower in towers.items()
        for module in tower.modules()
        if module is not tower and (module._forward_hooks or module._forward_pre_hooks)
    }


@torch.no_grad()
@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ((), set()),
        ((AUDIO_CLIP,), {"audio"}),
        ((AUDIO_WINDOW,), {"audio"}),
        ((VIDEO_FRAME,), {"video"}),
        ((AUDIO_CLIP, VIDEO_FRAME), {"audio", "video"}),
    ],
)
def test_only_the_needed_encoders_get_hooks(needs: tuple[str, ...], expected: set[str]) -> None:
    model, inputs = host(), prompt([5, Video(4, 2, 3, audio=60), 6])
    with omnisift.attach(model, half()):
        assert hooked(model) == set()
    compressor = ReadsAttention(HALF, frozenset(needs))
    with omnisift.attach(model, compressor):
        assert hooked(model) == expected
        model(**inputs)
    assert compressor.extras[0].keys() == set(needs)
    assert hooked(model) == set()


@torch.no_grad()
def test_detaching_leaves_nothing_and_probes_change_no_output() -> None:
    model, inputs = host(), prompt([5, Video(4, 2, 3, audio=60), 6])
    full = model(**inputs).logits
    before, weights = state(model), {name: value.clone() for name, value in model.state_dict().items()}
    with omnisift.attach(model, ReadsAttention(ALL)):
        assert torch.equal(model(**inputs).logits, full)
        model.generate(**inputs, max_new_tokens=2)
    with pytest.raises(RuntimeError, match="from the block"), omnisift.attach(model, ReadsAttention()):
        raise RuntimeError("from the block")
    model(**inputs)
    assert same(before, state(model))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@torch.no_grad()
def test_nothing_is_kept_after_the_prompt_was_read() -> None:
    with omnisift.attach(MODEL, ReadsAttention()):
        MODEL(**prompt([5, Video(4, 2, 3, audio=60), 6]))
        assert not recorded_runs()


# --- this call's encoders, or a typed error --------------------------------------------------------------------------


@torch.no_grad()
def embeds_of(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same prompt as embeddings made by the caller."""
    rest = {name: value for name, value in inputs.items() if name not in ("pixel_values_videos", "input_features")}
    return {**rest, "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"])}


@torch.no_grad()
@pytest.mark.parametrize(("lacks", "needs"), [("pixel_values_videos", VIDEO_FRAME), ("input_features", AUDIO_CLIP)])
def test_an_encoder_that_did_not_run_is_named(lacks: str, needs: str) -> None:
    inputs = prompt([3, Image(2, 3), 4, Video(1, 2, 3, audio=10), 6])
    embedded = embeds_of(MODEL, inputs)
    with omnisift.attach(MODEL, ReadsAttention(HALF, frozenset({needs}))):
        # Before and after a call in which it ran, and with an image of the same size.
        for _ in range(2):
            with pytest.raises(CompressorError, match=f"{needs}.*pass {lacks}"):
                MODEL(**embedded)
            MODEL(**inputs)
        core(MODEL).visual(inputs["pixel_values_videos"], grid_thw=inputs["video_grid_thw"])
        with pytest.raises(CompressorError, match=f"{needs}.*pass {lacks}"):
            MODEL(**embedded)
        # That the other encoder did not run doesn't matter.
        MODEL(**embedded, **{name: inputs[name] for name in (lacks,)})


@torch.no_grad()
def test_a_run_for_images_is_not_used_for_the_videos() -> None:
    """The host encodes images first. A last run for another input is an error."""
    inputs = prompt([3, Image(3, 4), 4, Video(2, 2, 3), 6])
    tower, between = core(MODEL).visual, language_model(MODEL)
    handle = between.register_forward_pre_hook(
        lambda m, a: tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]) and None
    )
    with (
        omnisift.attach(MODEL, ReadsAttention()),
        pytest.raises(CompressorError, match="which it did not for the 12 video tokens"),
    ):
        MODEL(**inputs)
    handle.remove()


@torch.no_grad()
def test_more_audio_than_tokens_is_refused() -> None:
    """The host would silently use the first values."""
    inputs = prompt([5, Video(4, 2, 3, audio=60), 6])
    inputs["position_ids"] = language_model_arguments(MODEL, inputs)[
        "position_ids"
    ]  # else the host's rule for them fails first
    longer = prompt([5, Video(4, 2, 3, audio=80), 6])
    inputs |= {name: longer[name] for name in ("input_features", "feature_attention_mask")}
    with omnisift.attach(MODEL, ReadsAttention()), pytest.raises(CompressorError, match=r"80 values.*60 audio tokens"):
        MODEL(**inputs)


@torch.no_grad()
def test_attention_of_a_failed_call_is_not_used_by_the_next() -> None:
    inputs = prompt([5, Video(4, 2, 3, audio=60), 6])
    broken = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:-4]}  # fails after the audio was encoded
    with omnisift.attach(MODEL, ReadsAttention()) as attachment:
        with pytest.raises(IndexError, match="out of bounds"):
            MODEL(**broken)
        with pytest.raises(CompressorError, match="input_features"):
            MODEL(**embeds_of(MODEL, inputs), pixel_values_videos=inputs["pixel_values_videos"])
        compressor = ReadsAttention()
        attachment.compressor = compressor
        MODEL(**inputs)
    expected = extras_of(MODEL, inputs)
    assert all(torch.equal(value, expected[name].flatten()) for name, value in compressor.extras[0].items())


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generate_gives_the_same_although_it_encodes_before_the_call(beams: int) -> None:
    inputs = prompt([3, Image(5, 6), 5, Video(4, 2, 3), 6], [9, Video(1, 5, 6), 3, Video(3, 2, 2), 21], [2, Video(2)])
    compressor = ReadsAttention(HALF, frozenset({VIDEO_FRAME}))
    with omnisift.attach(MODEL, compressor):
        MODEL.generate(**inputs, max_new_tokens=3, num_beams=beams)
        MODEL.generate(**prompt([4, Video(2, 3, 3), 5]), max_new_tokens=2)
    expected = extras_of(MODEL, inputs)[VIDEO_FRAME].repeat_interleave(beams, dim=0)
    torch.testing.assert_close(compressor.extras[0][VIDEO_FRAME].view_as(expected), expected)
    assert len(compressor.extras) == 2


@torch.no_grad()
def test_generate_records_audio_too() -> None:
    inputs, compressor = prompt(*ROWS["a batch"]), ReadsAttention()
    with omnisift.attach(MODEL, compressor):
        MODEL.generate(**inputs, max_new_tokens=3)
    for name, value in extras_of(MODEL, inputs).items():
        torch.testing.assert_close(compressor.extras[0][name].view_as(value), value)


@torch.no_grad()
def test_outputs_encoded_while_attached_can_be_passed_in_any_order_and_others_not() -> None:
    prompts = [prompt([5, Video(4, 2, 3), 6]), prompt([3, Video(4, 2, 3), 6], seed=1)]
    expected = [extras_of(MODEL, inputs)[VIDEO_FRAME].flatten() for inputs in prompts]

    def encoded() -> list[Any]:
        return [MODEL.get_video_features(i["pixel_values_videos"], i["video_grid_thw"]) for i in prompts]

    def call(index: int, output: Any) -> None:
        rest = {name: value for name, value in prompts[index].items() if name != "pixel_values_videos"}
        MODEL(**rest, mm_encoder_outputs={"video": output})

    before = encoded()
    compressor = ReadsAttention(HALF, frozenset({VIDEO_FRAME}))
    with omnisift.attach(MODEL, compressor):
        while_attached = encoded()
        for index in (0, 1, 0):
            call(index, while_attached[index])
            assert torch.equal(compressor.extras[-1][VIDEO_FRAME], expected[index])
        with pytest.raises(CompressorError, match="pass pixel_values_videos while the compressor is attached"):
            call(0, before[0])


@torch.no_grad()
def test_a_wrapper_that_calls_forward_directly_gets_the_same() -> None:
    inputs = prompt(*ROWS["two videos with audio"])
    expected = extras_of(MODEL, inputs)
    for name, value in extras_of(Wrapper(MODEL), inputs).items():
        assert torch.equal(value, expected[name])


def test_prompts_without_video_pass_unchanged() -> None:
    compressor = ReadsAttention()
    with torch.no_grad(), omnisift.attach(MODEL, compressor):
        MODEL(**prompt([3, Image(), Audio(7), 5]))
        MODEL(**prompt([7]))
    assert compressor.extras == []


def test_checkpointing_in_training_neither_records_twice_nor_changes_a_gradient() -> None:
    inputs = prompt([5, Video(4, 2, 3, audio=60), 6])
    gradients = []
    for checkpointing in (False, True):
        model = host().train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        compressor = ReadsAttention()
        with omnisift.attach(model, compressor):
            model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
            assert not recorded_runs()
        assert not any(value.requires_grad for value in compressor.extras[0].values())
        gradients.append([weight.grad for weight in core(model).audio_tower.parameters() if weight.grad is not None])
    assert gradients[0]
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_a_thinker_of_one_layer_works_too() -> None:
    assert extras_of(thinker(), prompt(*ROWS["one video"]))[VIDEO_FRAME].any()
