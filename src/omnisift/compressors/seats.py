"""Stage I of SEATS: diversity among the tokens that the encoders attend to."""

from __future__ import annotations

from typing import ClassVar

from omnisift.budget import Counts
from omnisift.compressors.attended import NEEDS, encoder_attention
from omnisift.compressors.base import Compressor
from omnisift.ops.diversity import diverse
from omnisift.ops.groups import Scope, group
from omnisift.tokens import Selection, TokenStream


class SeatsCompressor(Compressor):
    """Stage I of SEATS ("winDivPrune", arXiv 2605.20035): max-min diversity on ``d'_ij = (1 - cos_ij) s_j``.

    s_j is the attention that token j receives in the last layer of its encoder, within its frame or its chunk's audio.
    Windows are `Scope.CHUNK`: the two frames of a chunk share their count, the audio of a chunk has its own. Deviations
    from the paper:

    - only stage I. Stages II (budgets by the question's attention, layers 16 to 20) and III (no media from layer 24
      on) are in the decoder and depend on the question; a compressor reads embeddings. The published ratio is a mean
      over layers: its 25 % enters the decoder at about 35 %. Here a ratio is what enters, as for all other methods, so
      a row of this method compares with "SEATS-I" at scale 1, not with the paper's rows;
    - s is the attention as received. A common factor does not change an argmax inside a window, so mean-normalised
      attention would choose the same; min-max scaling would not (it moves the zero) and is not used;
    - of equal distances the lowest index is taken; cosines are rounded to about 1e-6 (`omnisift.ops.similarity`).
    """

    name: ClassVar[str] = "seats"
    idea: ClassVar[str] = "keeps diverse tokens among those that the encoders attend to"
    source: ClassVar[str] = "arXiv 2605.20035"
    needs: frozenset[str] = NEEDS

    @property
    def label(self) -> str:
        """``seats-I``, since the published method has three stages."""
        return f"{self.name}-I"

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select by weighted max-min diversity in every chunk's video and audio. See `Compressor.select`."""
        groups = group(stream, counts, Scope.CHUNK)
        return Selection(keep=diverse(stream.embeds, groups, encoder_attention(stream)))
