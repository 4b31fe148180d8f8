"""Counts of kept evidence for a batch of clips.

There are two measures: *token recall* is the fraction of evidence tokens kept; *event coverage* is the fraction of
events (a shape on screen, a sound) with at least one kept token. A method can keep half of the tokens and nearly all
events, or complete events and few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from omnisift.tokens import Modality
from omnisift.world import Question, Truth

KINDS = ("shape", "sound")


@dataclass(frozen=True)
class Evidence:
    """Token sets of the events that prove the answers, for ``N`` clips of ``S`` tokens."""

    token: Tensor
    """[T] int64: indices in the flattened batch of N * S tokens, event by event."""
    event: Tensor
    """[T] int64: event of each entry of ``token``."""
    kind: Tensor
    """[E] int64: 0 for a shape, 1 for a sound."""
    tied: Tensor
    """[N, S] bool: tokens of sounds that belong to a shape."""
    distractor: Tensor
    """[N, S] bool: tokens of distractors."""
    modality: Tensor
    """[S] int8, as in `TokenStream`."""

    @classmethod
    def of(cls, modality: Tensor, truths: Sequence[Truth], questions: Sequence[Sequence[Question]]) -> Evidence:
        """Collect the evidence of a batch.

        Args:
            modality: [S] int8: the layout that all clips share.
            truths: Token labels by clip.
            questions: Questions by clip.
        """
        video = torch.nonzero(modality == Modality.VIDEO, as_tuple=True)[0].numpy()
        audio = torch.nonzero(modality == Modality.AUDIO, as_tuple=True)[0].numpy()
        tokens_of: list[np.ndarray] = []
        kinds: list[int] = []
        tied = np.zeros((len(truths), len(modality)), dtype=bool)
        distractor = np.zeros_like(tied)
        for row, (truth, clip_questions) in enumerate(zip(truths, questions, strict=True)):
            for kind, tokens in _events(truth, clip_questions, video, audio):
                tokens_of.append(row * len(modality) + tokens)
                kinds.append(kind)
            owner = truth.audio_owner[: len(audio)]
            tied[row, audio[: len(owner)][owner > 0]] = True
            distractor[row, audio[: len(owner)][owner < 0]] = True
        event = np.repeat(np.arange(len(tokens_of)), [len(tokens) for tokens in tokens_of])
        token = np.concatenate([*tokens_of, np.zeros(0, dtype=np.int64)])
        return cls(
            torch.from_numpy(token),
            torch.from_numpy(event),
            torch.tensor(kinds, dtype=torch.int64),
            torch.from_numpy(tied),
            torch.from_numpy(distractor),
            modality,
        )

    def kept_counts(self, keep: Tensor) -> dict[str, list[int]]:
        """Return name -> [kept, all], summed over the batch, for a selection ``keep`` [N, S] bool."""
        # Kept tokens of every event.
        kept_token = keep.flatten()[self.token].long()
        size = torch.bincount(self.event, minlength=len(self.kind))
        kept = torch.zeros(len(self.kind), dtype=torch.int64).index_add_(0, self.event, kept_token)
        counts = {
            "video": _share(keep[:, self.modality == Modality.VIDEO]),
            "audio": _share(keep[:, self.modality == Modality.AUDIO]),
            "tied_tokens": _share(keep[self.tied]),
            "distractor_tokens": _share(keep[self.distractor]),
        }
        for number, name in enumerate(KINDS):
            match = self.kind == number
            counts[f"{name}_tokens"] = [int(kept[match].sum()), int(size[match].sum())]
            counts[f"{name}_events"] = [int((kept[match] > 0).sum()), int(match.sum())]
        return counts


def _share(kept: Tensor) -> list[int]:
    return [int(kept.sum()), kept.numel()]


def _events(
    truth: Truth, questions: Sequence[Question], video: np.ndarray, audio: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Return (kind, indices in the clip's prompt) of every evidence event that has tokens."""
    events = [(0, video[truth.flat_video(i)]) for question in questions for i in question.shapes]
    for question in questions:
        sounds = [truth.sound_tokens[i] for i in question.sounds]
        if question.type == "heard" and sounds:
            sounds = [np.concatenate(sounds)]  # any of them proves a yes, so they are one event
        events += [(1, audio[tokens]) for tokens in sounds]
    return [(kind, tokens) for kind, tokens in events if len(tokens)]
