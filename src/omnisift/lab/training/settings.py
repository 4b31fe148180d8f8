"""`NanoSettings`: all numbers of nano's training in one frozen dataclass."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NanoSettings:
    """Settings of ``python -m omnisift.lab.nano``; the defaults made the bundled checkpoint (docs/nano.md)."""

    seed: int = 0
    """Seed of weights, batches and questions. Clips have seeds of the generated world."""
    encoder_clips: int = 1400
    """Clips that both encoders are trained on."""
    train_clips: int = 3700
    """Clips whose encoder outputs are cached for the language model."""
    validation_clips: int = 200
    """Clips that nothing is trained on; accuracies are measured on them."""
    decoded_share: float = 0.4
    """Share of the clips that are written to an .mp4 file (H.264 and AAC) and decoded again before encoding."""
    vision_steps: int = 1300
    """Optimizer steps of the vision encoder."""
    audio_steps: int = 400
    """Optimizer steps of the audio encoder."""
    encoder_learning_rate: float = 2e-3
    """Peak learning rate of both encoders (AdamW, cosine)."""
    steps: int = 3000
    """Optimizer steps of the language model."""
    clips_per_step: int = 8
    """Clips in each of these steps."""
    questions: int = 16
    """Questions packed after the prefix of each clip."""
    learning_rate: float = 2e-3
    """Peak learning rate of the language model: 100 steps of warm-up, constant, linear decay over the last 40 %."""
    weight_decay: float = 0.02
    """Weight decay of the language model."""
    embedding_std: float = 0.15
    """Standard deviation of the initial word embeddings; class means are scaled to it."""
    full_share: float = 0.5
    """Share of the steps that see all tokens; the others see a random or STVP selection (retention augmentation)."""
    retains: tuple[float, ...] = (0.5, 0.35, 0.25, 0.15)
    """Fractions of tokens kept in those other steps."""
    teacher_clips: int = 640
    """Clips on which the full-token model's attention is recorded for the selector."""
    selector_steps: int = 200
    """Optimizer steps of the selector."""
    selector_learning_rate: float = 2e-3
    """Peak learning rate of the selector."""
    finetune_steps: int = 500
    """Steps of the language model under compression with the trained selector."""
    finetune_learning_rate: float = 5e-4
    """Peak learning rate of those steps."""

    @classmethod
    def small(cls) -> NanoSettings:
        """Settings for a run of seconds that exercises every stage and learns nothing."""
        return cls(
            encoder_clips=25,
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
        """The fields as a dictionary, for ``recipe.json``."""
        return asdict(self)
