"""DivPrune on picture and sound, chunk by chunk: keep the most diverse tokens."""

from __future__ import annotations

from typing import ClassVar

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor
from omnisift.compressors.groups import Scope, group
from omnisift.compressors.maxmin import diverse
from omnisift.tokens import Selection, TokenStream


class DivPruneCompressor(Compressor):
    """Greedy max-min diversity with ``d_ij = 1 - cos`` (DivPrune, arXiv 2503.02175, section 3), in both modalities.

    Windows are `Scope.CHUNK`: the two frames of a chunk share their count, a chunk's sound has its own. Deviations
    from the paper:

    - it prunes the picture alone and looks at all of it at once. A clip of omni models has tens of thousands of
      tokens, for which all pairs are too many; SEATS (arXiv 2605.20035) lists it for both modalities as DivPrune-om,
      and this is that row, windowed as SEATS' own first stage is;
    - a token is never chosen twice, and ties take the lowest index, so windows of equal tokens meet their count;
    - cosines are rounded to about 1e-6 (`omnisift.compressors.cosine`).

    For the picture alone, pair it with a rule for the sound: ``divprune+uniform``.
    """

    name: ClassVar[str] = "divprune"
    idea: ClassVar[str] = "keeps tokens farthest from all kept so far, chunk by chunk"
    source: ClassVar[str] = "arXiv 2503.02175"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Max-min in every chunk's picture and every chunk's sound."""
        return Selection(keep=diverse(stream.embeds, group(stream, counts, Scope.CHUNK)))
