"""ReSift: keep tokens that cover what is new in every frame and every chunk's audio, and merge the rest into them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.v_cast import strength
from omnisift.ops.coverage import cover, merged, nearest_kept, sketch
from omnisift.ops.frames import Frames, of_modality
from omnisift.ops.groups import Scope, group
from omnisift.ops.segments import mean_distance
from omnisift.ops.similarity import cosine, row_cosine
from omnisift.tokens import Modality, Selection, TokenStream

SPAN = 8
"""Frames over which the usual token of a place is taken."""
_TINY = 1e-3
"""Cosine distances that are all below it say nothing: they may be rounding."""


class ReSiftCompressor(Compressor):
    """Weighted coverage of every frame and of every chunk's audio (`Scope.FRAME`), then merging. Nothing is trained.

    - *Newness* ``n`` of a video token: the mean of its cosine distances to the mean of its frame and to the usual token
      of its place (the mean over `SPAN` frames).
    - *Weight* ``w`` of a video token: ``n (1 + s)``, where ``s`` is its norm, scaled from the frame's smallest (0) to
      its largest (1). Of an audio token: ``(1 + u) (1 + g)``, where ``u`` is its cosine distance to the mean of its
      chunk's audio, relative to the chunk's largest, and ``g`` in [0, 1] says how much the frame of that moment stands
      out: the largest ``n`` of its tokens above the lowest such value of the clip, relative to the highest.
    - *Likeness* of two tokens is their cosine; of two audio tokens, times ``exp(-seconds between / decay)``: the same
      sound half a second later is another event.
    - *Choice*, until the count is met: the token with the largest ``w_j min(1, min over kept i of 1 - likeness_ij)``.
    - *Merging*: a dropped token joins the kept one that is most like it, with the weight ``max(0, e)``, where ``e`` is
      the likeness above the mean cosine ``m`` of the frame or chunk, ``(cosine - m) / (1 - m)``, faded as above. A kept
      token, which has the weight 1, becomes the weighted mean.

    Weights and choice read norms and a sketch of the embeddings (`omnisift.ops.coverage.sketch`); merging reads the
    embeddings; a token that is infinite or no number joins none.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        merge: whether dropped tokens are merged into kept ones.
        causal: whether a decision depends on the past only, for live streams: the usual token of a place is then that
            of the last `SPAN` frames, and ``g`` compares with the frames so far. The counts are the budget's: an
            overall ratio or a number of tokens is split by the complete clip, ``retain_video`` and ``retain_audio``
            are not.
        guide: the weight of ``g``, at most a million; 0 leaves it out.
        decay: seconds over which the likeness of two sounds fades; 0 means that it does not.
    """

    name: ClassVar[str] = "resift"
    idea: ClassVar[str] = "covers what is new in every frame and sound, merges the rest into it"
    source: ClassVar[str] = "this project"

    def __init__(
        self,
        budget: Budget | float,
        merge: bool = True,
        causal: bool = False,
        guide: float = 1.0,
        decay: float = 0.5,
    ) -> None:
        super().__init__(budget)
        self.check_choice("merge", merge, [True, False])
        self.check_choice("causal", causal, [True, False])
        self.check_number("guide", guide, 0.0, 1e6)
        self.check_number("decay", decay, 0.0)
        self.merge, self.causal, self.guide, self.decay = merge, causal, guide, decay

    @property
    def reach(self) -> int | None:
        """The frames before a chunk of which the usual token of a place is taken, with ``causal``; else the clip."""
        return SPAN - 1 if self.causal else None

    @property
    def label(self) -> str:
        """``resift``, with the options that differ from the defaults."""
        changed = [] if self.merge else ["unmerged"]
        changed += ["causal"] if self.causal else []
        changed += [f"guide={self.guide:g}"] if self.guide != 1 else []
        changed += [f"decay={self.decay:g}"] if self.decay != 0.5 else []
        return "-".join([self.name, *changed])

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video, then audio, whose weights read those of the video. See `Compressor.select`."""
        return self._select(stream, counts, (Modality.VIDEO, Modality.AUDIO))

    def select_next(self, stream: TokenStream, counts: Counts, memory: dict[str, Any]) -> Selection:
        """Select the next part of a clip; ``memory`` is that of `standing_out`. See `Compressor.next_part`."""
        return self._select(stream, counts, (Modality.VIDEO, Modality.AUDIO), memory)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video tokens. See `Compressor.select_video`."""
        return self._select(stream, counts, (Modality.VIDEO,))

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """Select audio tokens, by the video itself rather than by what another method kept."""
        return self._select(stream, counts, (Modality.AUDIO,))

    def _select(
        self,
        stream: TokenStream,
        counts: Counts,
        modalities: tuple[Modality, ...],
        memory: dict[str, Any] | None = None,
    ) -> Selection:
        """Choose and merge tokens of the given modalities; all others are kept."""
        seen = replace(stream, embeds=sketch(stream.embeds))
        new = newness(seen, self.causal)
        # Norms are those of the tokens: a sketch changes them by more than they may vary within a frame.
        norm = torch.nan_to_num(strength(stream.embeds.detach(), Frames.of(stream)), posinf=0.0)
        weights = {Modality.VIDEO: new * (1 + norm)}
        if Modality.AUDIO in modalities:
            weights[Modality.AUDIO] = self._audio_weight(seen, new, memory)
        keep = torch.ones(len(stream), dtype=torch.bool, device=new.device)
        scores, joins = torch.full_like(new, torch.nan), torch.zeros_like(new)
        target = torch.zeros(len(stream), dtype=torch.int64, device=new.device)
        for modality in modalities:
            weight = weights[modality]
            mine = of_modality(stream, modality).to(new.device, non_blocking=True)
            scores = torch.where(mine, weight, scores)
            decay = self.decay if modality is Modality.AUDIO else 0.0
            for window in group(stream, counts, Scope.FRAME, modality=modality).windows(new.device, matrices=4):
                alike = cosine(seen.embeds, window.index)
                fade = _fade(stream, window.index, decay)
                kept = cover(alike if fade is None else alike * fade, window.valid, window.kept, weight[window.index])
                keep[window.index[window.valid]] = kept[window.valid]
                if self.merge:
                    column, likeness = nearest_kept(alike, kept, window.valid, fade)
                    target[window.index[window.valid]] = window.index.gather(1, column)[window.valid]
                    joins[window.index[window.valid]] = likeness[window.valid]
        if not self.merge:
            return Selection(keep, scores)
        joins = torch.where(seen.embeds.isfinite().all(dim=1), joins, 0.0)
        return Selection(keep, scores, embeds=merged(stream.embeds, keep, target, joins))

    def _audio_weight(self, stream: TokenStream, new: Tensor, memory: dict[str, Any] | None) -> Tensor:
        """[L] float32: weights of the audio tokens."""
        audio = of_modality(stream, Modality.AUDIO)
        chunk = torch.where(audio, stream.chunk, -1)
        chunks = int(stream.chunk.max()) + 1 if len(stream) else 0
        unlike = torch.nan_to_num(mean_distance(stream.embeds, chunk, chunks), posinf=0.0).clamp(min=0)
        # Relative to the chunk's largest, so that a faint event in a quiet chunk counts like any other.
        index = torch.where(chunk < 0, chunks, chunk).to(unlike.device, non_blocking=True)
        largest = unlike.new_zeros(chunks + 1).scatter_reduce_(0, index, unlike, reduce="amax").clamp(min=_TINY)
        unlike = unlike / largest[index]
        return (1 + unlike) * (1 + self.guide * standing_out(stream, new, self.causal, memory))


def newness(stream: TokenStream, causal: bool = False) -> Tensor:
    """Compute how unlike its frame's mean, and the usual token of its place, each video token is.

    Args:
        stream: the tokens of the batch.
        causal: whether the usual token is that of the last `SPAN` frames instead of a span of `SPAN` frames.

    Returns:
        [L] float32 in [0, 2] on the device; 0 for all but video tokens.
    """
    frames = Frames.of(stream)
    if not len(frames):
        return torch.zeros(len(stream), device=stream.embeds.device)
    spatial = mean_distance(stream.embeds, frames.number, len(frames))
    if causal:
        usual = 1 - row_cosine(stream.embeds, _past_mean(stream.embeds, frames), torch.arange(len(stream)))
        usual = torch.where((frames.number >= 0).to(usual.device, non_blocking=True), usual, torch.nan)
    else:
        # Tokens at one place in a span of frames form a group.
        span = frames.rank[frames.number.clamp(min=0)] // SPAN
        places = int(frames.place.max()) + 1
        group = torch.where(
            frames.number >= 0, (stream.clip * (int(span.max()) + 1) + span) * places + frames.place, -1
        )
        usual = mean_distance(stream.embeds, group, int(group.max()) + 1)
    return torch.nan_to_num(0.5 * (spatial + usual), posinf=0.0).clamp(min=0)


def _past_mean(embeds: Tensor, frames: Frames) -> Tensor:
    """[L, D]: mean of the tokens at the same place in the last `SPAN` frames, this one included."""
    total, count = embeds.float().clone(), torch.ones(len(embeds), 1)
    for step in range(1, SPAN):
        earlier = frames.neighbour(-step)
        index = torch.nonzero(earlier >= 0, as_tuple=True)[0]
        count[index] += 1
        there = index.to(embeds.device, non_blocking=True)
        total[there] += embeds[earlier[index].to(embeds.device, non_blocking=True)].float()
    return total / count.to(embeds.device, non_blocking=True)


def standing_out(
    stream: TokenStream, value: Tensor, causal: bool = False, memory: dict[str, Any] | None = None
) -> Tensor:
    """Compute how much the frame at the time of each audio token stands out from the clip's plainest frame.

    Args:
        stream: the tokens of the batch.
        value: [L] float >= 0: `newness`.
        causal: whether to compare with earlier frames only.
        memory: of a clip in parts (`Compressor.next_part`): the time of the last frame of the parts before, in
            microseconds, and the lowest and highest of their frames' largest values; None for complete clips.

    Returns:
        [L] float32 in [0, 1] on the device: ``(m - lowest) / highest`` of the frames' largest values ``m``; near 0 in
        a clip whose frames are alike. 0 for all but audio tokens of clips with frames.
    """
    frames = Frames.of(stream)
    result = torch.zeros(len(stream))
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    if not len(frames) or not (len(audio) or memory is not None):
        return result.to(value.device, non_blocking=True)
    number = frames.number[frames.order]
    most = torch.zeros(len(frames)).scatter_reduce_(0, number, value.cpu()[frames.order], reduce="amax")
    time = stream.position[0][frames.order[frames.start]]
    # Of a clip in parts, the frames before this part count by what they were there: here they lack their own past.
    before: dict[str, Any] = {"time": -1, "highest": 0.0, "lowest": math.inf} | (memory or {})
    context = time <= before["time"]
    highest = _extreme(torch.where(context, before["highest"], most), frames.clip, causal).clamp(min=before["highest"])
    lowest = -_extreme(-torch.where(context, before["lowest"], most), frames.clip, causal).clamp(min=-before["lowest"])
    if memory is not None:
        memory |= {"time": int(time[-1]), "highest": float(highest[-1]), "lowest": float(lowest[-1])}
    stands = ((most - lowest) / highest.clamp(min=_TINY)).clamp(0, 1)
    # The frame of an audio token is the last one that began before it.
    far = int(stream.position[0].max()) + 1
    begin = frames.clip * far + time
    at = torch.searchsorted(begin, stream.clip[audio] * far + stream.position[0][audio], right=True) - 1
    at = at.clamp(min=0)
    result[audio] = torch.where(frames.clip[at] == stream.clip[audio], stands[at], 0.0)  # audio alone has no frame
    return result.to(value.device, non_blocking=True)


def _extreme(values: Tensor, clip: Tensor, causal: bool) -> Tensor:
    """[N]: the largest of ``values`` [N] of the same clip, or of those of its that come no later."""
    result = torch.empty_like(values)
    for number in sorted(set(clip.tolist())):
        mine = clip == number
        result[mine] = values[mine].cummax(dim=0).values if causal else values[mine].max()
    return result


def _fade(stream: TokenStream, index: Tensor, decay: float) -> Tensor | None:
    """[G, N, N]: ``exp(-seconds between / decay)``; None where nothing fades."""
    if not decay:
        return None
    time = stream.time.to(index.device, non_blocking=True)[index]
    return torch.exp(-(time[:, :, None] - time[:, None, :]).abs() / decay)
