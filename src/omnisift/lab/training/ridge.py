"""A closed-form selector: ridge regression from the encoders' outputs to the full-token model's own attention.

After Triage (arXiv 2609.38878), which predicts the attention of a language model for audio from its encoder's outputs.
Nothing is trained by gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from omnisift.budget import kept_count
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.selections import (
    AUDIO_PER_CHUNK,
    CHUNKS,
    Select,
    audio_saliency,
    select_with,
    stvp_scores,
    top_indices,
)

WINDOW = 5
"""Audio tokens over which the neighbours' mean is taken, the token itself included."""
_BATCH = 50


@dataclass(frozen=True)
class Ridge:
    """A linear score of audio tokens."""

    mean: Tensor
    """[F] float64: mean of each feature over the training tokens."""
    weight: Tensor
    """[F] float64."""
    with_video: bool
    """Whether the features include the kept video tokens."""

    def scores(self, video: Tensor, audio: Tensor, retain: float) -> Tensor:
        """[B, 3, 50] of video [B, N, D] and audio [B, 150, D]; ``retain`` decides which video tokens are kept."""
        seen = ridge_features(video, audio, retain if self.with_video else None)
        return ((seen - self.mean) @ self.weight).view(-1, CHUNKS, AUDIO_PER_CHUNK)

    def selection(self, retain: float) -> Select:
        """STVP for video, and the highest scores of the audio of every chunk."""

        def select(video: Tensor, audio: Tensor) -> KeptTokens:
            return select_with(stvp_scores(video), self.scores(video, audio, retain), retain)

        return select


def ridge_features(video: Tensor, audio: Tensor, retain: float | None) -> Tensor:
    """Compute what the score of an audio token is linear in.

    Args:
        video: [B, N, D].
        audio: [B, 150, D].
        retain: fraction of video tokens that STVP keeps; None leaves video out.

    Returns:
        [B, 150, F] float64: the token, the mean of its neighbours, the mean of its chunk, and how unlike that mean it
        is; with video, also the mean of the kept video tokens of the frame of its time.
    """
    tokens = len(audio), CHUNKS, AUDIO_PER_CHUNK, audio.shape[-1]
    near = F.avg_pool1d(audio.mT, WINDOW, 1, WINDOW // 2, count_include_pad=False).mT
    centre = audio.view(tokens).mean(2, keepdim=True).expand(tokens).flatten(1, 2)
    parts = [audio, near, centre, 1 + audio_saliency(audio).flatten(1)[..., None]]
    if retain is not None:
        scores = stvp_scores(video)
        count = kept_count(scores.shape[-1], retain)
        kept = top_indices(scores, count)[..., None].expand(-1, -1, video.shape[-1])
        frames = video.gather(1, kept).view(len(video), 2 * CHUNKS, count, -1).mean(2)
        parts.append(frames.repeat_interleave(AUDIO_PER_CHUNK // 2, dim=1))
    return torch.cat(parts, dim=-1).double()


def fit_ridge(features: FeatureCache, targets: Tensor, penalty: float, retain: float | None = None) -> Ridge:
    """Solve the regression.

    Args:
        features: the clips.
        targets: [N, 150] of the first ``N`` clips, as `attention_targets` gives them.
        penalty: weight of the squared weights, on features scaled to unit variance and per token.
        retain: as `ridge_features` takes it.
    """
    # Sums of the products of all pairs of features, with the target as the last one.
    total: Tensor | float = 0.0
    for first in range(0, len(targets), _BATCH):
        here = slice(first, min(first + _BATCH, len(targets)))
        seen = ridge_features(features.video[here].float(), features.audio[here].float(), retain)
        rows = torch.cat([seen, targets[here, :, None].double(), torch.ones_like(seen[..., :1])], dim=-1).flatten(0, 1)
        total = total + rows.T @ rows
    moments = torch.as_tensor(total)
    # Means and covariances, then the normal equations on scaled features.
    mean = moments[-1, :-1] / moments[-1, -1]
    covariance = moments[:-1, :-1] / moments[-1, -1] - mean[:, None] * mean
    scale = covariance.diagonal()[:-1].clamp(min=1e-12).sqrt()
    matrix = covariance[:-1, :-1] / (scale[:, None] * scale) + penalty * torch.eye(len(scale), dtype=torch.float64)
    weight = torch.linalg.solve(matrix, covariance[:-1, -1] / scale) / scale
    return Ridge(mean[:-1], weight, retain is not None)
