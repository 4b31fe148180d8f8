"""Prepare a clip for the encoders with less time and memory than the processor of Hugging Face, and equal to the bit.

The processor stays the reference. It writes the prompt and counts the tokens; what is done here instead is

- the spectrogram over the clip's own length, where the processor of Qwen2.5-Omni pads every clip to the longest one
  that its feature extractor knows (five minutes in 7B),
- the patches of the frames, laid out as bytes one time step after the other. They become floats on the model's device.

Where a class or a setting of a checkpoint's processor is not one of those below, the processor itself prepares the
clip; `preparation_notices` says so.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from omnisift.media import Media

_log = logging.getLogger(__name__)

PIXELS = "pixel_values_videos"
_PADS = frozenset({"Qwen2_5OmniProcessor"})
"""Processors that pad every clip to the longest one."""
_PROCESSORS = _PADS | {"Qwen3OmniMoeProcessor", "Qwen2VLProcessor", "Qwen2_5_VLProcessor", "Qwen3VLProcessor"}
_VIDEO_PROCESSORS = frozenset({"Qwen2VLVideoProcessor", "Qwen3VLVideoProcessor"})
_SIZES = "patch_size", "merge_size", "temporal_patch_size"
_SETTINGS = frozenset({"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", *_SIZES})
_MIN_HOPS = 100
"""Frames of the shortest spectrogram that is computed. Products of few columns are rounded in another way."""
_ROWS = {"cpu": 256, "cuda": 16_384}
"""Patches that become floats at once: as many as stay in a cache."""


def own_length(processor: Any, samples: int) -> dict[str, int]:
    """The argument of the feature extractor with which it pads a clip no further than its spectrogram needs.

    A frame of the spectrogram is centred on its hop and sees ``n_fft / 2`` samples on both sides. So three hops behind
    the clip hold everything that its samples contribute to, the reflection at the end included.

    Args:
        processor: of the model.
        samples: length of the waveform.

    Returns:
        ``max_length`` in samples; nothing where the processor pads differently or the clip is as long as the longest.
    """
    if not _is(processor, _PADS) or unknown_audio(processor):
        return {}
    extractor = processor.feature_extractor
    hop = int(extractor.hop_length)
    length = max(-(-samples // hop) + 3, _MIN_HOPS) * hop
    return {"max_length": length} if length < extractor.n_samples else {}


def padded_length(processor: Any, samples: int) -> int:
    """Samples that the feature extractor pads a waveform to, with the argument of `own_length`."""
    longest = int(processor.feature_extractor.n_samples)
    if not isinstance(processor, _types(_PADS)):
        longest = samples
    return own_length(processor, samples).get("max_length", max(samples, longest))


def with_patch_layout(processor: Any) -> Any:
    """A processor that gives ``pixel_values_videos`` as bytes; `normalize_patches` makes floats of them.

    It is a shallow copy, so ``processor`` itself stays as it is. Where `unknown_video` gives a reason, it is
    ``processor``.
    """
    if unknown_video(processor):
        return processor
    changed = copy.copy(processor)
    changed.video_processor = _PatchLayout(processor.video_processor)
    return changed


def with_sizes_alone(processor: Any, mel_frames: int) -> Any:
    """A shallow copy of a processor that prepares neither frames nor audio, but writes the same prompt for them.

    Args:
        processor: one for which `unknown_video` and `unknown_audio` give no reason.
        mel_frames: frames of the clip's spectrogram.
    """
    changed = copy.copy(processor)
    changed.video_processor = _PatchSizes(processor.video_processor)
    tokens = [token for name in ("video_token", "audio_token") if (token := getattr(processor, name, None))]
    changed.tokenizer = _RunTokenizer(processor.tokenizer, tokens)
    if getattr(processor, "feature_extractor", None) is not None:
        changed.feature_extractor = _MelSizes(processor.feature_extractor, mel_frames)
    return changed


def normalize_patches(processor: Any, inputs: Mapping[str, Any], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """The inputs of a model, with patches as floats where they are bytes.

    Args:
        processor: of the model.
        inputs: from `with_patch_layout`, on any device.
        dtype: of the patches.
    """
    patches = inputs.get(PIXELS)
    if patches is None or patches.dtype != torch.uint8:
        return dict(inputs)
    video = processor.video_processor
    # One value of each column, whose outermost axis is the channel. As Transformers does, in units of the bytes.
    repeats = patches.shape[1] // len(video.image_mean)
    mean, std = (
        (torch.tensor(value) * (1.0 / video.rescale_factor)).repeat_interleave(repeats).to(patches.device)
        for value in (video.image_mean, video.image_std)
    )
    floats = torch.empty(patches.shape, dtype=dtype, device=patches.device)
    rows = _ROWS.get(patches.device.type, len(patches) or 1)
    for part, target in zip(torch.split(patches, rows), torch.split(floats, rows), strict=True):
        target.copy_(part.to(torch.float32).sub_(mean).div_(std))
    return {**inputs, PIXELS: floats}


def preparation_notices(processor: Any, media: Media) -> tuple[str, ...]:
    """A sentence for each part of a clip that the processor itself prepares, where its settings are the reason.

    Those of families for which nothing is prepared here (docs/models.md) are not reported.
    """
    if type(processor).__module__.startswith("transformers.") and not _is(processor, _PROCESSORS):
        return ()
    video = unknown_video(processor) if media.images is not None else None
    audio = unknown_audio(processor) if media.waveform is not None else None
    notices = tuple(
        f"Transformers prepares the {part} of the clip, which takes more time and memory: {reason}"
        for part, reason in (("frames", video), ("audio", audio))
        if reason
    )
    for notice in notices:
        _log_once(notice)
    return notices


def unknown_video(processor: Any) -> str | None:
    """Why the patches of a processor are not laid out here; None if they are."""
    video: Any = getattr(processor, "video_processor", None)
    for part, names in ((processor, _PROCESSORS), (video, _VIDEO_PROCESSORS)):
        if not _is(part, names):
            return f"{type(part).__name__} is not one of {', '.join(sorted(names))}"
    given = _SETTINGS & set(processor.tokenizer.init_kwargs)
    if given:
        return f"the tokenizer sets {', '.join(sorted(given))}"
    checks = {
        "do_rescale": video.do_rescale is True,
        "do_normalize": video.do_normalize is True,
        "rescale_factor": _are_positive([video.rescale_factor]),
        "image_mean": _are_numbers(video.image_mean, 3),
        "image_std": _are_numbers(video.image_std, 3) and _are_positive(video.image_std),
        **{name: type(getattr(video, name)) is int and getattr(video, name) > 0 for name in _SIZES},
        "device": getattr(video, "device", None) is None,
    }
    return next((f"{name} is {getattr(video, name)!r:.80}" for name, is_known in checks.items() if not is_known), None)


def unknown_audio(processor: Any) -> str | None:
    """Why the spectrograms of a processor that pads them are not computed over their own length; None if they are."""
    extractor: Any = getattr(processor, "feature_extractor", None)
    if extractor is None or not isinstance(processor, _types(_PADS)):
        return None
    if not _is(processor, _PADS):
        return f"{type(processor).__name__} is not {', '.join(_PADS)}"
    return unknown_spectrogram(extractor)


def unknown_spectrogram(extractor: Any) -> str | None:
    """Why the spectrogram of a feature extractor can't be computed here (`LogMel`); None if it can."""
    if not _is(extractor, frozenset({"WhisperFeatureExtractor"})):
        return f"{type(extractor).__name__} is not WhisperFeatureExtractor"
    known = {"padding_side": "right", "padding_value": 0, "dither": 0}
    for name, value in known.items():
        if getattr(extractor, name, value) != value:
            return f"{name} is {getattr(extractor, name)!r:.80}"
    hop, window = extractor.hop_length, extractor.n_fft
    if not (type(hop) is type(window) is int and 0 < window <= 4 * hop):
        return f"hop_length is {hop!r:.80} and n_fft is {window!r:.80}"
    return None


class _StandIn:
    """Stands for a part of a processor in one call."""

    def __init__(self, base: Any) -> None:
        self._base = base

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)


class _PatchLayout(_StandIn):
    """Stands for a video processor of Transformers: the same patches, as bytes."""

    def __call__(self, videos: list[npt.NDArray[np.uint8]], **options: Any) -> dict[str, Any]:
        """Lay out one video [N, 3, H, W]; ``options`` are those that `media_arguments` and the processor pass."""
        (video,) = videos
        patches, grid = self.patches(video.transpose(0, 2, 3, 1), *(getattr(self._base, name) for name in _SIZES))
        outputs = {PIXELS: patches, "video_grid_thw": torch.tensor([grid])}
        return {**outputs, "video_metadata": options["video_metadata"]} if options.get("return_metadata") else outputs

    @staticmethod
    def patches(images: npt.NDArray[np.uint8], patch: int, merge: int, temporal: int) -> tuple[Tensor, list[int]]:
        """The patches of a video [N, H, W, 3], and their grid."""
        return lay_out(images, patch, merge, temporal)


class _PatchSizes(_PatchLayout):
    """Stands for a video processor of Transformers: the same grid, without patches."""

    @staticmethod
    def patches(images: npt.NDArray[np.uint8], patch: int, merge: int, temporal: int) -> tuple[Tensor, list[int]]:  # noqa: ARG004
        """No patches, and the grid of a video [N, H, W, 3]."""
        count, height, width = images.shape[:3]
        return torch.zeros(0, 1), [-(-count // temporal), height // patch, width // patch]


class _MelSizes(_StandIn):
    """Stands for a feature extractor of Transformers: the mask of one spectrogram, without its values."""

    def __init__(self, base: Any, mel_frames: int) -> None:
        super().__init__(base)
        self._mel_frames = mel_frames

    def __call__(self, *_args: Any, **_options: Any) -> dict[str, Tensor]:
        """The mask [1, F] of the spectrogram."""
        mask = torch.ones(1, self._mel_frames, dtype=torch.int64)
        return {"input_features": torch.zeros(1, 1, 0), "attention_mask": mask}


class _RunTokenizer(_StandIn):
    """Stands for a tokenizer that gets one text with long runs of the same special token: the same ids.

    A tokenizer notes the place of each token in the text, which takes a kilobyte. Special tokens are never part of
    another one, so what lies between them is tokenized alone.
    """

    def __init__(self, base: Any, tokens: Sequence[str]) -> None:
        super().__init__(base)
        names = "|".join(map(re.escape, tokens))
        # A run of one of the tokens, or text up to the next run.
        self._parts = re.compile(rf"({names})\1*|(?:(?!{names}).)+", re.DOTALL)

    def __call__(self, text: list[str], **_options: Any) -> dict[str, list[list[int]]]:
        """Ids and mask of one text."""
        ids = list[int]()
        for part in self._parts.finditer(text[0]):
            token = part[1]
            if token:
                ids += [self._base.convert_tokens_to_ids(token)] * (len(part[0]) // len(token))
            else:
                ids += self._base(part[0], add_special_tokens=False)["input_ids"]
        return {"input_ids": [ids], "attention_mask": [[1] * len(ids)]}


def lay_out(images: npt.NDArray[np.uint8], patch: int, merge: int, temporal: int) -> tuple[Tensor, list[int]]:
    """Divide frames into patches, in the order of the vision encoders of Qwen.

    Args:
        images: [N, H, W, 3]; the last one is repeated to whole time steps.
        patch: pixels along one side of a patch.
        merge: patches along one side of a token.
        temporal: frames of a time step.

    Returns:
        [t * h * w, 3 * temporal * patch * patch] uint8, and (t, h, w).
    """
    count, height, width, channels = images.shape
    steps, rows, columns = -(-count // temporal), height // patch // merge, width // patch // merge
    patches = np.empty((steps, rows, columns, merge, merge, channels, temporal, patch, patch), np.uint8)
    for step in range(steps):
        frames = images[np.minimum(np.arange(step * temporal, (step + 1) * temporal), count - 1)]
        planes = np.ascontiguousarray(frames.transpose(3, 0, 1, 2))
        cells = planes.reshape(channels, temporal, rows, merge, patch, columns, merge, patch)
        patches[step] = cells.transpose(2, 5, 3, 6, 0, 1, 4, 7)
    grid = [steps, rows * merge, columns * merge]
    return torch.from_numpy(patches.reshape(math.prod(grid), -1)), grid


def _types(names: frozenset[str]) -> tuple[type, ...]:
    import transformers

    return tuple(getattr(transformers, name) for name in sorted(names) if hasattr(transformers, name))


def _is(part: Any, names: frozenset[str]) -> bool:
    """Whether an object is exactly of one of these classes of Transformers."""
    return type(part) in _types(names)


def _are_numbers(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count and all(_is_number(value) for value in values)


def _are_positive(values: Any) -> bool:
    return all(_is_number(value) and value > 0 for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@functools.cache
def _log_once(notice: str) -> None:
    _log.warning(notice)
