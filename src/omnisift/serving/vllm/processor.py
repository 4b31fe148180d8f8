"""Before the engine: media of a request to tensors, and a prompt that is as long as it will be after compression."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.model_executor.models.qwen2_5_omni_thinker import (
    Qwen2_5OmniThinkerDummyInputsBuilder,
    Qwen2_5OmniThinkerMultiModalProcessor,
    Qwen2_5OmniThinkerProcessingInfo,
)
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing.processor import BaseMultiModalProcessor, PromptReplacement, PromptUpdateDetails

from omnisift.budget import Budget
from omnisift.errors import OmniSiftError
from omnisift.pipeline.clip_info import audio_tokens
from omnisift.serving.clip_layout import ClipLayout, Clock
from omnisift.serving.vllm.clips import DEFAULT_FPS, ClipParser, Clips, seconds_per_grid, with_sound
from omnisift.serving.vllm.counters import count_tokens
from omnisift.serving.vllm.method import rehearse
from omnisift.serving.vllm.settings import RATIOS, Settings, check_request
from omnisift.tokens import Modality

SOUND, LENGTH, BUDGET = "clip_audio_features", "clip_audio_lengths", "clip_budget"
"""Fields of a clip beside those that vLLM's own model has: mel frames [M, T], their number, and its `Budget`."""


@contextmanager
def bad_request() -> Iterator[None]:
    """Our errors as vLLM's: a `ValueError` becomes an answer with status 400."""
    try:
        yield
    except OmniSiftError as error:
        raise ValueError(str(error)) from error


class ProcessingInfo(Qwen2_5OmniThinkerProcessingInfo):  # type: ignore[misc]
    """What is known of the model before it is loaded."""

    @property
    def settings(self) -> Settings:
        """What the server was told."""
        return Settings.of(self.ctx.model_config.hf_config)

    def get_data_parser(self) -> ClipParser:
        """Videos become `Clips`."""
        extractor = self.get_feature_extractor()
        return ClipParser(
            spatial_merge_size=self.get_hf_config().vision_config.spatial_merge_size,
            target_sr=extractor.sampling_rate,
            target_channels=self.get_target_channels(),
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int] | None = None) -> Mapping[str, int]:
        """As in vLLM, but a video may fill the whole prompt: vLLM counts 14 pictures of it, and refuses what is longer
        than the encoder cache that it makes by this."""
        most = dict(super().get_mm_max_tokens_per_item(seq_len, mm_counts))
        if "video" in most:
            most["video"] = seq_len
        return most


class DummyInputs(Qwen2_5OmniThinkerDummyInputsBuilder):  # type: ignore[misc]
    """The largest inputs, with which vLLM measures memory: videos with sound."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Placeholders behind a mark, as in a chat: no prompt begins with a video."""
        return str(self.info.get_hf_processor().vision_bos_token + super().get_dummy_text(mm_counts))

    def get_dummy_mm_data(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """vLLM's own, and half a minute of silence for each video."""
        data = dict(super().get_dummy_mm_data(*args, **kwargs))
        extractor = self.info.get_feature_extractor()
        silence = np.zeros(min(extractor.chunk_length, 30) * extractor.sampling_rate, dtype=np.float32)
        data["video"] = [
            (item[0] if isinstance(item, tuple) else item, {"fps": DEFAULT_FPS, "audio": silence})
            for item in data.get("video") or []
        ]
        return data


class Processor(Qwen2_5OmniThinkerMultiModalProcessor):  # type: ignore[misc]
    """vLLM's processor of Qwen2.5-Omni, with clips for videos and prompts of compressed length."""

    info: ProcessingInfo

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Check the request, settle which sound belongs to which video, lay out the prompt, count."""
        asked = {key: value for key, value in inputs.hf_processor_mm_kwargs.items() if key != "truncation"}
        with bad_request():
            check_request(asked)
            self.info.settings.budget(asked)
        items = with_sound(inputs.mm_data_items, asked.get("use_audio_in_video"))
        self._check_prompt(inputs.prompt, items)
        # The hash must cover all of an item, so names that a client gives to its videos are not taken for it.
        names = {key: value for key, value in (inputs.mm_uuid_items or {}).items() if key in items and key != "video"}
        rest = {key: value for key, value in inputs.hf_processor_mm_kwargs.items() if key != "use_audio_in_video"}
        return super().apply(
            replace(inputs, mm_data_items=items, mm_uuid_items=names, hf_processor_mm_kwargs=rest), timing_ctx
        )

    def _check_prompt(self, prompt: list[int], items: Any) -> None:
        """Raise `ValueError` unless there is one media token for each item, and each video stands apart.

        A client's text may hold the names of such tokens. In the engine, where positions are written to runs of media
        tokens, what is amiss would end all requests. And it must be refused before anything is cached: the engine's
        own cache would never hear of a refused item, and miss it later.
        """
        config = self.info.get_hf_config()
        labels = {"video": config.video_token_index, "audio": config.audio_token_index}
        labels["image"] = config.image_token_index
        if any(prompt.count(label) != items.get_count(kind, strict=False) for kind, label in labels.items()):
            raise ValueError("the text of the prompt holds tokens that stand for media: leave them out")
        media = [False, *(token in labels.values() for token in prompt), False]
        video = [token == labels["video"] for token in prompt]
        if video and (video[0] or any(there and (media[i] or media[i + 2]) for i, there in enumerate(video))):
            raise ValueError("a video must have a token before it and behind it, as chat templates put them")

    def _get_hf_mm_inputs(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Sounds of clips go before other sounds; to the Hugging Face processor they are all plain sound."""
        plain = {key: value for key, value in hf_kwargs.items() if key not in {*RATIOS, "fps"}}
        found = super()._get_hf_mm_inputs(mm_items, {**plain, "use_audio_in_video": False})
        clips = mm_items.get("video")
        if clips is None or not len(clips):
            return found
        if clips.sounds:
            found.hf_data["audio"] = [*clips.sounds, *found.hf_data.get("audio", [])]
            counts = dict(mm_items.get_all_counts())
            counts["audio"] = len(found.hf_data["audio"])
            found.hf_data["text"] = self._get_hf_mm_text(counts)
        return found._replace(hf_kwargs={**found.hf_kwargs, "do_sample_frames": False})

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        """Part the sounds of clips from other sounds, and note each clip's budget and pace."""
        output = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        output.pop("use_audio_in_video", None)
        clips = mm_items.get("video")
        if clips is None or not len(clips):
            return output
        fps = hf_kwargs.get("fps")
        output["second_per_grid_ts"] = seconds_per_grid(clips, None if fps is None else float(fps))  # type: ignore[arg-type]
        budget = pack_budget(self.info.settings.budget(hf_kwargs))
        output[BUDGET] = budget.repeat(len(clips), 1)
        _part_sounds(output, clips, self.info.get_hf_config().audio_config.num_mel_bins)
        return output

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = dict(super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs))
        fields.pop("use_audio_in_video", None)
        if LENGTH in hf_inputs:
            fields[SOUND] = MultiModalFieldConfig.flat_from_sizes("video", hf_inputs[LENGTH], dim=1)
            fields[LENGTH] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
            fields[BUDGET] = MultiModalFieldConfig.batched("video", keep_on_cpu=True)
        return fields

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        plain = {key: value for key, value in hf_processor_mm_kwargs.items() if key not in {*RATIOS, "fps"}}
        updates = super()._get_prompt_updates(mm_items, plain, out_mm_kwargs)
        config = self.info.get_hf_config()
        video = PromptReplacement(
            modality="video",
            target=[config.video_token_index],
            replacement=lambda index: self._layout(config, out_mm_kwargs["video"][index]),
        )
        return [*(update for update in updates if update.modality != "video"), video]

    def _layout(self, config: Any, item: Any) -> Any:
        with bad_request():
            rehearse(self.info.settings, span_of(config, item), budget_of(item))
        return layout(config, item)

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """One placeholder for each item: none is derived from another, as vLLM's own model does. Then count."""
        prompt, places = BaseMultiModalProcessor._maybe_apply_prompt_updates(self, mm_items, mm_res)
        for place, update in zip(places.get("video", []), mm_res.prompt_updates.get("video", []), strict=True):
            marks = update[0].content.is_embed
            count_tokens(kept=len(place.tokens) - marks.around, total=marks.total)
        return prompt, places


@dataclass(frozen=True)
class Marks:
    """Says which of a placeholder's tokens get embeddings; carries what the counters want to know."""

    labels: tuple[int, int]
    around: int
    """Tokens of the placeholder that get none: the marks before and behind the sound."""
    total: int
    """Tokens of the clip before compression."""

    def __call__(self, tokens: Any, *_: Any) -> Tensor:
        """[n] bool."""
        return torch.isin(torch.tensor(tokens), torch.tensor(self.labels))


def layout(config: Any, item: Any) -> Any:
    """The tokens that stand for a clip in the prompt: as many labels as tokens will stay, marked if there is sound."""
    span, budget = span_of(config, item), budget_of(item)
    labels = {Modality.VIDEO: config.video_token_index, Modality.AUDIO: config.audio_token_index}
    tokens = [labels[modality] for modality in span.kept(budget)]
    if span.has_sound:
        tokens = [config.audio_start_token_id, *tokens, config.audio_end_token_id]
    around = 2 if span.has_sound else 0
    marks: Callable[..., Tensor] = Marks((labels[Modality.VIDEO], labels[Modality.AUDIO]), around, len(span))
    return PromptUpdateDetails(full=tokens, is_embed=marks)


def span_of(config: Any, item: Any) -> ClipLayout:
    """The span of a clip from its fields (a vLLM item)."""
    grid = item["video_grid_thw"].data.flatten().tolist()
    return span_from(config, grid, float(item["second_per_grid_ts"].data), int(item[LENGTH].data))


def span_from(config: Any, grid: Sequence[int], seconds: float, mel_frames: int) -> ClipLayout:
    """The span of a clip with a grid of (frames, rows, columns) patches and so many mel frames of sound."""
    merge = config.vision_config.spatial_merge_size
    clock = Clock(config.position_id_per_seconds, float(config.seconds_per_chunk))
    frames, rows, columns = grid
    return ClipLayout.of((frames, rows // merge, columns // merge), seconds, audio_tokens(mel_frames), clock)


def budget_of(item: Any) -> Budget:
    """The budget of a clip from its fields (a vLLM item)."""
    return unpack_budget(item[BUDGET].data.flatten())


def pack_budget(budget: Budget) -> Tensor:
    """[3] float64, NaN for what is not given."""
    values = [getattr(budget, name) for name in RATIOS]
    return torch.tensor([float("nan") if value is None else value for value in values], dtype=torch.float64)


def unpack_budget(values: Tensor) -> Budget:
    """From `pack_budget`'s tensor."""
    return Budget(
        **{name: None if value != value else value for name, value in zip(RATIOS, values.tolist(), strict=True)}
    )


def _part_sounds(output: Any, clips: Clips, mels: int) -> None:
    """Move the first sounds in ``output``, those of clips, to fields of their own; length 0 for clips without."""
    count = len(clips.sounds)
    features = output.pop("input_audio_features", torch.zeros(mels, 0))
    lengths = output.pop("audio_feature_lengths", torch.zeros(0, dtype=torch.int64))
    mask = output.pop("feature_attention_mask", None)
    own = iter(lengths[:count].tolist())
    output[LENGTH] = torch.tensor([0 if clip.sound is None else next(own) for clip in clips.data])
    split = int(lengths[:count].sum())
    output[SOUND] = features[:, :split]
    if len(lengths) > count:
        output |= {"input_audio_features": features[:, split:], "audio_feature_lengths": lengths[count:]}
        output["feature_attention_mask"] = mask[count:]
