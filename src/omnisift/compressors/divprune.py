"""DivPrune for video and audio, chunk by chunk: keep the most diverse tokens."""

from __future__ import annotations

from typing import ClassVar

from omnisift.budget import Counts
from omnisift.compressors.base import Compressor
from omnisift.ops.diversity import diverse
from omnisift.ops.groups import Scope, group
from omnisift.tokens import Selection, TokenStream


class DivPruneCompressor(Compressor):
    """Greedy max-min diversity with ``d_ij = 1 - cos`` (DivPrune, arXiv 2503.02175, section 3), in both modalities.

    Windows are `Scope.CHUNK`: the two frames of a chunk share their count, the audio of a chunk has its own.
    Deviations from the paper:

    - it prunes one image at once, and no audio. A clip of an omni-modal model has tens of thousands of tokens, too many
      for all pairs; SEATS (arXiv 2605.20035) lists the method for both modalities as DivPrune-om, and this is that row,
      windowed like SEATS' own first stage;
    - a token is never chosen twice, and of equal distances the lowest index is taken, so windows of equal tokens meet
      their count;
    - cosines are rounded to about 1e-6 (`omnisift.ops.similarity`).

    For video alone, pair it with a method for audio: ``divprune+uniform``.
    """

    name: ClassVar[str] = "divprune"
    idea: ClassVar[str] = "keeps the most diverse tokens of every chunk by max-min distance"
    source: ClassVar[str] = "arXiv 2503.02175"
    reach = 0

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select by max-min diversity in the video and in the audio of every chunk. See `Compressor.select`."""
        return Selection(keep=diverse(stream.embeds, group(stream, counts, Scope.CHUNK)))
