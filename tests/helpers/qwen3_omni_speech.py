"""The full Qwen3-Omni with a tiny talker, conversations for it, and its speech from kept tokens, computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import transformers
from tests.helpers import families
from tests.helpers.families import FAMILIES, Row
from tests.helpers.models import AUDIO, AUDIO_START, FIRST_WORD, IMAGE, PAD, VIDEO, VISION_START, WIDTH, language_model
from torch import Tensor, nn

OMNI = FAMILIES["qwen3_omni_moe_thinker"]
IM_START, IM_END, USER, ASSISTANT, SYSTEM, TTS_PAD, TTS_BOS, TTS_EOS = range(9, 17)
LAYER = 2
"""The thinker's hidden state from which the talker hears media."""
EOS_CODE = 70
NEW_WORDS, NEW_CODES = 5, 7
TALKER = MappingProxyType(
    {
        "max_new_tokens": NEW_CODES, "do_sample": False, "repetition_penalty": 1.05, "eos_token_id": EOS_CODE,
        "suppress_tokens": [code for code in range(64, 1088) if code != EOS_CODE],
    }
)  # fmt: skip
"""What ``generate`` passes to the talker: codes are the first 64 of the vocabulary."""

Turn = tuple[int, Row]
"""The role, and what it says."""


def speaking_model() -> Any:
    """The random full model in float32, with one voice."""
    text = {**families._new_text(**families._MOE), "vocab_size": 1088, "hidden_size": 16, "num_hidden_layers": 3}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "initializer_range": 0.2}
    talker = {
        "text_config": {**text, "shared_expert_intermediate_size": 16},
        "code_predictor_config": {
            **small, "num_hidden_layers": 2, "vocab_size": 64, "num_key_value_heads": 1, "head_dim": 8,
            "num_code_groups": 4,
        },
        "num_code_groups": 4, "thinker_hidden_size": WIDTH, "codec_eos_token_id": EOS_CODE,
        "accept_hidden_layer": LAYER, "codec_nothink_id": 1, "codec_think_bos_id": 2, "codec_think_eos_id": 3,
        "codec_pad_id": 4, "codec_bos_id": 5, "speaker_id": {"ethan": 6}, "spatial_merge_size": 2,
        "position_id_per_seconds": 13, "initializer_range": 0.2, "audio_token_id": AUDIO, "image_token_id": IMAGE,
        "video_token_id": VIDEO, "vision_start_token_id": VISION_START, "audio_start_token_id": AUDIO_START,
    }  # fmt: skip
    wave = {
        **small, "num_hidden_layers": 1, "codebook_size": 64, "num_key_value_heads": 2, "num_quantizers": 4,
        "upsample_rates": [2, 2], "upsampling_ratios": [2], "decoder_dim": 16,
    }  # fmt: skip
    config = transformers.Qwen3OmniMoeConfig(
        thinker_config=OMNI.config().to_dict(), talker_config=talker, code2wav_config=wave, im_start_token_id=IM_START,
        im_end_token_id=IM_END, user_token_id=USER, assistant_token_id=ASSISTANT, system_token_id=SYSTEM,
        tts_pad_token_id=TTS_PAD, tts_bos_token_id=TTS_BOS, tts_eos_token_id=TTS_EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Qwen3OmniMoeForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():  # the host leaves the experts of its talker as they lie in memory
        for name, weight in model.talker.named_parameters():
            if ".experts." in name:
                weight.normal_(std=0.2)
    model.thinker.generation_config.pad_token_id = PAD
    model.thinker.generation_config.suppress_tokens = list(range(FIRST_WORD))
    # The host's talker reads this for the positions of video with audio, and has none (docs/models.md).
    model.talker.config.audio_config = model.thinker.config.audio_config
    return model


def conversation(*rows: list[Turn]) -> dict[str, Any]:
    """Inputs of ``generate``: the turns of each row in the form of the chat template, and the start of an answer."""
    flat: list[Row] = [[part for _, said in turns for part in (2, *said, 1)] + [3] for turns in rows]
    inputs = OMNI.inputs(*flat)
    for ids, real, turns in zip(inputs["input_ids"], inputs["attention_mask"].bool(), rows, strict=True):
        marked, start = ids[real], 0
        for role, said in turns:
            end = start + 2 + sum(len(OMNI._ids([part])) for part in said)
            marked[start], marked[start + 1], marked[end] = IM_START, role, IM_END
            start = end + 1
        marked[start], marked[start + 1] = IM_START, ASSISTANT
        ids[real] = marked
    return inputs


@torch.no_grad()
def speak(model: Any, inputs: Mapping[str, Any], **options: Any) -> tuple[Tensor, Any]:
    """Text and waveform by the host's own ``generate``."""
    options = {"thinker_eos_token_id": None, "talker_do_sample": False, **options}
    result: tuple[Tensor, Any] = model.generate(
        **inputs, thinker_max_new_tokens=NEW_WORDS, talker_max_new_tokens=NEW_CODES, **options
    )
    return result


class Listener:
    """What reached the talker's language model (after our hook) and the waveform decoder, and what the former said."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[Tensor] = []
        self.codes: list[Tensor] = []

    def __enter__(self) -> Listener:
        talker, decoder = self._model.talker.model, self._model.code2wav
        self._handles = [
            talker.register_forward_pre_hook(lambda m, a, k: self.inputs.append(dict(k)), with_kwargs=True),
            talker.register_forward_hook(lambda m, a, o: self.outputs.append(o.last_hidden_state)),
            decoder.register_forward_pre_hook(lambda m, a: self.codes.append(a[0])),
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


@dataclass(frozen=True)
class Spoken:
    """Speech of one row."""

    sequences: Tensor
    """[1, S + words]."""
    embeds: Tensor
    """[1, K, D]: the talker's prompt."""
    position_ids: Tensor
    """[4, 1, K]."""
    states: Tensor
    """[1, K, D]: what the talker's language model makes of its prompt."""
    codes: Tensor
    """[1, groups, codes]."""
    waveform: Tensor


@torch.no_grad()
def spoken_by_hand(
    model: Any,
    inputs: dict[str, Any],
    keep: Tensor,
    *,
    merged: Tensor | None = None,
    heard: Tensor | None = None,
    layer: int = LAYER,
    gaps: bool = True,
    use_audio_in_video: bool = False,
    talker: Mapping[str, Any] = MappingProxyType({}),
) -> Spoken:
    """What the untouched host says if it reads and hears the kept tokens alone.

    Args:
        model: the full host, without an attachment.
        inputs: one row without padding.
        keep: [S] bool: tokens that the thinker reads.
        merged: [kept, width]: embeddings in place of those of the kept tokens.
        heard: [S] bool: tokens that the talker hears, if they are others.
        layer: hidden state for media.
        gaps: whether kept tokens retain their positions.
        use_audio_in_video: whether the talker gives audio in video its own positions.
        talker: further options of the talker.
    """
    sequences, states = _think(model, inputs, keep, merged)
    ids = inputs["input_ids"][0].tolist()
    heard = keep if heard is None else heard
    # The user's turns: each token belongs to the role behind the latest start of a turn.
    role, users = 0, []
    for place, token in enumerate(ids):
        role = ids[place + 1] if token == IM_START else role
        users += [place] if role == USER else []
    embeds = []
    for place in users:
        if ids[place] in (AUDIO, IMAGE, VIDEO):
            embeds.append(model.talker.hidden_projection(states[layer][:, place]))
        else:
            embeds.append(model.talker.text_projection(states[0][:, place]))
    # The answer, by the host's own function; it starts at the last turn.
    special = model.thinker.get_input_embeddings()(torch.tensor([[TTS_BOS, TTS_EOS, TTS_PAD]]))
    begin, end, pad = model.talker.text_projection(special).chunk(3, dim=1)
    start = max(place for place, token in enumerate(ids) if token == IM_START)
    answer, answer_ids, trailing = model._get_talker_assistant_parts(
        start, sequences.shape[1], 6, states[0], pad, begin, end
    )
    # Positions of the talker's full prompt, by the host's own rule. Then what is dropped is left out.
    full_ids = torch.cat([torch.tensor([[ids[place] for place in users]]), answer_ids], dim=1)
    rotary = _positions(model, inputs, full_ids, use_audio_in_video)
    kept = [index for index, place in enumerate(users) if heard[place]]
    kept += range(len(users), len(users) + answer.shape[1])
    prompt = torch.stack([*embeds, *answer.unbind(1)], dim=1)[:, kept]
    text = torch.arange(len(kept)).view(1, 1, -1)
    position_ids = torch.cat([text, rotary[:, :, kept] if gaps else text.expand(3, -1, -1)])
    with Listener(model) as listener:
        result = model.talker.generate(
            inputs_embeds=prompt, position_ids=position_ids, attention_mask=torch.ones(1, len(kept)).long(),
            trailing_text_hidden=trailing, tts_pad_embed=pad, output_hidden_states=True, return_dict_in_generate=True,
            **TALKER, **talker,
        )  # fmt: skip
    codes = torch.stack([states[-1] for states in result.hidden_states if states[-1] is not None], dim=2)
    waveform = model.code2wav.chunked_decode(codes, chunk_size=300, left_context_size=25).float()
    return Spoken(sequences, prompt, position_ids, listener.outputs[0], codes, waveform)


def _think(model: Any, inputs: dict[str, Any], keep: Tensor, merged: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """The answer, word by word without a cache, and the hidden states of the prompt and all words but the last."""
    ids, positions, places = inputs["input_ids"], OMNI.positions(model.thinker, inputs), keep

    def replace(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        embeds = kwargs["inputs_embeds"].clone()
        if merged is not None:
            embeds[0, : len(keep)][keep] = merged
        return args, {**kwargs, "inputs_embeds": embeds}

    handle = language_model(model.thinker).register_forward_pre_hook(replace, with_kwargs=True)
    states: list[Tensor] = []
    for _ in range(NEW_WORDS):
        # Full length, and a mask in which no query sees a dropped token.
        seen = torch.ones(len(places), len(places)).tril().bool() & places | torch.eye(len(places)).bool()
        mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        output = model.thinker(
            **{**inputs, "input_ids": ids, "attention_mask": mask}, position_ids=positions, use_cache=False,
            output_hidden_states=True,
        )  # fmt: skip
        states = list(output.hidden_states)
        word = output.logits[:, -1:, FIRST_WORD:].argmax(dim=-1) + FIRST_WORD
        ids, places = torch.cat([ids, word], dim=1), torch.cat([places, torch.ones(1).bool()])
        positions = torch.cat([positions, (positions.max() + 1).expand(3, 1, 1)], dim=2)
    handle.remove()
    return ids, states


def _positions(model: Any, inputs: dict[str, Any], ids: Tensor, use_audio_in_video: bool) -> Tensor:
    """[3, 1, L] of the talker's full prompt."""
    mel = inputs.get("feature_attention_mask")
    if "video_grid_thw" not in inputs and "image_grid_thw" not in inputs:
        return torch.arange(ids.shape[1]).expand(3, 1, -1)
    positions: Tensor = model.talker.get_rope_index(
        ids,
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs.get("video_grid_thw"),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=use_audio_in_video,
        audio_seqlens=None if mel is None else mel.sum(dim=1),
        second_per_grids=inputs.get("video_second_per_grid"),
    )[0]
    return positions
