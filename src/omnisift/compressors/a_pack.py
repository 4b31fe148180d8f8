"""Stage 1 of A-PACK: frames by segments and by how sound and picture move together; anchors, then what differs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.paired import VideoCompressor
from omnisift.ops.coverage import cover
from omnisift.ops.frames import Frames, of_modality
from omnisift.ops.groups import group
from omnisift.ops.integer_shares import per_frame
from omnisift.ops.segments import group_means
from omnisift.ops.similarity import cosine, pair_cosine, rounded
from omnisift.tokens import Modality, Selection, TokenStream

WINDOW = 3
"""Frames of the local alignment (w)."""
GATE, DISTANCE_SHARE = 0.78, 0.90
"""Below this mean alignment of a clip (tau), distances have this share (beta) in the alignment."""
CONTINUITY = 0.97
"""A segment ends where two smoothed frames have a lower cosine."""
SMOOTHING = 1.0
"""Standard deviation of the Gaussian over frames; it is cut off after three."""
SEGMENT_SHARE = 0.90
"""Share of the segments in a frame's weight (gamma); the alignment has the rest."""
NEIGHBOURS, DENSITY_POWER = 5, 0.5
"""Tokens whose mean cosine is a density, and its power in the choice."""
STILL = 1e-10
"""Share of variance, relative to the squared length, up to which frames count as equal."""


class APackCompressor(VideoCompressor):
    """Video selection of A-PACK's stage before the language model (arXiv 2608.08794).

    - *Alignment* of a frame: linear CKA of the means of picture and sound in three frames around it. Where its mean
      over the clip is below 0.78, it is ``0.1 CKA + 0.9 (1 - d)``, with d the distance of both means, scaled to [0, 1].
    - *Segments* end where the smoothed means of two frames have a cosine below 0.97.
    - *Budget*: a frame's weight is 0.9 of its segment's share and 0.1 of its share of the alignment; the clip's total
      is divided by weight (`Scope.CLIP` in total).
    - *Choice*: the first frame of a segment is its anchor and keeps the tokens that come first by
      ``(1 - largest cosine with a chosen token) density^0.5``; other frames keep what is least like the same place of
      the anchor.

    Published, stage 1 keeps all sound and takes what is left of a total for video: ``retain_audio=1`` does that here.
    Deviations from the paper, of which a summary was read, not the text:

    - the question is left out, as a compressor reads the clip only: relevance is the same for all frames, so that a
      segment of n frames has the weight ``sqrt(n)``, in equal parts for its frames;
    - stage 2, which prunes sound and video in the decoder, is left out;
    - both weights are scaled to a sum of 1 over the clip, and a frame's weight is multiplied by its size;
    - CKA compares the 3 x 3 products of frames. At the ends of a clip the window is moved inside; frames that don't
      differ have CKA 0. Sound is the mean over a frame's time, zero where there is none; a clip without sound has the
      same alignment everywhere;
    - a segment also ends where the size of the frames changes. A density is not weighted by covered tokens, a negative
      cosine counts as 0, and the published priority of anchors (0.3) and coverage of the others (0.8), which the
      summary does not explain, are left out.
    """

    name: ClassVar[str] = "a_pack"
    idea: ClassVar[str] = "covers the first frame of every segment, then keeps what differs from it"
    source: ClassVar[str] = "arXiv 2608.08794"

    @property
    def video_label(self) -> str:
        """``a_pack-I``, since the published method has two stages."""
        return f"{self.name}-I"

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Divide the budget by segments and alignment, then select in anchors and in other frames.

        See `Compressor.select_video`.
        """
        frames, device = Frames.of(stream), stream.embeds.device
        if not len(frames):
            return Selection(keep=torch.ones(len(stream), dtype=torch.bool, device=device))
        signals = Signals.of(stream, frames)
        anchor = anchors(signals, frames)
        shapes = ChunkShapes.of(stream)
        weight = frame_weights(signals, anchor, frames) * frames.size
        groups = group(stream, per_frame(counts, shapes, frames.table(weight, len(shapes))), modality=Modality.VIDEO)
        # Frames that are no anchors: what is least like the same place of the anchor.
        same_place = frames.neighbour(anchor - torch.arange(len(frames)))
        in_anchor = same_place == torch.arange(len(stream))
        unlike = -rounded(pair_cosine(stream.embeds.detach(), same_place))
        keep = replace(groups, group=torch.where(in_anchor, -1, groups.group)).highest(unlike)
        # Anchors: dense tokens that are unlike the chosen ones.
        for window in replace(groups, group=torch.where(in_anchor, groups.group, -1)).windows(device, matrices=3):
            alike = cosine(stream.embeds, window.index)
            strength = density(alike, window.valid) ** DENSITY_POWER
            chosen = cover(alike.clamp_(min=0), window.valid, window.kept, strength)
            keep[window.index[window.valid]] = chosen[window.valid]
        return Selection(keep=keep)


def density(alike: Tensor, valid: Tensor) -> Tensor:
    """Compute the mean cosine of each token with its five most similar others, [G, N] in [0, 1]; 1 for one alone.

    Args:
        alike: [G, N, N] cosines.
        valid: [G, N] bool, False on padding.
    """
    width = valid.shape[1]
    itself = torch.eye(width, dtype=torch.bool, device=valid.device)
    nearest = alike.masked_fill(itself | ~valid.unsqueeze(1), -torch.inf).topk(min(NEIGHBOURS, width - 1), dim=2).values
    exists = nearest.isfinite()
    number = exists.sum(dim=2)
    mean = torch.where(exists, nearest, 0.0).sum(dim=2) / number.clamp(min=1)
    return torch.where(number > 0, mean.clamp(0, 1), 1.0)


@dataclass(frozen=True)
class Signals:
    """What the budget reads of the frames' means, on the CPU."""

    continuity: Tensor
    """[F] float64: cosine of the smoothed means of a frame and of the one before it in the stream."""
    distance: Tensor
    """[F] float64: distance of the means of picture and sound."""
    picture: Tensor
    """[3, F] float64: product of a frame's mean with that of the same frame, the next one and the one after."""
    sound: Tensor
    """[3, F] float64: the same of the audio."""

    @classmethod
    def of(cls, stream: TokenStream, frames: Frames) -> Signals:
        """Measure the frames of ``stream``. One device sync."""
        embeds = stream.embeds.detach()
        picture = group_means(embeds, frames.number, len(frames))
        sound = group_means(embeds, frame_of_audio(stream, frames), len(frames))
        distance = torch.linalg.vector_norm(picture - sound, dim=1).double()
        smooth = smoothed(picture, frames.clip)
        continuity = torch.ones_like(distance)
        continuity[1:] = rounded(F.cosine_similarity(smooth[1:], smooth[:-1], dim=1)).double()
        table = torch.stack([continuity, distance, *_products(picture), *_products(sound)]).cpu()
        return cls(table[0], table[1], table[2 : 2 + WINDOW], table[2 + WINDOW :])


def frame_of_audio(stream: TokenStream, frames: Frames) -> Tensor:
    """Find the frame that lasts at the time of each audio token.

    Returns:
        [L] int64 on the CPU: the last frame of the clip that began before the token; -1 for all but audio in chunks,
        and in clips without frames.
    """
    result = torch.full((len(stream),), -1)
    audio = torch.nonzero(of_modality(stream, Modality.AUDIO), as_tuple=True)[0]
    far = int(stream.position[0].max()) + 1
    begin = frames.clip * far + stream.position[0][frames.order[frames.start]]
    at = torch.searchsorted(begin, stream.clip[audio] * far + stream.position[0][audio], right=True) - 1
    result[audio] = torch.where(frames.clip[at] == stream.clip[audio], at, -1)  # audio alone has no frame
    return result


def smoothed(means: Tensor, clip: Tensor) -> Tensor:
    """Smooth the frames' means [F, D] over time by a Gaussian, inside every clip and up to a factor."""
    result = means.clone()
    for step in range(1, min(int(3 * SMOOTHING), len(means) - 1) + 1):
        weight = float(torch.exp(torch.tensor(-0.5 * (step / SMOOTHING) ** 2)))
        same = (clip[step:] == clip[:-step]).to(means.device, non_blocking=True)[:, None] * weight
        result[step:] += means[:-step] * same
        result[:-step] += means[step:] * same
    return result


def _products(means: Tensor) -> list[Tensor]:
    """Products of frames that are 0, 1 and 2 apart, [F] float64 each; 0 where there is no second frame."""
    means = means.double()
    return [
        F.pad((means[: len(means) - lag] * means[lag:]).sum(dim=1), (0, min(lag, len(means)))) for lag in range(WINDOW)
    ]


def anchors(signals: Signals, frames: Frames) -> Tensor:
    """Return the first frame of each frame's segment, [F] int64."""
    opens = frames.rank == 0
    opens[1:] |= (signals.continuity[1:] < CONTINUITY) | (frames.size[1:] != frames.size[:-1])
    return torch.nonzero(opens, as_tuple=True)[0][torch.cumsum(opens, dim=0) - 1]


def frame_weights(signals: Signals, anchor: Tensor, frames: Frames) -> Tensor:
    """Compute the weight of each frame, from its segment and its alignment.

    Args:
        signals: what was measured of the frames.
        anchor: [F] int64, from `anchors`.
        frames: the frames of the stream.

    Returns:
        [F] float64 >= 0; it sums to 1 over a clip.
    """
    # A segment of n frames has sqrt(n), in equal parts.
    length = torch.bincount(anchor, minlength=len(anchor))[anchor].double()
    segment, aligned = length.rsqrt(), alignment(signals, frames)
    weight = torch.zeros_like(segment)
    for clip in torch.unique(frames.clip).tolist():
        mine = frames.clip == clip
        total = aligned[mine].sum()
        share = aligned[mine] / total if total > 0 else torch.ones_like(aligned[mine]) / mine.sum()
        weight[mine] = SEGMENT_SHARE * segment[mine] / segment[mine].sum() + (1 - SEGMENT_SHARE) * share
    return weight


def alignment(signals: Signals, frames: Frames) -> Tensor:
    """Compute how much sound and picture move together around each frame, [F] float64 in [0, 1]."""
    first, number = _window_of(frames)
    score = _cka(_centred(signals.picture, first, number), _centred(signals.sound, first, number))
    for clip in torch.unique(frames.clip).tolist():
        mine = frames.clip == clip
        if not bool((signals.sound[0][mine] > 0).any()):
            score[mine] = 1.0
        elif float(score[mine].mean()) < GATE:
            distance = signals.distance[mine]
            apart = (distance - distance.min()) / (distance.max() - distance.min()).clamp(min=1e-12)
            score[mine] = (1 - DISTANCE_SHARE) * score[mine] + DISTANCE_SHARE * (1 - apart)
    return torch.nan_to_num(score).clamp(0, 1)


def _window_of(frames: Frames) -> tuple[Tensor, Tensor]:
    """First frame, and number of frames (up to `WINDOW`), of the window around each frame: [F] int64 each."""
    of_clip = torch.bincount(frames.clip)[frames.clip]
    begin = torch.minimum(frames.rank - WINDOW // 2, of_clip - WINDOW).clamp(min=0)
    return torch.arange(len(frames)) - frames.rank + begin, of_clip.clamp(max=WINDOW)


def _centred(products: Tensor, first: Tensor, number: Tensor) -> Tensor:
    """Products [F, 3, 3] of the frames of each window, after subtraction of the window's mean.

    0 for missing frames, and throughout where the frames are equal.
    """
    place = torch.arange(WINDOW)
    low, lag = torch.minimum(place[:, None], place), (place[:, None] - place).abs()
    inside = place < number[:, None]
    both = inside[:, :, None] & inside[:, None, :]
    index = (first[:, None, None] + low).clamp(max=products.shape[1] - 1)
    gram = torch.where(both, products[lag.expand_as(index), index], 0.0)
    mean = gram.sum(dim=2, keepdim=True) / number[:, None, None]
    total = mean.sum(dim=1, keepdim=True) / number[:, None, None]
    centred = torch.where(both, gram - mean - mean.mT + total, 0.0)
    length, rest = (matrix.diagonal(dim1=1, dim2=2).sum(dim=1) for matrix in (gram, centred))
    return torch.where((rest > STILL * length)[:, None, None], centred, 0.0)


def _cka(left: Tensor, right: Tensor) -> Tensor:
    """Cosine of two centred matrices of products, [F] from [F, 3, 3]; 0 where one of them is 0."""
    return F.cosine_similarity(left.flatten(1), right.flatten(1), dim=1, eps=1e-300)
