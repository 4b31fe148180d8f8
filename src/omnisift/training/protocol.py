"""The trained protocol: what a method is worth once the model has met what the method leaves.

Selectors are distilled from the backbone's own attention; language models go on learning under a method, with the same
steps, clips and questions for every method (as the paper's table 4 does for OmniZip). Encoders stay frozen.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnisift.compressors import Compressor
from omnisift.compressors.random import seed_rows
from omnisift.errors import UsageError
from omnisift.tokens import Modality
from omnisift.training import selector as selecting
from omnisift.training.feature_cache import FeatureCache
from omnisift.training.language_model import Batch, Lesson, train_language_model
from omnisift.training.losses import Hints
from omnisift.training.nano_model import WIDTH
from omnisift.training.packed import Layout, Writer, clip_layout
from omnisift.training.settings import NanoSettings
from omnisift.vgas import GUIDES, VGAS
from omnisift.world.encoded import Encoded

logger = logging.getLogger(__name__)
CLIPS = 640
"""Clips of the training split that selectors and fine-tuned models learn from."""


def bank_of(clips: Encoded, split: str = "train") -> FeatureCache:
    """The encoders' outputs of clips 0, 1, ... as the trainer wants them."""
    video, audio = (clips.embeds[:, clips.modality == kind] for kind in (Modality.VIDEO, Modality.AUDIO))
    return FeatureCache(split, 0, video, audio)


@dataclass
class Cutter:
    """A method that cuts every training prompt, exactly as it cuts prompts of the product."""

    compressor: Compressor
    clips: Encoded
    layout: Layout
    seed: int = 0

    @torch.no_grad()
    def __call__(self, batch: Batch, clips: list[int], step: int) -> Batch:
        """The batch with the places that stay, and with merged embeddings where the method merges."""
        some = self.clips.take(clips)
        seed_rows(self.compressor, [self.seed + 1000 * step + row for row in range(len(clips))])
        stream = some.stream()
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
    """The backbone, its tokenizer and the training clips: all that a row of the trained protocol needs."""

    def __init__(self, backbone: Path, clips: Encoded, seed: int = 0) -> None:
        from transformers import AutoTokenizer

        self.backbone, self.clips = backbone, clips
        tokenizer: Any = AutoTokenizer.from_pretrained(str(backbone))
        self.tokenizer = tokenizer
        self.settings = replace(NanoSettings(), seed=seed)
        self.writer = Writer(tokenizer)
        self.bank = bank_of(clips)
        self.layout = clip_layout(self.model(), tokenizer)
        if not torch.equal(self.layout.ids, clips.ids):
            raise UsageError("the training clips were encoded for another prompt layout: delete them and run again")

    def model(self) -> Any:
        """A fresh copy of the backbone."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        return Thinker.from_pretrained(self.backbone).float()

    def distil(self, name: str, steps: int | None = None) -> VGAS:
        """A selector by its name (see `selector_config`), taught by the backbone's own attention. No labels."""
        config = selector_config(name)
        settings = self.settings if steps is None else replace(self.settings, selector_steps=steps)
        vgas = selecting.new_selector(WIDTH, seed=settings.seed, **config)
        if vgas.picture is not None:
            targets = selecting.teach_picture(self.model(), self.layout, self.writer, self.bank, self.settings)
            selecting.distil_picture(vgas.picture, targets, self.bank, settings)
        selecting.distil(vgas, self.targets(), self.bank, settings)
        vgas.train(False)
        return vgas

    def targets(self) -> Tensor:
        """[N, 150]: what the full-token backbone looks at."""
        return selecting.teach(self.model(), self.layout, self.writer, self.bank, self.settings)

    def tune(self, compressor: Compressor | None, steps: int, folder: Path) -> Any:
        """The backbone after ``steps`` steps under a method (None: with all tokens); resumes from ``folder``."""
        model = self.model()
        cutter = None if compressor is None else Cutter(compressor.train(False), self.clips, self.layout)
        lesson = Lesson(
            self.bank, self.layout, self.writer, self.settings, steps, self.settings.finetune_rate, 1.0, (),
            warmup=20, cut=cutter, hinted=False,
        )  # fmt: skip
        torch.manual_seed(self.settings.seed)
        train_language_model(model, Hints(WIDTH, self.tokenizer), lesson, self.bank, folder, log_every=10**9)
        return model

    def straight_through(self, name: str, steps: int) -> tuple[Any, VGAS]:
        """The paper's own training: a new selector and the language model together, on answers, at 25 %."""
        model, vgas = self.model(), selecting.new_selector(WIDTH, seed=self.settings.seed, **selector_config(name))
        selecting.straight_through(vgas, model, self.layout, self.writer, self.bank, self.settings, steps)
        vgas.train(False)
        return model, vgas


def selector_config(name: str) -> Mapping[str, Any]:
    """``cross``, ``cross-time``, ``cross-3-time``, ``cross-time-picture`` ...: guide, layers, our two additions."""
    parts = name.split("-")
    seen = parts[-1] == "picture"
    parts = parts[:-1] if seen else parts
    timed = parts[-1:] == ["time"]
    parts = parts[:-1] if timed else parts
    layers = parts[1] if len(parts) > 1 else "1"
    if not parts or parts[0] not in GUIDES or len(parts) > 2 or not layers.isdigit():
        raise UsageError(
            f"no selector {name!r}: write GUIDE[-LAYERS][-time][-picture], with a guide of {', '.join(GUIDES)}"
        )
    return {"time_embedding": timed, "guide": parts[0], "layers": int(layers), "picture": seen}
