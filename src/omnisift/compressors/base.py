"""The interface of all methods: a compressor maps a `TokenStream` to a `Selection` and never touches a model."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors.tracks import SubtitleTrack, Track, checked_tracks, with_tracks, without_autocast
from omnisift.errors import CompressorError
from omnisift.ops.groups import Scope, group
from omnisift.tokens import Selection, TokenStream

_OF_TRACKS = "tracks"
"""Where the memory of a clip in parts has what tracks remember."""


class Compressor(nn.Module, ABC):
    """Base class of all methods. Subclasses implement `select`; subclasses of `ScoredCompressor` only ``score``.

    The budget fixes how many tokens are kept; the method decides which ones.

    Args:
        budget: the fraction of tokens kept. A number is the overall ratio: ``0.25`` means ``Budget(retain=0.25)``.

    Raises:
        BudgetError: the number is outside (0, 1].
    """

    name: ClassVar[str]
    """The name for `make_compressor` and the command line."""
    idea: ClassVar[str] = ""
    """What the method keeps, in about twelve words, for tables."""
    source: ClassVar[str] = ""
    """The publication that the method follows."""
    trained: ClassVar[bool] = False
    """Whether the method has weights of its own."""
    clip_only: ClassVar[bool] = False
    """Whether the decision depends on the tokens of the clip alone, so that it holds for another question too. The
    library knows this of its own methods; another method says so, or decides for each question."""
    needs: frozenset[str] = frozenset()
    """Names of the entries of `TokenStream.extras` that the adapter must supply."""
    reason: str = ""
    """Why the method was chosen, for reports: ``default``, or ``default:`` and more; empty if it was named."""

    def __init__(self, budget: Budget | float) -> None:
        super().__init__()
        self.budget = Budget.of(budget)
        self.tracks = (SubtitleTrack(),)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """What chooses among the tokens of further modalities: by default a `SubtitleTrack`.

        Add one with ``compressor.tracks = (*compressor.tracks, MyTrack())``. Of a pair, the tracks of the pair count.

        Raises:
            CompressorError: two tracks are of one modality, or one is of a modality below 3.
        """
        return self._tracks

    @tracks.setter
    def tracks(self, tracks: Sequence[Track]) -> None:
        self._tracks = checked_tracks(tracks)

    def forward(self, stream: TokenStream) -> Selection:
        """Select the kept tokens of a batch.

        Args:
            stream: the tokens of all rows of the batch.

        Returns:
            The selection.

        Raises:
            CompressorError: the stream lacks an extra that the method needs, or a track for a further modality is
                missing.
        """
        self._check_extras(stream)
        counts = self.budget.counts(ChunkShapes.of(stream))
        with full_precision(self, stream):
            return with_tracks(self.name, self.tracks, stream, counts, self.select, {})

    @property
    def reach(self) -> int | None:
        """How much of a clip the decision on a chunk reads: so many frames before the chunk, besides the chunk itself.

        0 is the chunk alone. None is the complete clip: the clip can't be compressed in parts (`next_part`). That is
        the default, also for methods with `needs`, whose attention is supplied for complete clips only. A method
        overrides it with a number, ``reach = 0``, or with a property where options change it.
        """
        return None

    def next_part(self, stream: TokenStream, counts: Counts, memory: dict[str, Any]) -> Selection:
        """Select the kept tokens of the next part of one clip, for clips that are encoded part by part.

        The parts together give what `forward` gives on the complete clip.

        Args:
            stream: whole chunks of one clip, numbered from 0, with the positions and times that they have in the
                complete clip. First the context, which was decided on before: the last chunks before the part, with at
                least `reach` frames, or all chunks where the clip has no more. Then the part.
            counts: kept tokens of every chunk of the stream: all tokens of the context; of the part, the counts that
                the budget has for the complete clip.
            memory: empty at the start of a clip; afterwards what the method left in it at the part before.

        Returns:
            The selection; what it says about the context is to be ignored.

        Raises:
            CompressorError: the stream lacks an extra that the method needs, or a track for a further modality is
                missing.
        """
        self._check_extras(stream)
        # What tracks remember is in the same memory, but the method does not see it.
        of_tracks: dict[str, Any] = memory.pop(_OF_TRACKS, {})
        decide = partial(self.select_next, memory=memory)
        with full_precision(self, stream):
            selection = with_tracks(self.name, self.tracks, stream, counts, decide, of_tracks)
        if of_tracks:
            memory[_OF_TRACKS] = of_tracks
        return selection

    def select_next(self, stream: TokenStream, counts: Counts, memory: dict[str, Any]) -> Selection:  # noqa: ARG002
        """Select the kept tokens of the next part of one clip; `next_part` describes the arguments.

        By default that is `select`. A method that reads more of the past than its `reach` overrides it and keeps what
        it needs in ``memory``; as half of a pair it has no memory.
        """
        return self.select(stream, counts)

    def _check_extras(self, stream: TokenStream) -> None:
        """Raise `CompressorError` if the stream lacks an extra that the method needs."""
        missing = sorted(self.needs - stream.extras.keys())
        if missing:
            raise CompressorError(
                f"compressor '{self.name}' needs {missing}, which this model's adapter does not supply"
            )

    @abstractmethod
    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select the kept tokens: exactly ``counts`` in every chunk, and every token outside chunks.

        Methods with a wider scope keep the same total over their scope.

        Args:
            stream: the tokens of all rows of the batch.
            counts: kept tokens of every chunk.
        """

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select video tokens, as the first method of a pair.

        Args:
            stream: the tokens of all rows of the batch.
            counts: kept tokens of every chunk.

        Returns:
            A selection whose part for audio tokens is ignored.
        """
        return self.select(stream, counts)

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:  # noqa: ARG002
        """Select audio tokens, as the second method of a pair. The result for video tokens is ignored.

        Args:
            stream: the tokens of all rows of the batch.
            counts: kept tokens of every chunk.
            video: the selection of the first method, which guided methods read.
        """
        return self.select(stream, counts)

    @property
    def label(self) -> str:
        """The name for reports, with everything that departs from the published method: ``evs-frame``."""
        return self.name

    def check_choice(self, option: str, value: object, choices: Sequence[str | bool]) -> None:
        """Check an option of the constructor.

        Args:
            option: its name.
            value: what was given.
            choices: the accepted values.

        Raises:
            CompressorError: the value is none of them.
        """
        if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
            *first, last = [str(choice).lower() for choice in choices]
            raise CompressorError(f"{option} of {self.name!r} is {', '.join(first)} or {last}, got {value!r}")

    def check_number(
        self,
        option: str,
        value: float,
        low: float,
        high: float = math.inf,
        *,
        below: bool = False,
        integer: bool = False,
    ) -> None:
        """Check a numeric option of the constructor.

        Args:
            option: its name.
            value: what was given.
            low: the smallest accepted number.
            high: the largest accepted number.
            below: whether ``high`` itself is refused.
            integer: whether the number must be an integer.

        Raises:
            CompressorError: the value is no such number.
        """
        is_number = isinstance(value, int if integer else (int, float)) and not isinstance(value, bool)
        below = below or high == math.inf
        if not is_number or not low <= value <= high or (below and value == high):
            kind, end = "an integer" if integer else "a number", ")" if below else "]"
            raise CompressorError(f"{option} of {self.name!r} is {kind} in [{low:g}, {high:g}{end}, got {value!r}")

    def __repr__(self) -> str:
        """Show the class, the budget and the label, without the modules inside."""
        label = "" if self.label == self.name else f", label={self.label!r}"
        return f"{type(self).__name__}({self.budget}{label})"


def full_precision(method: Compressor, stream: TokenStream) -> AbstractContextManager[object]:
    """A block without autocast for a method without weights: it chooses the same tokens in training as elsewhere.

    Weights may be of another dtype than the tokens, so that methods that have some need autocast.
    """
    return without_autocast(stream) if next(method.parameters(), None) is None else nullcontext()


class ScoredCompressor(Compressor):
    """A method that is one function: a score for every token. Of equal scores the first token is kept."""

    scope: Scope = Scope.FRAME
    """Which tokens are ranked together."""

    @abstractmethod
    def score(self, stream: TokenStream) -> Tensor:
        """Score every token.

        Args:
            stream: the tokens of all rows of the batch.

        Returns:
            [L] float on the stream's device; the highest are kept. Values outside chunks are ignored.
        """

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Keep the highest scores of every group of the scope."""
        scores = self.score(stream)
        return Selection(keep=group(stream, counts, self.scope).highest(scores), scores=scores)
