"""Lines of text in packed prompts: the tokens of a clip's subtitles, at their places among those of video and audio.

The places and rotary positions are those of `omnisift`'s own prompts (a test compares them). Every line of the
generated world is one token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS, index_chunks
from omnisift.errors import UsageError
from omnisift.lab.training.packed import PromptLayout
from omnisift.media.lines import Line
from omnisift.models.line_placement import successive
from omnisift.tokens import Modality

NOWHERE = 1 << 40
"""Place of padding: behind every token."""


@dataclass(frozen=True)
class LinePlaces:
    """Where a line goes in the prompts of one layout.

    Args:
        start: [C] int64: microseconds at which each chunk begins.
        last: [C] int64: place in the prompt of each chunk's last video or audio token.
        time: [M] int64, ascending: microseconds at which video and audio tokens begin.
        temporal: [M] int64, ascending: their temporal rotary ids.
        begin: place of the first token behind the clip.
        end: its temporal rotary id.
    """

    start: Tensor
    last: Tensor
    time: Tensor
    temporal: Tensor
    begin: int
    end: int

    @classmethod
    def of(cls, modality: Tensor, temporal: Tensor, seconds_per_id: float) -> LinePlaces:
        """The places of a prompt with one clip.

        Args:
            modality: [P] int8, as in `omnisift.tokens.TokenStream`.
            temporal: [P] int64: temporal rotary ids.
            seconds_per_id: seconds between two of them.
        """
        media = torch.nonzero((modality == Modality.VIDEO) | (modality == Modality.AUDIO)).flatten()
        begin = int(media.max()) + 1
        end, temporal = int(temporal[begin]), temporal[media]
        time = ((temporal - temporal.min()).double() * seconds_per_id * MICROSECONDS).round().long()
        chunk, _ = index_chunks(modality[media], time, torch.zeros_like(time))
        chunks = int(chunk.max()) + 1
        start = torch.stack([time[chunk == number].min() for number in range(chunks)])
        last = torch.stack([media[chunk == number].max() for number in range(chunks)])
        order = time.argsort(stable=True)
        return cls(start, last, time[order], temporal[order], begin, end)

    def place(self, lines: Sequence[Line]) -> tuple[Tensor, Tensor, int]:
        """Place the lines of a clip.

        Args:
            lines: in order of their start.

        Returns:
            [n] int64, place of the token behind which each line stands; [n] int64, its rotary id in all three rows; and
            by how much the tokens behind the clip are at higher ids than without lines.
        """
        since = torch.tensor([round(line.start * MICROSECONDS) for line in lines], dtype=torch.int64)
        # Behind the last token of the chunk in whose time it begins; the last chunk has all later ones.
        chunk = torch.searchsorted(self.start, since, right=True) - 1
        # At the time of the latest token that begins no later, or behind the line before.
        latest = torch.searchsorted(self.time, since, right=True) - 1
        placed = successive(self.temporal[latest.clamp(min=0)])
        shift = max(0, int(placed[-1]) + 1 - self.end) if len(lines) else 0
        return self.last[chunk.clamp(min=0)], placed, shift


def modality_of(layout: PromptLayout) -> Tensor:
    """[P] int8: the modality of each token of a prompt."""
    modality = torch.zeros(len(layout.ids), dtype=torch.int8)
    modality[layout.video], modality[layout.audio] = int(Modality.VIDEO), int(Modality.AUDIO)
    return modality


def line_batch(rows: Sequence[Sequence[Line]], places: LinePlaces, tokenizer: Any) -> dict[str, Tensor]:
    """Tensors of the lines of ``B`` clips, padded to ``n`` lines, for `omnisift.lab.training.forward.forward_packed`.

    Args:
        rows: lines of each clip, in order of their start.
        places: of their layout.
        tokenizer: the model's.

    Returns:
        ``line_ids`` [B, n] int64; ``line_after`` [B, n] int64, place in the full prompt of the token before, `NOWHERE`
        for padding; ``line_position`` [B, n] int64, the rotary id of all three rows; ``line_shift`` [B] int64, by how
        much what is behind the clip moves; ``line_begin`` int64, the place where that begins.

    Raises:
        UsageError: a line is not one token.
    """
    count = max(map(len, rows), default=0)
    ids, position = (torch.zeros(len(rows), count, dtype=torch.int64) for _ in range(2))
    after, shift = torch.full_like(ids, NOWHERE), torch.zeros(len(rows), dtype=torch.int64)
    for row, lines in enumerate(rows):
        own = slice(len(lines))
        ids[row, own] = torch.tensor([line_token(line, tokenizer) for line in lines], dtype=torch.int64)
        after[row, own], position[row, own], shift[row] = places.place(lines)
    begin = torch.tensor(places.begin)
    return {"line_ids": ids, "line_after": after, "line_position": position, "line_shift": shift, "line_begin": begin}


def line_token(line: Line, tokenizer: Any) -> int:
    """The token of a line.

    Raises:
        UsageError: it is not one token.
    """
    tokens: list[int] = tokenizer(line.text, add_special_tokens=False).input_ids
    if len(tokens) != 1:
        raise UsageError(f"a line is one word of the vocabulary here; {line.text!r} has {len(tokens)} tokens")
    return tokens[0]


def inserted(
    clip: Tensor, position: Tensor, kept: Tensor, batch: dict[str, Tensor], lines: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Insert lines into a prefix.

    Args:
        clip: [B, P, D]: embeddings of the kept tokens.
        position: [3, B, P] int64: their rotary ids.
        kept: [B, P] int64, ascending: their places in the full prompt.
        batch: with the tensors of `line_batch`.
        lines: [B, n, D]: embeddings of the lines.

    Returns:
        Embeddings [B, P + n, D], rotary ids [3, B, P + n], real [B, P + n] bool (False on padding, which is last), and
        where [B, P] int64, the new places of the tokens that were there.
    """
    # A line's key is between those of the token before and the next one; of two lines the first stays first.
    behind = kept >= batch["line_begin"]
    position = position + torch.where(behind, batch["line_shift"][:, None], 0)
    order = torch.cat([2 * kept, 2 * batch["line_after"] + 1], dim=1).argsort(dim=1, stable=True)
    where = order.argsort(dim=1)[:, : kept.shape[1]]
    embeds = torch.cat([clip, lines], dim=1).gather(1, order[..., None].expand(-1, -1, clip.shape[-1]))
    rotary = torch.cat([position, batch["line_position"].expand(3, -1, -1)], dim=2)
    real = torch.cat([torch.ones_like(kept, dtype=torch.bool), batch["line_after"] < NOWHERE], dim=1).gather(1, order)
    return embeds, rotary.gather(2, order.expand(3, -1, -1)), real, where
