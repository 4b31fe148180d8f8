"""Evidence of a whole batch under a selection: which share of the tokens that prove the answers survived.

Two measures, since they part: *token recall* is the share of evidence tokens that stayed; *event coverage* the share of
events (a shape on screen, a sound) of which at least one token stayed. A sound is kept or lost as a whole, so a method
can have half the tokens and nearly all events, or the other way round.
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
    """The events that prove the answers to a batch's questions, as token sets of the flat batch."""

    token: Tensor
    """[T] int64: places in the flat batch of N * S tokens, event by event."""
    event: Tensor
    """[T] int64: event of each."""
    kind: Tensor
    """[E] int64: 0 for a shape, 1 for a sound."""
    tied: Tensor
    """[N, S] bool: sound tokens of shapes."""
    distractor: Tensor
    """[N, S] bool: sound tokens of nothing."""
    modality: Tensor
    """[S] int8."""

    @classmethod
    def of(cls, modality: Tensor, truths: Sequence[Truth], asked: Sequence[Sequence[Question]]) -> Evidence:
        """``modality`` [S] of the clips' common layout; ``truths`` and ``asked`` by clip."""
        video = torch.nonzero(modality == Modality.VIDEO, as_tuple=True)[0].numpy()
        audio = torch.nonzero(modality == Modality.AUDIO, as_tuple=True)[0].numpy()
        places: list[np.ndarray] = []
        kinds: list[int] = []
        tied = np.zeros((len(truths), len(modality)), dtype=bool)
        distractor = np.zeros_like(tied)
        for row, (truth, questions) in enumerate(zip(truths, asked, strict=True)):
            for kind, tokens in _events(truth, questions, video, audio):
                places.append(row * len(modality) + tokens)
                kinds.append(kind)
            owner = truth.audio_owner[: len(audio)]
            tied[row, audio[: len(owner)][owner > 0]] = True
            distractor[row, audio[: len(owner)][owner < 0]] = True
        event = np.repeat(np.arange(len(places)), [len(tokens) for tokens in places])
        token = np.concatenate([*places, np.zeros(0, dtype=np.int64)])
        return cls(
            torch.from_numpy(token),
            torch.from_numpy(event),
            torch.tensor(kinds, dtype=torch.int64),
            torch.from_numpy(tied),
            torch.from_numpy(distractor),
            modality,
        )

    def kept_counts(self, keep: Tensor) -> dict[str, list[int]]:
        """``keep`` [N, S] bool -> name -> [kept, all], summed over the batch."""
        stays = keep.flatten()[self.token].long()
        size = torch.bincount(self.event, minlength=len(self.kind))
        kept = torch.zeros(len(self.kind), dtype=torch.int64).index_add_(0, self.event, stays)
        found = {
            "video": _share(keep[:, self.modality == Modality.VIDEO]),
            "audio": _share(keep[:, self.modality == Modality.AUDIO]),
            "tied_tokens": _share(keep[self.tied]),
            "distractor_tokens": _share(keep[self.distractor]),
        }
        for number, name in enumerate(KINDS):
            mine = self.kind == number
            found[f"{name}_tokens"] = [int(kept[mine].sum()), int(size[mine].sum())]
            found[f"{name}_events"] = [int((kept[mine] > 0).sum()), int(mine.sum())]
        return found


def _share(stays: Tensor) -> list[int]:
    return [int(stays.sum()), stays.numel()]


def _events(
    truth: Truth, questions: Sequence[Question], video: np.ndarray, audio: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """(kind, places in the clip's prompt) of every evidence event that has tokens."""
    found = [(0, video[truth.flat_video(i)]) for question in questions for i in question.shapes]
    for question in questions:
        sounds = [truth.sound_tokens[i] for i in question.sounds]
        if question.type == "heard" and sounds:
            sounds = [np.concatenate(sounds)]  # any one of them proves a yes: one event
        found += [(1, audio[tokens]) for tokens in sounds]
    return [(kind, tokens) for kind, tokens in found if len(tokens)]
