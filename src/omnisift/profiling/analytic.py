"""FLOPs of each stage of one prompt, full against compressed, for any size of the model and without weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omnisift.budget import Budget
from omnisift.profiling.flops import (
    Flops,
    audio_encoder,
    language_model,
    selector,
    video_pruning,
    vision_encoder,
)
from omnisift.profiling.shape import PromptShape
from omnisift.vgas import VGASConfig


@dataclass(frozen=True)
class Count:
    """One way to read a prompt."""

    retain: str
    """``full``, or the share asked for."""
    video: int
    audio: int
    prompt: int
    """Tokens that the language model reads."""
    stages: dict[str, Flops]
    """``encode_video``, ``encode_audio``, ``compress``, ``prefill`` (the first written token with it)."""
    step: Flops
    """One further written token."""

    @property
    def total(self) -> Flops:
        """All stages up to the first written token."""
        return sum(self.stages.values(), Flops())

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "total": asdict(self.total)}


def count(config: Any, shape: PromptShape, budgets: Sequence[Budget]) -> list[Count]:
    """The full prompt first, then OmniSIFT at each budget, with a selector of the released layout.

    ``config`` is a thinker's. The kept counts are those that the compressor would keep.
    """
    chunks = shape.chunks()
    layout = VGASConfig(input_size=config.text_config.hidden_size)
    found = [_one(config, shape, "full", shape.video, shape.audio, Flops())]
    for budget in budgets:
        kept = budget.counts(chunks)
        video, audio = int((kept.frame0 + kept.frame1).sum()), int(kept.audio.sum())
        outside = shape.audio - int(chunks.audio.sum())
        work = selector(layout, chunks, kept) + video_pruning(chunks, layout.width)
        found.append(_one(config, shape, budget.words, video, audio + outside, work))
    return found


def _one(config: Any, shape: PromptShape, name: str, video: int, audio: int, compress: Flops) -> Count:
    prompt = video + audio + shape.text
    stages = {
        "encode_video": vision_encoder(config.vision_config, shape.frames, shape.height, shape.width),
        "encode_audio": audio_encoder(config.audio_config, shape.mel),
        "compress": compress,
        "prefill": language_model(config.text_config, prompt),
    }
    return Count(name, video, audio, prompt, stages, language_model(config.text_config, 1, cached=prompt))
