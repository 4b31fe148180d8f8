"""Counts of kept evidence for a batch of clips.

There are two measures: *token recall* is the fraction of evidence tokens kept; *event coverage* is the fraction of
events (a shape on screen, a sound) with at least one kept token. A method can keep half of the tokens and nearly all
events, or complete events and few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from omnisift.tokens import Modality
from omnisift.world import Question, Truth, count_kept

KINDS = ("shape", "sound")


@dataclass(frozen=True)
class Evidence:
    """Token sets of the events that prove the answers, for ``N`` clips of ``S`` tokens."""

    events: dict[str, list[NDArray[np.int64]]]
    """Kind -> for each event the indices of its tokens in the flattened batch of N * S tokens."""
    tied: NDArray[np.bool_]
    """[N, S] bool: tokens of sounds that belong to a shape."""
    distractor: NDArray[np.bool_]
    """[N, S] bool: tokens of distractors."""
    modality: NDArray[np.int8]
    """[S] int8, as in `TokenStream`."""

    @classmethod
    def of(cls, modality: Tensor, truths: Sequence[Truth] | None, questions: Sequence[Sequence[Question]]) -> Evidence:
        """Collect the evidence of a batch.

        Args:
            modality: [S] int8: the layout that all clips share.
            truths: Token labels by clip; None where tokens are not those of the drawn images: no evidence is known.
            questions: Questions by clip.
        """
        layout = modality.numpy()
        audio = np.flatnonzero(layout == Modality.AUDIO)
        columns = {"shape": np.flatnonzero(layout == Modality.VIDEO), "sound": audio}
        events: dict[str, list[NDArray[np.int64]]] = {kind: [] for kind in KINDS}
        owner = np.zeros((len(questions), len(layout)), np.int64)
        for row, (truth, clip_questions) in enumerate(zip(truths or (), questions, strict=truths is not None)):
            for event in (event for question in clip_questions for event in truth.evidence(question)):
                events[event.kind].append(row * len(layout) + columns[event.kind][event.tokens])
            labelled = truth.audio_owner[: len(audio)]
            owner[row, audio[: len(labelled)]] = labelled
        return cls(events, owner > 0, owner < 0, layout)

    def kept_counts(self, keep: Tensor) -> dict[str, list[int]]:
        """Return name -> [kept, all], summed over the batch, for a selection ``keep`` [N, S] bool."""
        kept = keep.numpy()
        counts = {
            "video": _share(kept[:, self.modality == Modality.VIDEO]),
            "audio": _share(kept[:, self.modality == Modality.AUDIO]),
            "tied_tokens": _share(kept[self.tied]),
            "distractor_tokens": _share(kept[self.distractor]),
        }
        for kind in KINDS:
            evidence = count_kept(self.events[kind], kept.ravel())
            counts[f"{kind}_tokens"] = [evidence.tokens, evidence.tokens_all]
            counts[f"{kind}_events"] = [evidence.events, evidence.events_all]
        return counts


def _share(kept: NDArray[np.bool_]) -> list[int]:
    return [int(kept.sum()), kept.size]
