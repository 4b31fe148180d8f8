"""All the numbers of the nano recipe, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NanoSettings:
    """What ``python -m omnisift.training.nano`` does. The defaults made the bundled checkpoint (docs/nano.md)."""

    seed: int = 0
    """Seed of weights, batches and questions. Clips have the world's own seeds."""
    tower_clips: int = 1400
    """Clips that both encoders are trained on."""
    train_clips: int = 3700
    """Clips whose encoder outputs are cached for the language model."""
    validation_clips: int = 200
    """Clips that nothing is trained on; accuracies are measured here."""
    decoded_share: float = 0.4
    """Share of the clips that go through a real .mp4 file (H.264 and AAC) and back before the encoders see them."""
    vision_steps: int = 1300
    audio_steps: int = 400
    tower_rate: float = 2e-3
    """Peak learning rate of both encoders (AdamW, cosine)."""
    steps: int = 3000
    """Optimiser steps of the language model."""
    clips_per_step: int = 8
    questions: int = 16
    """Questions packed after each clip's one prefix."""
    rate: float = 2e-3
    """Peak learning rate of the language model: 100 steps of warm-up, flat, linear decay over the last 40 %."""
    weight_decay: float = 0.02
    embedding_std: float = 0.15
    """Standard deviation of the word embeddings at the start (class means are scaled to it)."""
    full_share: float = 0.5
    """Share of the steps that see all tokens; the others see a random or STVP selection (retention augmentation)."""
    retains: tuple[float, ...] = (0.5, 0.35, 0.25, 0.15)
    """Fractions kept in the other steps."""
    teacher_clips: int = 640
    """Clips on which the full-token model's attention is read once, for the selector."""
    selector_steps: int = 200
    selector_rate: float = 2e-3
    finetune_steps: int = 500
    """Steps of the language model under compression with the trained selector."""
    finetune_rate: float = 5e-4

    @classmethod
    def small(cls) -> NanoSettings:
        """A run of seconds that learns nothing, to see every stage work."""
        return cls(
            tower_clips=25,
            train_clips=50,
            validation_clips=25,
            decoded_share=0.1,
            vision_steps=2,
            audio_steps=2,
            steps=3,
            teacher_clips=16,
            selector_steps=2,
            finetune_steps=2,
        )

    def as_dict(self) -> dict[str, Any]:
        """A plain dictionary, for ``recipe.json``."""
        return asdict(self)
