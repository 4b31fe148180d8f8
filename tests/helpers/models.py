"""Small random hosts of the real classes, and prompts for them: no processor, no network, milliseconds per forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from omnisift.pipeline.loading import Host
from omnisift.pipeline.stopwatch import encoders_of

PAD, EOS, AUDIO, IMAGE, VIDEO, AUDIO_START, AUDIO_END, VISION_START, VISION_END = range(9)
FIRST_WORD, VOCABULARY = 20, 96
WIDTH, MELS, PATCH = 32, 16, 4


def thinker_config(**text: Any) -> Qwen2_5OmniThinkerConfig:
    """Two decoder layers of width 32; encoders of one block."""
    config = Qwen2_5OmniThinkerConfig(
        vision_config={
            "depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2, "patch_size": PATCH,
            "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32, "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        audio_config={
            "num_mel_bins": MELS, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "d_model": 16, "n_window": 50, "output_dim": WIDTH, "max_source_positions": 1500,
        },
        text_config={
            "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
            "initializer_range": 0.2, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}, **text,
        },
        audio_token_index=AUDIO, image_token_index=IMAGE, video_token_index=VIDEO,
        audio_start_token_id=AUDIO_START, audio_end_token_id=AUDIO_END, position_id_per_seconds=25, seconds_per_chunk=2,
        initializer_range=0.2, pad_token_id=PAD,
    )  # fmt: skip
    config.vision_start_token_id, config.vision_end_token_id = VISION_START, VISION_END
    return config


def thinker(seed: int = 0, attention: str = "sdpa", **text: Any) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """A random Thinker in float32 that never emits the end token."""
    torch.manual_seed(seed)
    config = thinker_config(**text)
    model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.generation_config.pad_token_id = PAD
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = list(range(FIRST_WORD))
    return model.eval()


def full_config() -> Qwen2_5OmniConfig:
    """Thinker, talker and waveform decoder."""
    talker = {
        "audio_token_index": AUDIO, "image_token_index": IMAGE, "video_token_index": VIDEO, "vocab_size": 64,
        "tts_text_start_token_id": 10, "tts_text_end_token_id": 11, "tts_text_pad_token_id": 12,
        "tts_codec_start_token_id": 60, "tts_codec_end_token_id": 61, "tts_codec_pad_token_id": 62,
        "tts_codec_mask_token_id": 63, "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END,
        "audio_start_token_id": AUDIO_START, "audio_end_token_id": AUDIO_END, "embedding_size": WIDTH,
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "initializer_range": 0.2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]},
    }  # fmt: skip
    wave = {
        "dit_config": {
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "emb_dim": 8, "head_dim": 8,
            "num_embeds": 64, "mel_dim": 8, "enc_emb_dim": 4, "enc_dim": 8, "enc_channels": [8, 8, 8, 8, 24],
            "enc_attention_channels": 4, "enc_res2net_scale": 2, "enc_se_channels": 4,
        },
        "bigvgan_config": {
            "mel_dim": 8, "upsample_initial_channel": 8, "resblock_kernel_sizes": [3],
            "resblock_dilation_sizes": [[1, 3, 5]], "upsample_rates": [5, 3], "upsample_kernel_sizes": [11, 7],
        },
    }  # fmt: skip
    return Qwen2_5OmniConfig(thinker_config=thinker_config().to_dict(), talker_config=talker, token2wav_config=wave)


def full_model(seed: int = 0) -> Qwen2_5OmniForConditionalGeneration:
    """A random full model with one voice, ``nobody``."""
    torch.manual_seed(seed)
    model = Qwen2_5OmniForConditionalGeneration._from_config(full_config(), attn_implementation="sdpa")
    model.speaker_map["nobody"] = {"bos_token": 13, "cond": torch.zeros(1, 4), "ref_mel": torch.zeros(1, 30, 8)}
    for part in (model, model.thinker):
        part.generation_config.pad_token_id, part.generation_config.eos_token_id = PAD, None
    model.thinker.generation_config.suppress_tokens = list(range(FIRST_WORD))
    return model.eval()


def language_model(model: Any) -> Any:
    """The text model, in either layout."""
    return model.model.language_model if hasattr(model.model, "language_model") else model.model


@dataclass(frozen=True)
class Video:
    """``frames`` temporal grids of ``height`` x ``width`` tokens, one second each, with ``audio`` audio tokens."""

    frames: int = 4
    height: int = 2
    width: int = 3
    audio: int = 0


@dataclass(frozen=True)
class Image:
    height: int = 2
    width: int = 2


@dataclass(frozen=True)
class Audio:
    tokens: int = 10


Part = int | Video | Image | Audio
"""An integer is a number of text tokens."""


def prompt(*rows: list[Part], pad: str = "left", mask: bool = True, seed: int = 0) -> dict[str, Any]:
    """Model inputs for a batch. Videos of one batch either all have audio or none has (the host's own limit)."""
    random = torch.Generator().manual_seed(seed)
    parts = [part for row in rows for part in row]
    inputs: dict[str, Any] = _padded([_ids(row, random) for row in rows], pad)
    if not mask:
        del inputs["attention_mask"]
    videos = [part for part in parts if isinstance(part, Video)]
    images = [part for part in parts if isinstance(part, Image)]
    audios = [
        part.tokens if isinstance(part, Audio) else part.audio for part in parts if not isinstance(part, int | Image)
    ]
    if videos:
        grids = torch.tensor([[video.frames, 2 * video.height, 2 * video.width] for video in videos])
        inputs |= {"video_grid_thw": grids, "pixel_values_videos": _pixels(grids, random)}
        inputs |= {"video_second_per_grid": torch.ones(len(videos))}
    if images:
        grids = torch.tensor([[1, 2 * image.height, 2 * image.width] for image in images])
        inputs |= {"image_grid_thw": grids, "pixel_values": _pixels(grids, random)}
    if any(audios):
        inputs |= _mel([4 * tokens for tokens in audios if tokens], random)
    inputs["use_audio_in_video"] = any(video.audio for video in videos)
    return inputs


def row_of(inputs: dict[str, Any], row: list[Part], index: int, seed_inputs: list[list[Part]]) -> dict[str, Any]:
    """Row ``index`` of a batch as a batch of one without padding: the same tokens, pixels and audio."""
    before = [part for other in seed_inputs[:index] for part in other]

    def skip(*kinds: type) -> int:
        return sum(isinstance(part, kinds) for part in before)

    mask = inputs["attention_mask"][index].bool()
    single: dict[str, Any] = {"input_ids": inputs["input_ids"][index : index + 1, mask]}
    single["attention_mask"] = torch.ones_like(single["input_ids"])
    single["use_audio_in_video"] = inputs["use_audio_in_video"]
    videos, images = sum(isinstance(p, Video) for p in row), sum(isinstance(p, Image) for p in row)
    for name, grid, first, count in (
        ("pixel_values_videos", "video_grid_thw", skip(Video), videos),
        ("pixel_values", "image_grid_thw", skip(Image), images),
    ):
        if count:
            patches = inputs[grid].prod(dim=1)
            start = int(patches[:first].sum())
            single[name] = inputs[name][start : start + int(patches[first : first + count].sum())]
            single[grid] = inputs[grid][first : first + count]
    if videos:
        single["video_second_per_grid"] = inputs["video_second_per_grid"][skip(Video) : skip(Video) + videos]

    def audios(parts: list[Part]) -> int:
        return sum(isinstance(p, Audio) or (isinstance(p, Video) and p.audio > 0) for p in parts)

    if audios(row):
        start = audios(before)
        for name in ("input_features", "feature_attention_mask"):
            single[name] = inputs[name][start : start + audios(row)]
    return single


def _ids(row: list[Part], random: torch.Generator) -> list[int]:
    ids: list[int] = []
    for part in row:
        if isinstance(part, int):
            ids += torch.randint(FIRST_WORD, VOCABULARY, (part,), generator=random).tolist()
        elif isinstance(part, Image):
            ids += [VISION_START, *[IMAGE] * (part.height * part.width), VISION_END]
        elif isinstance(part, Audio):
            ids += [AUDIO_START, *[AUDIO] * part.tokens, AUDIO_END]
        elif part.audio == 0:
            ids += [VISION_START, *[VIDEO] * (part.frames * part.height * part.width), VISION_END]
        else:
            ids += [VISION_START, AUDIO_START, *_interleaved(part), AUDIO_END, VISION_END]
    return ids


def _interleaved(video: Video) -> list[int]:
    """As the host's processor writes it: two seconds of video, then two seconds of audio, and so on."""
    ids: list[int] = []
    area, frame, step = video.height * video.width, 0, 0
    while frame < video.frames or step < video.audio:
        frames, steps = min(2, video.frames - frame), min(50, video.audio - step)
        ids += [VIDEO] * (frames * area) + [AUDIO] * steps
        frame, step = frame + frames, step + steps
    return ids


def _padded(rows: list[list[int]], side: str) -> dict[str, Tensor]:
    length = max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length, dtype=torch.int64)
    for index, row in enumerate(rows):
        columns = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[index, columns], mask[index, columns] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


def _pixels(grids: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(int(grids.prod(dim=1).sum()), 3 * 2 * PATCH * PATCH, generator=random)


def _mel(lengths: list[int], random: torch.Generator) -> dict[str, Tensor]:
    """Four mel frames make one audio token."""
    width = max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths).unsqueeze(1)).long()
    return {"input_features": torch.randn(len(lengths), MELS, width, generator=random), "feature_attention_mask": mask}


@contextmanager
def work_of_encoders(host: Host) -> Iterator[dict[str, int]]:
    """Count the runs of each encoder, by a hook on its first layer."""
    runs = dict.fromkeys(encoders_of(host.thinker), 0)

    def count(stage: str):
        def add(*_: object) -> None:
            runs[stage] += 1

        return add

    with ExitStack() as stack:
        for stage, encoder in encoders_of(host.thinker).items():
            layers = getattr(encoder, "layers", None) or encoder.blocks
            stack.callback(layers[0].register_forward_hook(count(stage)).remove)
        yield runs
