"""vLLM's input processor: media of a request become tensors, and the prompt gets its length after compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.errors import OmniSiftError
from omnisift.serving.clip_layout import ClipLayout, TimeConfig
from omnisift.serving.vllm.clip_compressor import check_reachable
from omnisift.serving.vllm.clips import DEFAULT_FPS, ClipParser, Clips, seconds_per_grid, with_audio
from omnisift.serving.vllm.fractions import WHOLE
from omnisift.serving.vllm.internals import (
    BaseMultiModalProcessor,
    Mixin,
    MultiModalFieldConfig,
    PromptReplacement,
    PromptUpdateDetails,
    Qwen2_5OmniThinkerDummyInputsBuilder,
    Qwen2_5OmniThinkerMultiModalProcessor,
    Qwen2_5OmniThinkerProcessingInfo,
    Qwen3OmniMoeThinkerProcessingInfo,
)
from omnisift.serving.vllm.settings import RETENTION_KEYS, Settings, check_request
from omnisift.tokens import Modality

AUDIO_FEATURES, AUDIO_LENGTHS, CLIP_BUDGET = "clip_audio_features", "clip_audio_lengths", "clip_budget"
"""Fields of a clip in addition to those of vLLM's model: mel frames [M, T], their number, and its packed `Budget`."""


@contextmanager
def request_errors() -> Iterator[None]:
    """Turn errors of a request into `ValueError`, which vLLM answers with status 400."""
    try:
        yield
    except OmniSiftError as error:
        raise ValueError(str(error)) from error


class ClipInfo(Mixin):  # type: ignore[misc]
    """What is known of a model before it is loaded, for both families."""

    @property
    def settings(self) -> Settings:
        """The server's compression settings."""
        return _resolved(Settings.from_config(self.ctx.model_config.hf_config), self.ctx.model_config.model)

    def get_data_parser(self) -> ClipParser:
        """Return the parser that turns videos into `Clips`."""
        extractor = self.get_feature_extractor()
        return ClipParser(
            spatial_merge_size=self.get_hf_config().vision_config.spatial_merge_size,
            target_sr=extractor.sampling_rate,
            target_channels=self.get_target_channels(),
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int] | None = None) -> Mapping[str, int]:
        """Return vLLM's limits, but let a video fill the prompt.

        vLLM assumes 14 images for a video, sizes the encoder cache by that, and refuses videos that are longer.
        """
        limits = dict(super().get_mm_max_tokens_per_item(seq_len, mm_counts))
        if "video" in limits:
            limits["video"] = seq_len
        return limits

    @property
    def longest_prompt(self) -> int:
        """Rotary ids that the model has: vLLM's table ends there, or the space for whole parts of fractions."""
        config = self.get_hf_config()
        return WHOLE if TimeConfig.of(config).parts > 1 else 4 * int(config.text_config.max_position_embeddings)


class Qwen25Info(ClipInfo, Qwen2_5OmniThinkerProcessingInfo):  # type: ignore[misc]  # vLLM has no types here
    """Qwen2.5-Omni."""


class Qwen3Info(ClipInfo, Qwen3OmniMoeThinkerProcessingInfo):  # type: ignore[misc]
    """Qwen3-Omni."""


@lru_cache(maxsize=8)
def _resolved(settings: Settings, source: str) -> Settings:
    """`Settings.resolved`, once for each model: every request asks for the settings."""
    return settings.resolved(source)


class DummyInputs(Qwen2_5OmniThinkerDummyInputsBuilder):  # type: ignore[misc]
    """The largest inputs, with which vLLM measures memory: videos with audio."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Return the placeholders, each video after a token, as in a chat."""
        processor = self.info.get_hf_processor()
        text: str = super().get_dummy_text(mm_counts)
        return text.replace(processor.video_token, processor.vision_bos_token + processor.video_token)

    def get_dummy_mm_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return vLLM's dummy media, with 30 seconds of silence in each video."""
        data = dict(super().get_dummy_mm_data(*args, **kwargs))
        extractor = self.info.get_feature_extractor()
        silence = np.zeros(min(extractor.chunk_length, 30) * extractor.sampling_rate, dtype=np.float32)
        data["video"] = [
            (item[0] if isinstance(item, tuple) else item, {"fps": DEFAULT_FPS, "audio": silence})
            for item in data.get("video") or []
        ]
        return data


class Processor(Qwen2_5OmniThinkerMultiModalProcessor):  # type: ignore[misc]
    """vLLM's processor of Qwen2.5-Omni, with clips for videos and prompts of compressed length.

    For Qwen3-Omni it is used as well: vLLM's own pads audio to whole frames of the spectrogram, which Transformers
    does not.
    """

    info: ClipInfo

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Check the request, assign audio items to videos, and let vLLM process the result."""
        request = {key: value for key, value in inputs.hf_processor_mm_kwargs.items() if key != "truncation"}
        with request_errors():
            check_request(request)
            self.info.settings.request_budget(request)
        items = with_audio(inputs.mm_data_items, request.get("use_audio_in_video"))
        self._check_prompt(inputs.prompt, items)
        # A name (uuid) that a client gives to a video is dropped: the hash must cover the item's content.
        uuids = {key: value for key, value in (inputs.mm_uuid_items or {}).items() if key in items and key != "video"}
        kwargs = {key: value for key, value in inputs.hf_processor_mm_kwargs.items() if key != "use_audio_in_video"}
        return super().apply(
            replace(inputs, mm_data_items=items, mm_uuid_items=uuids, hf_processor_mm_kwargs=kwargs), timing_ctx
        )

    def _check_prompt(self, prompt: list[int], items: Any) -> None:
        """Raise `ValueError` unless there is one media token per item, and text between a video and other items.

        A client's text may contain the names of media tokens. In the engine, where positions are written to runs of
        media tokens, a mismatch would end all requests. And it must be refused before anything is cached: the engine's
        own cache is not told of a refused item and would lack it later.
        """
        config = self.info.get_hf_config()
        labels = {kind: getattr(config, f"{kind}_token_id") for kind in ("video", "audio", "image")}
        if any(prompt.count(label) != items.get_count(kind, strict=False) for kind, label in labels.items()):
            raise ValueError("the text of the prompt holds tokens that stand for media; leave them out")
        is_media = [False, *(token in labels.values() for token in prompt), False]
        is_video = [token == labels["video"] for token in prompt]
        # In `is_media`, token i of the prompt has index i + 1; its neighbours have i and i + 2.
        adjacent = (is_media[i] or is_media[i + 2] for i, video in enumerate(is_video) if video)
        if is_video and (is_video[0] or any(adjacent)):
            raise ValueError("a video must have a token before it and after it, as chat templates put them")

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Put the audio of clips before other audio items: the Hugging Face processor takes all as plain audio."""
        kwargs = {key: value for key, value in hf_kwargs.items() if key not in {*RETENTION_KEYS, "fps"}}
        inputs = super()._get_hf_mm_inputs(mm_items, {**kwargs, "use_audio_in_video": False})
        clips = mm_items.get("video")
        if clips is None or not len(clips):
            return inputs
        if clips.audios:
            inputs.hf_data["audio"] = [*clips.audios, *inputs.hf_data.get("audio", [])]
            counts = dict(mm_items.get_all_counts())
            counts["audio"] = len(inputs.hf_data["audio"])
            inputs.hf_data["text"] = self._get_hf_mm_text(counts)
        return inputs._replace(hf_kwargs={**inputs.hf_kwargs, "do_sample_frames": False})

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Separate the audio of clips from other audio, and add the budget and frame duration of each clip."""
        output = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        output.pop("use_audio_in_video", None)
        clips = mm_items.get("video")
        if clips is None or not len(clips):
            return output
        fps = hf_kwargs.get("fps")
        output["second_per_grid_ts"] = seconds_per_grid(clips, None if fps is None else float(fps))  # type: ignore[arg-type]
        budget = pack_budget(self.info.settings.request_budget(hf_kwargs))
        output[CLIP_BUDGET] = budget.repeat(len(clips), 1)
        _separate_clip_audio(output, clips, self.info.get_hf_config().audio_config.num_mel_bins)
        return output

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        fields.pop("use_audio_in_video", None)
        if AUDIO_LENGTHS in hf_inputs:
            fields[AUDIO_FEATURES] = MultiModalFieldConfig.flat_from_sizes("video", hf_inputs[AUDIO_LENGTHS], dim=1)
            fields[AUDIO_LENGTHS] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
            fields[CLIP_BUDGET] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        kwargs = {key: value for key, value in hf_processor_mm_kwargs.items() if key not in {*RETENTION_KEYS, "fps"}}
        updates = super()._get_prompt_updates(mm_items, kwargs, out_mm_kwargs)
        config = self.info.get_hf_config()
        video = PromptReplacement(
            modality="video",
            target=[config.video_token_id],
            replacement=lambda index: self._clip_placeholder(config, out_mm_kwargs["video"][index]),
        )
        audio = PromptReplacement(
            modality="audio",
            target=[config.audio_token_id],
            replacement=lambda index: audio_placeholder(config, out_mm_kwargs["audio"][index]),
        )
        return [*(update for update in updates if update.modality == "image"), video, audio]

    def _clip_placeholder(self, config: Any, item: Any) -> Any:
        with request_errors():
            check_reachable(self.info.settings, item_layout(config, item), item_budget(item))
        return clip_placeholder(config, item)

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """Insert one placeholder per item, without deriving some from others as vLLM's model does, and count tokens."""
        prompt, placeholders = BaseMultiModalProcessor._maybe_apply_prompt_updates(self, mm_items, mm_res)
        masks = [update[0].content.is_embed for update in mm_res.prompt_updates.get("video", [])]
        if len(prompt) + sum(mask.end for mask in masks) > self.info.longest_prompt:
            raise ValueError(
                f"the videos last longer than the {self.info.longest_prompt} rotary ids of the model; send shorter ones"
            )
        for placeholder, mask in zip(placeholders.get("video", []), masks, strict=True):
            count_tokens(kept=len(placeholder.tokens) - mask.marks, total=mask.total)
        return prompt, placeholders


@dataclass(frozen=True)
class EmbedMask:
    """Tells vLLM which tokens of a clip's placeholder get embeddings, and carries numbers for the counters."""

    labels: tuple[int, int]
    marks: int
    """Tokens of the placeholder without an embedding: those that open and close the audio."""
    total: int
    """Tokens of the clip before compression."""
    end: int
    """Rotary ids that the clip covers at most."""

    def __call__(self, tokens: Any, *_: Any) -> Tensor:
        """Return the mask, [n] bool."""
        return torch.isin(torch.tensor(tokens), torch.tensor(self.labels))


def clip_placeholder(config: Any, item: Any) -> Any:
    """Return the prompt tokens of a clip: one label per kept token, between two marks if the clip has audio.

    Args:
        config: the thinker's configuration.
        item: the clip's fields (a vLLM item).
    """
    layout, budget = item_layout(config, item), item_budget(item)
    labels = {Modality.VIDEO: config.video_token_id, Modality.AUDIO: config.audio_token_id}
    tokens = [labels[modality] for modality in layout.kept_labels(budget)]
    if layout.has_audio:
        tokens = [config.audio_start_token_id, *tokens, config.audio_end_token_id]
    marks = 2 if layout.has_audio else 0
    end = int(layout.position_ids.max()) // layout.parts + 1
    mask: Callable[..., Tensor] = EmbedMask((labels[Modality.VIDEO], labels[Modality.AUDIO]), marks, len(layout), end)
    return PromptUpdateDetails(full=tokens, is_embed=mask)


def audio_placeholder(config: Any, item: Any) -> list[int]:
    """Return the prompt tokens of an audio item outside a video, from its fields (a vLLM item)."""
    count = item_audio_tokens(config, item)
    if not count:
        raise ValueError("an audio is too short for a token; send a longer one")
    return [int(config.audio_token_id)] * count


def item_audio_tokens(config: Any, item: Any) -> int:
    """Return the number of tokens of an audio item outside a video."""
    return TimeConfig.of(config).audio_tokens(int(item["audio_feature_lengths"].data))


def item_layout(config: Any, item: Any) -> ClipLayout:
    """Return the layout of a clip from its fields (a vLLM item)."""
    grid = item["video_grid_thw"].data.flatten().tolist()
    seconds = float(item["second_per_grid_ts"].data)
    return ClipLayout.of_patches(config, grid, seconds, int(item[AUDIO_LENGTHS].data))


def item_budget(item: Any) -> Budget:
    """Return the budget of a clip from its fields (a vLLM item)."""
    return unpack_budget(item[CLIP_BUDGET].data.flatten())


def pack_budget(budget: Budget) -> Tensor:
    """Return what a budget was made from as a tensor: [4] float64, in the order of `RETENTION_KEYS`, NaN for None."""
    values = [getattr(budget, name) for name in RETENTION_KEYS]
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)


def unpack_budget(values: Tensor) -> Budget:
    """Return the budget that `pack_budget` packed."""
    given = zip(RETENTION_KEYS, values.tolist(), strict=True)
    options: dict[str, Any] = {name: None if value != value else value for name, value in given}
    return Budget(**options)


def _separate_clip_audio(output: Any, clips: Clips, mel_bins: int) -> None:
    """Move the audio of clips, which comes first in ``output``, to its own fields; length 0 for clips without."""
    count = len(clips.audios)
    features = output.pop("input_audio_features", torch.zeros(mel_bins, 0))
    lengths = output.pop("audio_feature_lengths", torch.zeros(0, dtype=torch.int64))
    mask = output.pop("feature_attention_mask", None)
    clip_lengths = iter(lengths[:count].tolist())
    output[AUDIO_LENGTHS] = torch.tensor([0 if clip.audio is None else next(clip_lengths) for clip in clips.data])
    split = int(lengths[:count].sum())
    output[AUDIO_FEATURES] = features[:, :split]
    # The rest are plain audio items.
    if len(lengths) > count:
        output |= {"input_audio_features": features[:, split:], "audio_feature_lengths": lengths[count:]}
        output["feature_attention_mask"] = mask[count:]


def count_tokens(kept: int, total: int) -> None:
    """Count one clip of a prompt in vLLM's registry of metrics (``/metrics``).

    Args:
        kept: its tokens after compression.
        total: its tokens before compression.
    """
    kept_counter, dropped_counter = _counters()
    kept_counter.inc(kept)
    dropped_counter.inc(total - kept)


@cache
def _counters() -> tuple[Any, Any]:
    from prometheus_client import Counter

    return (
        Counter("omnisift_kept_tokens", "Tokens of videos and their audio that were kept in prompts"),
        Counter("omnisift_dropped_tokens", "Tokens of videos and their audio that were dropped from prompts"),
    )
