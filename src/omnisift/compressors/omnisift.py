"""OmniSIFT: visual anchors by STVP, then audio by VGAS, for all chunks at once (paper figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import AUDIO, steps_in_chunk
from omnisift.compressors.base import Compressor
from omnisift.compressors.chunk_batches import Block, Layout, PaddedGroups
from omnisift.compressors.pruning import prune_video
from omnisift.compressors.selection_builder import SelectionBuilder
from omnisift.errors import CompressorError
from omnisift.estimators import make_estimator
from omnisift.tokens import Selection, TokenStream

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

SMALL_BLOCK, CPU_BLOCK, LARGE_BLOCK = 16 << 20, 64 << 20, 256 << 20
"""Bytes of embeddings in a block: a quarter of the stream, between the first and the second (on a GPU the third; in
training always the third). On a CPU, blocks near the size of the last cache but with few Python steps are fastest."""


class OmniSiftCompressor(Compressor):
    """The paper's method. In training mode its ``estimator`` (`omnisift.estimators`) gives the scores a gradient.

    ``selector`` may be None for streams without sound. ``score_dtype`` is the dtype of the video similarities; None is
    the stream's own, as in the released code. The selector computes in the dtype of its weights.
    """

    name: ClassVar[str] = "omnisift"
    idea: ClassVar[str] = "keeps what stands out in the picture, then sound that fits it"
    source: ClassVar[str] = "arXiv 2602.04804"
    trained: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget | float,
        selector: VGAS | None = None,
        score_dtype: torch.dtype | None = None,
        estimator: str = "straight_through",
    ) -> None:
        super().__init__(budget)
        self.selector = selector
        self.score_dtype = score_dtype
        self.estimator = make_estimator(estimator)

    @property
    def label(self) -> str:
        """``omnisift``, and where the selector departs from the paper's, how: ``omnisift+time``."""
        return "+".join(part for part in (self.name, self.selector and self.selector.label) if part)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Anchors and audio scores block by block, then one mask."""
        layout = Layout(stream, counts, self._block_tokens(stream))
        steps = self._steps(stream)
        picture = None if self.selector is None else self.selector.picture
        tally = SelectionBuilder()
        for block in layout.blocks():
            anchors = prune_video(stream.embeds, layout, block, tally, self.score_dtype, picture)
            self._select_audio(stream.embeds, layout, block, anchors, steps, tally)
        return tally.selection(stream)

    def select_audio(self, stream: TokenStream, counts: Counts, picture: Selection) -> Selection:
        """Guided by the anchors that another method chose; by the whole picture of a chunk where it left none."""
        layout = Layout(stream, counts, self._block_tokens(stream))
        steps = self._steps(stream)
        tally = SelectionBuilder()
        for block in layout.blocks():
            anchors = layout.chosen(picture.keep, block)
            self._select_audio(stream.embeds, layout, block, anchors, steps, tally)
        return tally.selection(stream)

    def _select_audio(
        self,
        embeds: Tensor,
        layout: Layout,
        block: Block,
        anchors: PaddedGroups,
        steps: Tensor | None,
        tally: SelectionBuilder,
    ) -> None:
        """Score the audio of the block by its anchors and keep the highest; whole where the released code skips it."""
        audio = layout.rectangle(block, AUDIO)
        if block.size[AUDIO] <= 1 or anchors.index.shape[1] == 0:
            tally.kept.append(audio.flat(len(embeds)))
            return
        logits = self._logits(embeds, anchors, audio, steps)
        scored, guide, sound = None, anchors.valid, audio.valid
        if guide is not None and sound is not None:
            scored = guide.any(dim=1) & (sound.sum(dim=1) > 1)
        tally.audio.append((audio.flat(len(embeds), scored), torch.sigmoid(logits).flatten()))
        if self._learning:
            tally.choose(audio, self.estimator.choose(logits, layout.kept(block, AUDIO), audio.valid), scored, embeds)
            return
        # Ranked by logit: the same order as by score, without the ties of a saturated sigmoid.
        kept = audio.lowest(-logits.detach(), layout.kept(block, AUDIO), block.kept[AUDIO], block.even)
        tally.kept.append(kept.flat(len(embeds)))

    @property
    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _logits(self, embeds: Tensor, anchors: PaddedGroups, audio: PaddedGroups, steps: Tensor | None) -> Tensor:
        """[G, A] from the selector."""
        if self.selector is None:
            raise CompressorError(
                "this prompt has video with sound, and compressor 'omnisift' was made without selector weights: "
                "name a checkpoint that has them, or choose a training-free compressor, as stvp or random"
            )
        dtype = self.selector.dtype
        times = () if steps is None else (steps[anchors.index], steps[audio.index])
        pair = anchors.take(embeds).to(dtype), audio.take(embeds).to(dtype)
        logits: Tensor = self.selector(*pair, anchors.some, *times, audio_valid=audio.some)
        return logits.float()

    def _steps(self, stream: TokenStream) -> Tensor | None:
        """[L] int64 on the device, or None if the selector does not ask for times."""
        if self.selector is None or not self.selector.config.time_embedding:
            return None
        return steps_in_chunk(stream).to(stream.embeds.device)

    def _block_tokens(self, stream: TokenStream) -> int:
        """Tokens of a block. A gradient needs all activations at once anyway, so training takes large blocks."""
        row = stream.width * stream.embeds.element_size()
        largest = CPU_BLOCK if stream.embeds.device.type == "cpu" and not self._learning else LARGE_BLOCK
        share = largest if self._learning else min(largest, len(stream) * row // 4)
        return max(1, max(SMALL_BLOCK, share) // row)


def learner_of(compressor: Compressor) -> OmniSiftCompressor | None:
    """The part of ``compressor`` that has a selector and an estimator: itself, or half of a pair."""
    return next((part for part in compressor.modules() if isinstance(part, OmniSiftCompressor)), None)
