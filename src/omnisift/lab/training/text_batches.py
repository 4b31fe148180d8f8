"""Training batches with subtitles: which lines a clip has, and what of its sound and picture is kept.

Lines are right but for some: they are absent, or all lines of a clip are wrong. Budgets go from all tokens to 5 %, with
the library's split of sound and picture or another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnisift.budget import Budget
from omnisift.chunks import build_stream
from omnisift.compressors import Compressor
from omnisift.lab.training.clip_lines import LinePlaces, line_batch, modality_of
from omnisift.lab.training.packed import PromptLayout
from omnisift.media.lines import Line
from omnisift.tokens import TokenStream
from omnisift.world import Scene, subtitles

Batch = dict[str, Tensor]
IDS = 25
"""Temporal rotary ids of a second."""
RETAINS = (0.5, 0.25, 0.15, 0.1, 0.05)
FULL_SHARE = 0.3
"""Share of the batches with all tokens."""
LINED, LINED_MUTE = 0.5, 0.9
"""Share of the clips that have lines, with sound and without."""
WRONG, ABSENT = 0.1, 0.1
"""Share of the clips with lines whose lines are all wrong, and of lines that are absent."""


@dataclass(frozen=True)
class Prompts:
    """The prompts of clips of one layout.

    Args:
        scenes: what happens in each clip.
        layout: where a clip's tokens are.
        places: where its lines are.
        tokenizer: the model's.
    """

    scenes: Sequence[Scene]
    layout: PromptLayout
    places: LinePlaces
    tokenizer: PreTrainedTokenizerFast

    def lined(self, batch: Batch, rows: Sequence[Sequence[Line]]) -> Batch:
        """The batch with lines; without its sound where the layout has none."""
        audio = batch["audio"][:, : len(self.layout.audio)]
        return {**batch, "audio": audio, **line_batch(rows, self.places, self.tokenizer)}

    def compressed(self, batch: Batch, compressor: Compressor) -> Batch:
        """The batch with ``places``, the positions that stay, and merged tokens where the method merges.

        The method sees no line; an exact number of tokens makes all rows equally long.
        """
        stream = clip_stream(self.layout, batch["video"], batch["audio"])
        selection = compressor(stream)
        rows = len(batch["video"])
        keep = selection.keep.view(rows, -1)
        result = {**batch, "places": torch.nonzero(keep, as_tuple=True)[1].view(rows, -1)}
        if selection.embeds is None:
            return result
        merged = stream.embeds.index_put((selection.keep,), selection.embeds).view(rows, keep.shape[1], -1)
        return {**result, "video": merged[:, self.layout.video], "audio": merged[:, self.layout.audio]}


def clip_stream(layout: PromptLayout, video: Tensor, audio: Tensor) -> TokenStream:
    """The tokens of clips [B, V, D] and [B, A, D] as a compressor reads them; other tokens are zeros."""
    rows, length = len(video), len(layout.ids)
    embeds = video.new_zeros(rows, length, video.shape[-1])
    embeds = embeds.index_copy(1, layout.video, video).index_copy(1, layout.audio, audio)
    sample = torch.arange(rows).repeat_interleave(length)
    modality = modality_of(layout).repeat(rows)
    return build_stream(embeds.flatten(0, 1), modality, layout.position.repeat(1, rows), sample, 1 / IDS)


@dataclass(frozen=True)
class TextBatches:
    """Gives every training batch lines and a budget, drawn by the seed and the number of the step.

    Args:
        sources: prompts of each source of batches (`omnisift.lab.training.language_model.TrainConfig.sources`).
        make: budget, whether the trained method -> the method.
        seed: seed of the draws.
    """

    sources: Sequence[Prompts]
    make: Callable[[Budget, bool], Compressor]
    seed: int = 0

    @torch.no_grad()
    def __call__(self, batch: Batch, clips: list[int], step: int) -> Batch:
        """The batch with lines and with the tokens that stay."""
        rng, prompts = np.random.default_rng((self.seed, 19, step)), self.sources[int(batch["source"])]
        has_sound = len(prompts.layout.audio) > 0
        rows = [some_lines(prompts.scenes[clip], LINED if has_sound else LINED_MUTE, rng) for clip in clips]
        batch = prompts.lined(batch, rows)
        budget = any_budget(has_sound, rng)
        return batch if budget is None else prompts.compressed(batch, self.make(budget, bool(rng.random() < 0.3)))


def some_lines(scene: Scene, lined: float, rng: np.random.Generator) -> list[Line]:
    """The lines of a clip in training: none, or most of the right ones, or wrong ones."""
    if rng.random() >= lined:
        return []
    lines = subtitles(scene, "wrong" if rng.random() < WRONG else None)
    return [line for line in lines if rng.random() >= ABSENT]


def any_budget(has_sound: bool, rng: np.random.Generator) -> Budget | None:
    """A budget; None keeps all tokens. Half of those of clips with sound thin it independently of the picture."""
    if rng.random() < FULL_SHARE:
        return None
    retain = float(rng.choice(RETAINS))
    if has_sound and rng.random() < 0.5:
        return Budget(retain_video=retain, retain_audio=float(rng.choice((*RETAINS, 0.02))))
    return Budget(retain=retain)
