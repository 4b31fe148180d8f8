"""Lines of text in a trace: which tokens are which line, and what each token says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.inspector.trace import ClipTokens, TraceLine
from omnisift.media import Media
from omnisift.pipeline.line_tokens import LineTokens
from omnisift.tokens import Modality

_INCOMPLETE = "\ufffd"
"""What a tokenizer decodes the first bytes of a character to."""


def trace_lines(processor: Any, media: Media, tokens: ClipTokens) -> tuple[TraceLine, ...]:
    """The lines of a clip with their tokens.

    Args:
        processor: of the model.
        media: the clip.
        tokens: those of the trace; without tokens of lines, the lines have none.
    """
    index = tokens.indices(int(Modality.SUBTITLE))
    lines: list[TraceLine] = []
    begin = 0
    for line in media.lines:
        # Lines are tokenised one by one, so each has the tokens that it has among all.
        found = LineTokens.of(processor, [line], media.path)
        if found is None:
            continue
        pieces = token_pieces(processor.tokenizer, found.ids[0].tolist())
        lines.append(TraceLine(line.start, line.end, pieces, index[begin : begin + len(pieces)]))
        begin += len(pieces)
    return tuple(lines)


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text of those before it.

    Args:
        tokenizer: of the model.
        ids: tokens of one line.

    Returns:
        One piece per token. A character of several tokens is in the piece of its last one. Joined, they are the text.
    """
    pieces: list[str] = []
    done = 0
    for count in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:count], clean_up_tokenization_spaces=False)
        known = text if count == len(ids) else text.rstrip(_INCOMPLETE)
        pieces.append(known[done:])
        done = max(done, len(known))
    return tuple(pieces)


def readable(piece: str) -> str:
    """A piece for display: the end of a line becomes visible."""
    return piece.replace("\n", "\u21b5")


def runs(line: TraceLine, kept: NDArray[np.bool_] | None) -> list[tuple[bool, str]]:
    """Divide a line into runs of kept and of dropped tokens.

    Args:
        line: the line.
        kept: [N] bool of the trace's tokens; None where every token was read.

    Returns:
        Whether a run was kept, and its text; empty pieces are left out.
    """
    flags = np.ones(len(line.pieces), bool) if kept is None or not len(line.tokens) else kept[line.tokens]
    found: list[tuple[bool, str]] = []
    for flag, piece in zip(flags.tolist(), line.pieces, strict=True):
        if found and found[-1][0] == flag:
            found[-1] = flag, found[-1][1] + piece
        elif piece:
            found.append((flag, piece))
    return [(flag, readable(text)) for flag, text in found]
