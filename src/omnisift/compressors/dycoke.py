"""DyCoke's temporal token merging: every fourth frame in full, and of the others what changed most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.base import Compressor
from omnisift.errors import UnreachableBudget
from omnisift.ops.frames import Frames, of_modality
from omnisift.ops.groups import Groups
from omnisift.ops.integer_shares import allocate
from omnisift.ops.segments import mean_distance
from omnisift.ops.selection_builder import join
from omnisift.ops.similarity import pair_cosine
from omnisift.tokens import Modality, Selection, TokenStream

GROUP = 4
"""Frames of a group, of which the first is kept in full."""

PSEUDO_FRAME = 25
"""Audio tokens of a pseudo-frame: one second of Qwen2.5-Omni, as long as a frame."""


@dataclass(frozen=True)
class Steps:
    """DyCoke's frames of one modality: frames of the video, or pseudo-frames of the audio. All on the CPU."""

    step: Tensor
    """[L] int64: step of each token, -1 for none."""
    previous: Tensor
    """[L] int64: the token that each one is compared with; -1 in full steps and where there is none."""
    size: Tensor
    """[S] int64: tokens of each step."""
    clip: Tensor
    """[S] int64: clip of each step."""
    full: Tensor
    """[S] bool: whether the step is the first of its group, which is kept in full."""


class DyCokeCompressor(Compressor):
    """Temporal token merging of video and audio ("V&A"), the first stage of DyCoke (arXiv 2411.15024).

    Frames are taken in groups of four. The first of a group is kept in full, the third is compared with the first, the
    second and fourth with the frame before each, at the same place; the tokens with the lowest cosine are kept. The
    clip's total (`Scope.CLIP`) less the full frames is spread evenly over the others, so a total below the full frames
    is an error. The published "merging" drops tokens: nothing is averaged.

    Audio has no frames, and no publication says what replaces them. Here, 25 consecutive tokens are a pseudo-frame,
    counted from the first one inside a chunk of the clip.

    Deviations: the released code keeps the last group's third frame in full and loses the last of an odd number of
    frames; here counts are the budget's, so neither is copied. A frame whose size differs from the one it is compared
    with has no corresponding places: its tokens count by their distance to its mean. The second stage, which prunes the
    key-value cache while decoding, is left out, as in OmniZip's and OmniSIFT's comparisons.
    """

    name: ClassVar[str] = "dycoke"
    idea: ClassVar[str] = "keeps every fourth frame in full, and of the others what changed most"
    source: ClassVar[str] = "arXiv 2411.15024"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video and audio separately, by the same rule. See `Compressor.select`.

        Raises:
            UnreachableBudget: the budget is below the tokens that are kept in full.
        """
        video = self.select_video(stream, counts)
        return join(stream, video, self.select_audio(stream, counts, video))

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video tokens. See `Compressor.select_video`.

        Raises:
            UnreachableBudget: the budget is below the tokens that are kept in full.
        """
        return self._select(stream, video_steps(stream), counts.frame0 + counts.frame1, Modality.VIDEO)

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """Select audio tokens. See `Compressor.select_audio`.

        Raises:
            UnreachableBudget: the budget is below the tokens that are kept in full.
        """
        return self._select(stream, audio_steps(stream), counts.audio, Modality.AUDIO)

    def _select(self, stream: TokenStream, steps: Steps, kept: Tensor, modality: Modality) -> Selection:
        """``kept`` is the budget's count of this modality in every chunk, [C] int64."""
        clip = ChunkShapes.of(stream).clip
        total = torch.zeros(int(clip.max()) + 1 if len(clip) else 0, dtype=torch.int64).index_add_(0, clip, kept)
        scores = _change(stream.embeds, steps)
        return Selection(Groups(steps.step, self._shares(steps, total, modality)).highest(scores), scores)

    def _shares(self, steps: Steps, total: Tensor, modality: Modality) -> Tensor:
        """Kept tokens of each step, [S] int64, from the total of each clip."""
        kept = torch.where(steps.full, steps.size, 0)
        for clip in torch.unique(steps.clip).tolist():
            in_clip = steps.clip == clip
            minimum, size, target = int(kept[in_clip].sum()), int(steps.size[in_clip].sum()), int(total[clip])
            if target < minimum:
                raise UnreachableBudget(self._too_few(modality, target, size, minimum))
            # What is left goes to the other steps in proportion to their size.
            others = in_clip & ~steps.full
            kept[others] = allocate(steps.size[others], steps.size[others], target - minimum)
        return kept

    def _too_few(self, modality: Modality, target: int, size: int, minimum: int) -> str:
        name, step = ("video", "frame") if modality == Modality.VIDEO else ("audio", "second of audio")
        given = {"tokens": self.budget.tokens, "retain": self.budget.retain}
        ratio = next((option for option, value in given.items() if value is not None), f"retain_{name}")
        return (
            f"dycoke can't keep {target} of {size} {name} tokens: it keeps every fourth {step} in full, "
            f"at least {minimum}; raise {ratio}, or choose another method"
        )


def video_steps(stream: TokenStream) -> Steps:
    """Return the frames of a stream, with the frame that each is compared with."""
    frames = Frames.of(stream)
    # Of four frames, number 2 is compared with number 0, numbers 1 and 3 with the one before, number 0 with none
    # (a step of len(frames) is out of range).
    phase = frames.rank % GROUP
    previous = frames.neighbour(torch.where(phase == 2, -2, torch.where(phase == 0, len(frames), -1)))
    return Steps(frames.number, previous, frames.size, frames.clip, phase == 0)


def audio_steps(stream: TokenStream) -> Steps:
    """Return the pseudo-frames of a stream, with the pseudo-frame that each is compared with."""
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    clip = stream.clip[audio]  # sorted: clips follow one another
    rank = torch.arange(len(audio)) - torch.searchsorted(clip, clip)
    opens = rank % PSEUDO_FRAME == 0
    step = torch.cumsum(opens, dim=0) - 1
    # The same comparisons as for frames. The last pseudo-frame may be shorter; each of its places exists before.
    distance = torch.tensor([0, 1, 2, 1])[rank // PSEUDO_FRAME % GROUP] * PSEUDO_FRAME
    previous = torch.where(distance > 0, audio[torch.arange(len(audio)) - distance], -1)
    none = torch.full((len(stream),), -1)
    return Steps(
        step=none.index_copy(0, audio, step),
        previous=none.index_copy(0, audio, previous),
        size=torch.bincount(step),
        clip=clip[opens],
        full=rank[opens] // PSEUDO_FRAME % GROUP == 0,
    )


def _change(embeds: Tensor, steps: Steps) -> Tensor:
    """One minus the cosine with the previous token, or with the step's mean if there is none; NaN in full steps."""
    change = 1 - pair_cosine(embeds, steps.previous)
    in_full = torch.isin(steps.step, torch.nonzero(steps.full).flatten())
    alone = (steps.step >= 0) & (steps.previous < 0) & ~in_full
    if bool(alone.any()):
        distance = mean_distance(embeds, torch.where(alone, steps.step, -1), len(steps.size))
        change = torch.where(alone.to(change.device, non_blocking=True), distance, change)
    return change
