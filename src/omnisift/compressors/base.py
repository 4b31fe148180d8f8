"""What a compressor is: it looks at a `TokenStream` and says what stays. It never touches a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.errors import CompressorError
from omnisift.straight_through import segment_topk
from omnisift.tokens import Selection, TokenStream


class Compressor(nn.Module, ABC):
    """Base of all methods. Subclasses write `select`, or with `ScoredCompressor` only ``score``.

    The number of kept tokens is the budget's alone; the method decides which ones.
    """

    name: ClassVar[str]
    """How the command line calls it."""
    needs: ClassVar[frozenset[str]] = frozenset()
    """Names of the extras that the adapter must supply."""
    trained: ClassVar[bool] = False
    """Whether it has weights of its own."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget

    def forward(self, stream: TokenStream) -> Selection:
        """Decide once for the whole batch. Raises `CompressorError` if the stream lacks what the method needs."""
        missing = sorted(self.needs - stream.extras.keys())
        if missing:
            raise CompressorError(
                f"compressor '{self.name}' needs {missing}, which this model's adapter does not supply"
            )
        return self.select(stream, self.budget.counts(ChunkShapes.of(stream)))

    @abstractmethod
    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Keep exactly ``counts`` tokens of every chunk and all tokens outside chunks."""

    @property
    def label(self) -> str:
        """What a report or a row of a table calls it: the name, and whatever departs from the published method."""
        return self.name

    def extra_repr(self) -> str:
        """Show the budget in ``repr``."""
        return f"{self.budget}"


class ScoredCompressor(Compressor):
    """A method that is one function: a score for every token. Frames and audio are ranked apart, ties keep the lowest
    index."""

    @abstractmethod
    def score(self, stream: TokenStream) -> Tensor:
        """[L] float on the stream's device, higher stays. Values outside chunks are ignored."""

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Rank the scores inside every frame and every chunk's audio."""
        scores = self.score(stream)
        return Selection(keep=keep_highest(stream, scores, counts), scores=scores)


def keep_highest(stream: TokenStream, scores: Tensor, counts: Counts) -> Tensor:
    """[L] bool on the scores' device: the best ``counts`` of every segment, and everything outside chunks."""
    device = scores.device
    segment = segment_of(stream)
    # Tokens outside chunks form one last segment that is kept whole.
    last = counts.by_segment().new_tensor([len(stream)])
    per_segment = torch.cat([counts.by_segment(), last])
    segment = torch.where(segment < 0, len(per_segment) - 1, segment)
    return segment_topk(scores, segment.to(device), per_segment.to(device))
