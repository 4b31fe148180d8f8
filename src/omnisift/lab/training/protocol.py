"""The benchmark's trained protocol: selectors are distilled, and the backbone is fine-tuned under each method.

Selectors learn from the backbone's own attention. Language models are fine-tuned under a method with the same steps,
clips and questions for every method, as the paper's table 4 does for OmniZip. Encoders are frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors import Compressor
from omnisift.compressors.random import seed_rows
from omnisift.errors import UsageError
from omnisift.lab.benchmark.encoded import Encoded
from omnisift.lab.training import selector as selector_training
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.language_model import Batch, TrainConfig, train_language_model
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.packed import PromptLayout, Writer, clip_layout
from omnisift.lab.training.settings import NanoSettings
from omnisift.models.selector import new_selector
from omnisift.tokens import Modality
from omnisift.training.curriculum import falling_budget, set_budget
from omnisift.training.losses import ANSWERS, SELF_DISTILLATION
from omnisift.vgas import GUIDES, VGAS

logger = logging.getLogger(__name__)
CLIPS = 640
"""Clips of the training split that selectors and fine-tuned models learn from."""


def features_of(clips: Encoded, split: str = "train") -> FeatureCache:
    """Encoder outputs of encoded clips 0, 1, ... as a `FeatureCache`."""
    video, audio = (clips.embeds[:, clips.modality == kind] for kind in (Modality.VIDEO, Modality.AUDIO))
    return FeatureCache(split, 0, video, audio)


@dataclass
class BatchCompressor:
    """Compresses every training prompt with a method, as `attach` compresses prompts at inference.

    Args:
        compressor: the method.
        clips: the encoded training clips.
        layout: where a clip's tokens are in the prompt.
        seed: seed of methods that sample.
        budget: number of a step -> its budget; None leaves the method's.
    """

    compressor: Compressor
    clips: Encoded
    layout: PromptLayout
    seed: int = 0
    budget: Callable[[int], Budget] | None = None

    @torch.no_grad()
    def __call__(self, batch: Batch, clips: list[int], step: int) -> Batch:
        """The batch with ``places`` [B, P], the positions that stay, and merged embeddings where the method merges."""
        if self.budget is not None:
            set_budget(self.compressor, self.budget(step))
        seed_rows(self.compressor, [self.seed + 1000 * step + row for row in range(len(clips))])
        stream = self.clips.take(clips).stream()
        selection = self.compressor(stream)
        keep = selection.keep.view(len(clips), -1)
        places = torch.nonzero(keep, as_tuple=True)[1].view(len(clips), -1)
        result = {**batch, "places": places}
        if selection.embeds is not None:
            merged = stream.embeds.index_put((selection.keep,), selection.embeds.to(stream.embeds.dtype))
            merged = merged.view(len(clips), keep.shape[1], -1)
            result |= {"video": merged[:, self.layout.video], "audio": merged[:, self.layout.audio]}
        return result


class TrainedProtocol:
    """The backbone, its tokenizer and the training clips.

    Args:
        backbone: folder of the language model to start from.
        clips: encoded clips of the training split.
        seed: seed of all training.

    Raises:
        UsageError: the clips were encoded for another prompt layout.
    """

    def __init__(self, backbone: Path, clips: Encoded, seed: int = 0) -> None:
        from transformers import AutoTokenizer

        self.backbone, self.clips = backbone, clips
        tokenizer: Any = AutoTokenizer.from_pretrained(str(backbone), trust_remote_code=False)
        self.tokenizer = tokenizer
        self.settings = replace(NanoSettings(), seed=seed)
        self.writer = Writer(tokenizer)
        self.features = features_of(clips)
        self.layout = clip_layout(self.model(), tokenizer)
        if not torch.equal(self.layout.ids, clips.ids):
            raise UsageError(
                "the training clips were encoded for another prompt layout: delete them and run the command again"
            )

    def model(self) -> Any:
        """A fresh copy of the backbone."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        return Thinker.from_pretrained(self.backbone, trust_remote_code=False).float()

    def distill(self, name: str, steps: int | None = None) -> VGAS:
        """Distill a selector from the backbone's own attention; no labels.

        Args:
            name: see `selector_config`.
            steps: optimizer steps; None takes those of the settings.
        """
        config = selector_config(name)
        settings = self.settings if steps is None else replace(self.settings, selector_steps=steps)
        vgas = new_selector(WIDTH, seed=settings.seed, **config)
        if vgas.video_score is not None:
            targets = selector_training.video_attention_targets(
                self.model(), self.layout, self.writer, self.features, self.settings
            )
            selector_training.distill_video_score(vgas.video_score, targets, self.features, settings)
        selector_training.distill(vgas, self.targets(), self.features, settings)
        vgas.train(False)
        return vgas

    def targets(self) -> Tensor:
        """[N, 150] in 0..1: the full-token backbone's attention to audio tokens."""
        return selector_training.attention_targets(self.model(), self.layout, self.writer, self.features, self.settings)

    def tune(
        self,
        compressor: Compressor | None,
        steps: int,
        folder: Path,
        loss: str = ANSWERS,
        retain_start: float | None = None,
    ) -> Any:
        """Fine-tune the backbone under a method.

        Args:
            compressor: the method; None trains with all tokens.
            steps: optimizer steps.
            folder: checkpoints of the run, which resumes from them.
            loss: what is learned, one of `omnisift.training.losses.LOSSES`.
            retain_start: fraction of the tokens kept in the first step, from which it falls to that of the method over
                the first half of the steps; None keeps that of the method throughout.
        """
        model = self.model()
        teacher = self.model().requires_grad_(False).eval() if loss == SELF_DISTILLATION else None
        compress = None
        if compressor is not None:
            end = compressor.budget
            compress = BatchCompressor(
                compressor.train(False), self.clips, self.layout,
                budget=lambda step: falling_budget(end, retain_start, step / steps),
            )  # fmt: skip
        config = TrainConfig(
            self.features, self.layout, self.writer, self.settings, steps, self.settings.finetune_learning_rate, 1.0,
            (), warmup_steps=20, compress=compress, use_hints=False, teacher=teacher,
        )  # fmt: skip
        torch.manual_seed(self.settings.seed)
        train_language_model(model, Hints(WIDTH, self.tokenizer), config, self.features, folder, log_every=10**9)
        return model

    def straight_through(self, name: str, steps: int) -> tuple[Any, VGAS]:
        """The paper's training: a new selector and the language model together, on answers, at 25 %."""
        model = self.model()
        vgas = new_selector(WIDTH, seed=self.settings.seed, **selector_config(name))
        selector_training.straight_through(vgas, model, self.layout, self.writer, self.features, self.settings, steps)
        vgas.train(False)
        return model, vgas


def selector_config(name: str) -> Mapping[str, Any]:
    """Options of `new_selector` from a name ``GUIDE[-LAYERS][-time][-picture]``, for example ``cross-3-time``.

    Raises:
        UsageError: the name has another form.
    """
    parts = name.split("-")
    video_score = parts[-1] == "picture"
    parts = parts[:-1] if video_score else parts
    timed = parts[-1:] == ["time"]
    parts = parts[:-1] if timed else parts
    layers = parts[1] if len(parts) > 1 else "1"
    if not parts or parts[0] not in GUIDES or len(parts) > 2 or not layers.isdigit():
        raise UsageError(
            f"no selector {name!r}; write GUIDE[-LAYERS][-time][-picture], where GUIDE is one of {', '.join(GUIDES)}"
        )
    return {"time_embedding": timed, "guide": parts[0], "layers": int(layers), "video_score": video_score}
