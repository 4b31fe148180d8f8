"""DyCoke's temporal token merging: every fourth frame whole, of the others what changed most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.compressors.frames import Frames, of_modality, pair_cosine
from omnisift.compressors.groups import Groups
from omnisift.compressors.integer_shares import allocate
from omnisift.compressors.paired import join
from omnisift.compressors.segment_ops import mean_distance
from omnisift.errors import UnreachableBudget
from omnisift.tokens import Modality, Selection, TokenStream

GROUP = 4
"""Frames of a group: its first stays whole."""

SECOND = 25
"""Audio tokens of a pseudo-frame: one second of Qwen2.5-Omni, as long as a frame."""


@dataclass(frozen=True)
class Steps:
    """What DyCoke calls frames, of one modality: frames, or stretches of sound. On the CPU."""

    index: Tensor
    """[L] int64: step of each token, -1 for none."""
    before: Tensor
    """[L] int64: the token that each is compared with; -1 in whole steps and where none is at its place."""
    size: Tensor
    """[S] int64: tokens of each step."""
    clip: Tensor
    """[S] int64: its clip."""
    whole: Tensor
    """[S] bool: whether it is the first of its group."""


class DyCokeCompressor(Compressor):
    """Temporal token merging of picture and sound ("V&A"), the first stage of DyCoke (arXiv 2411.15024).

    Frames are taken in groups of four. The first of a group stays whole, the third is compared with the first, the
    second and fourth with the frame before each, at the same place; the tokens with the lowest cosine stay. The clip's
    total (`Scope.CLIP`) less the whole frames is spread evenly over the others, so a total below the whole frames is
    an error. Published "merging" is dropping: nothing is averaged.

    Sound has no frames; no publication says what took their place. Here 25 tokens in a row, from the first that lies
    in a chunk of the clip, are a pseudo-frame.

    Deviations: the released code leaves the last group's third frame whole and loses the last of an odd number of
    frames; here counts are the budget's, so neither is copied. A frame that differs in size from the one it is
    compared with has no same places: its tokens count by their distance to its mean. The second stage, which prunes
    the key-value cache while decoding, is left out, as in OmniZip's and OmniSIFT's comparisons.
    """

    name: ClassVar[str] = "dycoke"
    idea: ClassVar[str] = "keeps every fourth frame whole, of the others what changed most"
    source: ClassVar[str] = "arXiv 2411.15024"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Picture and sound by the same rule, each by itself."""
        picture = self.select_video(stream, counts)
        return join(stream, picture, self.select_audio(stream, counts, picture))

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """The picture alone; all sound stays. Raises `UnreachableBudget` below the floor."""
        return self._choose(stream, of_picture(stream), counts.frame0 + counts.frame1, Modality.VIDEO)

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:  # noqa: ARG002
        """The sound alone; all picture stays. Raises `UnreachableBudget` below the floor."""
        return self._choose(stream, of_sound(stream), counts.audio, Modality.AUDIO)

    def _choose(self, stream: TokenStream, steps: Steps, kept: Tensor, modality: Modality) -> Selection:
        """``kept`` [C] int64: the budget's count of this modality in every chunk."""
        clip = ChunkShapes.of(stream).clip
        total = torch.zeros(int(clip.max()) + 1 if len(clip) else 0, dtype=torch.int64).index_add_(0, clip, kept)
        scores = _change(stream.embeds, steps)
        return Selection(Groups(steps.index, self._shares(steps, total, modality)).highest(scores), scores)

    def _shares(self, steps: Steps, total: Tensor, modality: Modality) -> Tensor:
        """[S] int64: kept tokens of each step; ``total`` [clips] int64."""
        kept = torch.where(steps.whole, steps.size, 0)
        for clip in torch.unique(steps.clip).tolist():
            mine = steps.clip == clip
            floor, most, wanted = int(kept[mine].sum()), int(steps.size[mine].sum()), int(total[clip])
            if wanted < floor:
                raise UnreachableBudget(self._too_few(modality, wanted, most, floor))
            others = mine & ~steps.whole
            kept[others] = allocate(steps.size[others], steps.size[others], wanted - floor)
        return kept

    def _too_few(self, modality: Modality, wanted: int, most: int, floor: int) -> str:
        word, step = ("video", "frame") if modality == Modality.VIDEO else ("audio", "second of sound")
        ratio = f"retain_{word}" if self.budget.retain is None else "retain"
        return (
            f"dycoke can't keep {wanted} of {most} {word} tokens: it keeps every fourth {step} whole, "
            f"at least {floor}; raise {ratio}, or choose another method"
        )


def of_picture(stream: TokenStream) -> Steps:
    """The frames: 2 of 4 compared with 0, 1 and 3 with the one before each."""
    frames = Frames.of(stream)
    place = frames.rank % GROUP
    before = frames.neighbour(torch.where(place == 2, -2, torch.where(place == 0, len(frames), -1)))
    return Steps(frames.number, before, frames.size, frames.clip, place == 0)


def of_sound(stream: TokenStream) -> Steps:
    """Pseudo-frames of 25 tokens. The last of a clip may be shorter: each of its places is in the one before."""
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    clip = stream.clip[audio]  # sorted: clips lie one after another
    rank = torch.arange(len(audio)) - torch.searchsorted(clip, clip)
    opens = rank % SECOND == 0
    index = torch.cumsum(opens, dim=0) - 1
    back = torch.tensor([0, 1, 2, 1])[rank // SECOND % GROUP] * SECOND
    before = torch.where(back > 0, audio[torch.arange(len(audio)) - back], -1)
    none = torch.full((len(stream),), -1)
    return Steps(
        index=none.index_copy(0, audio, index),
        before=none.index_copy(0, audio, before),
        size=torch.bincount(index),
        clip=clip[opens],
        whole=rank[opens] // SECOND % GROUP == 0,
    )


def _change(embeds: Tensor, steps: Steps) -> Tensor:
    """[L] float32: one minus the cosine with the token before, or with the step's mean where none is; NaN in whole
    steps."""
    change = 1 - pair_cosine(embeds, steps.before)
    whole = torch.isin(steps.index, torch.nonzero(steps.whole).flatten())
    alone = (steps.index >= 0) & (steps.before < 0) & ~whole
    if bool(alone.any()):
        distance = mean_distance(embeds, torch.where(alone, steps.index, -1), len(steps.size))
        change = torch.where(alone.to(change.device), distance, change)
    return change
