"""One call of ``generate`` with prompts that its clips hold, or that they hold after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.compressors import Compressor
from omnisift.models import adapter_for
from omnisift.models.attachment import Attachment
from omnisift.models.prefix_cache import PrefixHooks
from omnisift.pipeline.encoded_clip import PromptRow
from omnisift.pipeline.held_prompt import HeldPrompt
from omnisift.pipeline.loading import Host
from omnisift.tokens import Selection, TokenStream


class Holding:
    """What one ``generate`` call takes from the held prompts of its clips, or adds to them.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
        rows: the prompts of the call.
    """

    def __init__(self, host: Host, compressor: Compressor | None, rows: Sequence[PromptRow]) -> None:
        self._host, self._rows = host, rows
        found = [None if row.clip is None else row.clip.held.find(row.key) for row in rows]
        held = [prompt for prompt in found if prompt is not None]
        if len(held) < len(rows) or (len(rows) > 1 and not all(prompt.cache.can_join for prompt in held)):
            held = []
        self.compressor = compressor
        """What to attach: a method that repeats what was decided, if all prompts are held."""
        self.cached = [prompt.cache.length for prompt in held] or [0] * len(rows)
        """Tokens of each prompt that the language model need not read."""
        self._held = held
        if held and compressor is not None:
            self.compressor = _Repeat(compressor, held, [self._length(row) for row in rows])

    @contextmanager
    def hooks(self, attachment: Attachment | None) -> Iterator[None]:
        """Give held prompts to the language model in the block, or take those of the call; enter it after `attach`."""
        if not self._held and all(row.key is None for row in self._rows):
            yield
            return
        suffixes = [self._length(row) - row.shared for row in self._rows]
        given = [prompt.cache for prompt in self._held] or None
        language_model = adapter_for(self._host.thinker).parts.language_model
        with PrefixHooks(language_model, lambda: self._kept(attachment), suffixes, given) as hooks:
            yield
        for index, (row, cache) in enumerate(zip(self._rows, hooks.taken, strict=False)):
            if row.clip is not None and row.key is not None:
                row.clip.held.add(row.key, HeldPrompt(cache, *self._decision(attachment, index)))

    @staticmethod
    def _length(row: PromptRow) -> int:
        return int(row.inputs["input_ids"].shape[1])

    def _kept(self, attachment: Attachment | None) -> list[int]:
        """Tokens of each row's beginning, after compression."""
        kept = [self._decision(attachment, index)[0] for index in range(len(self._rows))]
        return [row.shared if keep is None else int(keep.sum()) for row, keep in zip(self._rows, kept, strict=True)]

    def _decision(self, attachment: Attachment | None, index: int) -> tuple[Tensor | None, Tensor | None]:
        """``keep`` and ``scores`` of a row's beginning; None without any."""
        compression = None if attachment is None else attachment.last
        if compression is None:
            return None, None
        row = self._rows[index]
        begin = compression.keep.shape[1] - self._length(row)  # of padding on the left
        columns = slice(begin, begin + row.shared)
        scores = None if compression.scores is None else compression.scores[index, columns].clone()
        return compression.keep[index, columns].clone(), scores


class EveryToken(Compressor):
    """Keeps every token. It is attached where nothing is compressed, but lines of text move to their times."""

    name: ClassVar[str] = "every"

    def __init__(self) -> None:
        super().__init__(1.0)
        self.eval()

    def forward(self, stream: TokenStream) -> Selection:
        """Keep all."""
        return Selection(torch.ones(len(stream), dtype=torch.bool, device=stream.embeds.device))

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002  no count is below all
        """As `forward`."""
        return self.forward(stream)


class _Repeat(Compressor):
    """Keeps what was kept of held prompts. What a method merged is not needed, for its keys and values are held."""

    name: ClassVar[str] = "held"

    def __init__(self, compressor: Compressor, held: Sequence[HeldPrompt], lengths: Sequence[int]) -> None:
        super().__init__(compressor.budget)
        self._held, self._lengths = held, lengths
        self.eval()

    def forward(self, stream: TokenStream) -> Selection:
        """Keep the same tokens of each row, of subtitles too, and all others. Tracks have no say."""
        width = len(stream) // len(self._held)
        shape = len(self._held), width
        keep, scores = torch.ones(shape, dtype=torch.bool), torch.full(shape, torch.nan)
        has_scores = False
        for row, (prompt, length) in enumerate(zip(self._held, self._lengths, strict=True)):
            for target, source in ((keep, prompt.keep), (scores, prompt.scores)):
                if source is not None:
                    target[row, width - length : width - length + len(source)] = source
            has_scores |= prompt.scores is not None
        device = stream.embeds.device
        return Selection(keep.flatten().to(device), scores.flatten().to(device) if has_scores else None)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002  the counts were met before
        """As `forward`."""
        return self.forward(stream)
