"""Clips of one step are encoded in parts of bounded size, with one call of each encoder, and none is mixed up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from omnisift.serving.vllm.encoding import ClipInputs, encode_clips, part_sizes

MERGE = 4
"""Patches per video token."""
GRIDS = [[1, 4, 4], [3, 2, 6], [2, 4, 2], [1, 2, 2]]
MEL = [6, 0, 2, 4]
TOKENS = [7, 9, 5, 3]
"""Of each clip: patches / `MERGE` video tokens and mel frames / 2 audio tokens."""


class Encoders:
    """Encoders that average groups of inputs, and note the size of each call."""

    def __init__(self) -> None:
        self.patches: list[int] = []
        self.mel: list[int] = []

    def _parse_and_validate_video_input(self, **inputs: Tensor) -> dict[str, Tensor]:
        return inputs

    def _process_video_input(self, inputs: dict[str, Any]) -> tuple[Tensor, ...]:
        patches, grids = inputs["pixel_values_videos"], inputs["video_grid_thw"]
        assert len(patches) == grids.prod(1).sum()
        self.patches.append(len(patches))
        return patches.view(-1, MERGE, 2).mean(1).split((grids.prod(1) // MERGE).tolist())  # type: ignore[no-any-return]

    def _process_audio_input(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        mel, lengths = inputs["input_features"], inputs["audio_feature_lengths"]
        assert mel.shape[1] == lengths.sum()
        assert (lengths > 0).all()
        self.mel.append(mel.shape[1])
        return mel.t().reshape(-1, 2, 2).mean(1).split((lengths // 2).tolist())  # type: ignore[no-any-return]


def clip_inputs() -> ClipInputs:
    grids, mel_lengths = torch.tensor(GRIDS), torch.tensor(MEL)
    random = torch.Generator().manual_seed(0)
    patches = torch.randn(int(grids.prod(1).sum()), 2, generator=random)
    return ClipInputs(patches, grids, torch.randn(2, int(mel_lengths.sum()), generator=random), mel_lengths)


@pytest.mark.parametrize(
    ("limit", "sizes", "patches", "mel"),
    [
        (100, [4], [72], [12]),
        (24, [4], [72], [12]),
        (23, [3, 1], [68, 4], [8, 4]),
        (16, [2, 2], [52, 20], [6, 6]),
        (8, [1, 1, 2], [16, 36, 20], [6, 6]),
        (1, [1, 1, 1, 1], [16, 36, 16, 4], [6, 2, 4]),
    ],
)
def test_parts(limit: int, sizes: list[int], patches: list[int], mel: list[int]) -> None:
    """A part without audio does not call the audio encoder; a clip above the limit is alone."""
    assert part_sizes(TOKENS, limit) == sizes
    model = Encoders()
    encoded = list(encode_clips(model, clip_inputs(), TOKENS, limit))
    assert (model.patches, model.mel) == (patches, mel)
    assert [len(video) + (0 if audio is None else len(audio)) for video, audio in encoded] == TOKENS
    assert [audio is not None for _, audio in encoded] == [length > 0 for length in MEL]
    alone = [next(encode_clips(Encoders(), part, [1], 1)) for part in clip_inputs().split([1, 1, 1, 1])]
    for (video, audio), (expected_video, expected_audio) in zip(encoded, alone, strict=True):
        assert torch.equal(video, expected_video)
        assert (audio is None and expected_audio is None) or torch.equal(audio, expected_audio)


def test_a_part_is_encoded_when_its_first_clip_is_asked_for() -> None:
    """So that one part's embeddings are in memory at a time."""
    model = Encoders()
    clips = encode_clips(model, clip_inputs(), TOKENS, 16)
    next(clips)
    next(clips)
    assert model.patches == [52]
    next(clips)
    assert model.patches == [52, 20]
