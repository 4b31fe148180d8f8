"""What a compressor is: it looks at a `TokenStream` and says what stays. It never touches a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.groups import Scope, group
from omnisift.errors import CompressorError
from omnisift.tokens import Selection, TokenStream


class Compressor(nn.Module, ABC):
    """Base of all methods. Subclasses write `select`, or with `ScoredCompressor` only ``score``.

    The number of kept tokens is the budget's alone; the method decides which ones.
    """

    name: ClassVar[str]
    """How the command line calls it."""
    idea: ClassVar[str] = ""
    """What it does, in about twelve words, for tables."""
    source: ClassVar[str] = ""
    """The publication that it follows."""
    trained: ClassVar[bool] = False
    """Whether it has weights of its own."""
    needs: frozenset[str] = frozenset()
    """Names of the extras that the adapter must supply."""

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
        """Keep exactly ``counts`` tokens of every chunk (or their total, where a method's scope is wider) and all
        tokens outside chunks."""

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """A selection whose picture counts; what it says of the sound is ignored."""
        return self.select(stream, counts)

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:  # noqa: ARG002
        """A selection whose sound counts, for a picture that was chosen before; only guided methods look at it."""
        return self.select(stream, counts)

    @property
    def label(self) -> str:
        """What a report or a row of a table calls it: the name, and whatever departs from the published method."""
        return self.name

    def extra_repr(self) -> str:
        """Show the budget in ``repr``."""
        return f"{self.budget}"


class ScoredCompressor(Compressor):
    """A method that is one function: a score for every token. Ties keep the lowest index."""

    scope: Scope = Scope.FRAME
    """Which tokens are ranked together."""

    @abstractmethod
    def score(self, stream: TokenStream) -> Tensor:
        """[L] float on the stream's device, higher stays. Values outside chunks are ignored."""

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Rank the scores inside every group of the scope."""
        scores = self.score(stream)
        return Selection(keep=group(stream, counts, self.scope).highest(scores), scores=scores)
