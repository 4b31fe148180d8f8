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
    """

    start: Tensor
    last: Tensor
    time: Tensor
    temporal: Tensor

    @classmethod
    def of(cls, modality: Tensor, temporal: Tensor, seconds_per_id: float) -> LinePlaces:
        """The places of a prompt with one clip.

        Args:
            modality: [P] int8, as in `omnisift.tokens.TokenStream`.
            temporal: [P] int64: temporal rotary ids.
            seconds_per_id: seconds between two of them.
        """
        media = torch.nonzero((modality == Modality.VIDEO) | (modality == Modality.AUDIO)).flatten()
        temporal = temporal[media]
        time = ((temporal - temporal.min()).double() * seconds_per_id * MICROSECONDS).round().long()
        chunk, _ = index_chunks(modality[media], time, torch.zeros_like(time))
        chunks = int(chunk.max()) + 1
        start = torch.stack([time[chunk == number].min() for number in range(chunks)])
        last = torch.stack([media[chunk == number].max() for number in range(chunks)])
        order = time.argsort(stable=True)
        return cls(start, last, time[order], temporal[order])

    def place(self, start: float) -> tuple[int, int]:
        """(place of the token behind which a line stands, its temporal id) for a line that begins at ``start`` s."""
        since = torch.tensor([round(start * MICROSECONDS)])
        # Rule 1 and 2: behind the last token of the chunk in whose time it begins; the last chunk has all later ones.
        chunk = int(torch.searchsorted(self.start, since, right=True)) - 1
        # Rule 3: at the time of the latest token that begins no later.
        latest = int(torch.searchsorted(self.time, since, right=True)) - 1
        return int(self.last[max(chunk, 0)]), int(self.temporal[max(latest, 0)])


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
        for padding; ``line_position`` [B, n] int64, the rotary id of all three rows.

    Raises:
        UsageError: a line is not one token.
    """
    count = max(map(len, rows), default=0)
    ids, position = (torch.zeros(len(rows), count, dtype=torch.int64) for _ in range(2))
    after = torch.full_like(ids, NOWHERE)
    for row, lines in enumerate(rows):
        for number, line in enumerate(lines):
            ids[row, number] = line_token(line, tokenizer)
            after[row, number], position[row, number] = places.place(line.start)
    return {"line_ids": ids, "line_after": after, "line_position": position}


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
    order = torch.cat([2 * kept, 2 * batch["line_after"] + 1], dim=1).argsort(dim=1, stable=True)
    where = order.argsort(dim=1)[:, : kept.shape[1]]
    embeds = torch.cat([clip, lines], dim=1).gather(1, order[..., None].expand(-1, -1, clip.shape[-1]))
    rotary = torch.cat([position, batch["line_position"].expand(3, -1, -1)], dim=2)
    real = torch.cat([torch.ones_like(kept, dtype=torch.bool), batch["line_after"] < NOWHERE], dim=1).gather(1, order)
    return embeds, rotary.gather(2, order.expand(3, -1, -1)), real, where
