"""Token counts of a clip, from its dimensions alone, are those that the processor makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omnisift.media import Media
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import build_inputs, clip_size, count_tokens
from omnisift.pipeline.report import source_of


def clip(images: int, samples: int) -> Media:
    return Media(
        path=Path("a.mp4"),
        images=np.zeros((images, 56, 84, 3), np.uint8) if images else None,
        times=np.arange(images) / 2,
        indices=np.arange(images),
        fps=2.0 if images else 0.0,
        waveform=np.zeros(samples, np.float32) if samples else None,
        seconds=images / 2,
        video_seconds=images / 2,
        capped=False,
        bad_packets=0,
        warnings=(),
    )


@pytest.mark.parametrize(
    ("images", "samples"),
    [(2, 0), (6, 48_000), (10, 39_999), (0, 16_000), (4, 640_161), (2, 640_160), (2, 800), (0, 1024), (2, 348)],
)
def test_counts_are_the_processors(images: int, samples: int) -> None:
    host = load_host("nano", "cpu", None, None)
    media = clip(images, samples)
    inputs = build_inputs(host.processor, media, "what shape is it ?")
    ids = inputs["input_ids"]
    config = host.thinker.config
    made = int((ids == config.video_token_id).sum()), int((ids == config.audio_token_id).sum())
    assert count_tokens(media, host.processor) == made
    assert made[0] == images // 2 * 2 * 3
    frames, rows, columns = inputs["video_grid_thw"][0].tolist() if images else (0, 0, 0)
    mel_frames = int(inputs["feature_attention_mask"].sum()) if samples else 0
    assert clip_size(media, host.processor) == ((frames, rows // 2, columns // 2), mel_frames)


def test_what_was_seen() -> None:
    seen = source_of(clip(4, 8000))
    assert (seen.images, seen.width, seen.height, seen.audio_seconds) == (4, 84, 56, 0.5)
    assert (source_of(clip(0, 8000)).images, source_of(clip(0, 8000)).has_video) == (0, False)
