"""OmniSIFT: visual anchors by STVP, then audio tokens by VGAS, for all chunks at once (paper figure 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import AUDIO, FRAME0, steps_in_chunk
from omnisift.compressors.base import Compressor
from omnisift.errors import CompressorError, UsageError
from omnisift.estimators import make_estimator
from omnisift.ops.chunk_batches import ChunkBatch, ChunkBatches, PaddedGroups
from omnisift.ops.selection_builder import SelectionBuilder
from omnisift.stvp import prune_video
from omnisift.tokens import Selection, TokenStream

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

SMALL_BATCH, CPU_BATCH, LARGE_BATCH = 16 << 20, 64 << 20, 256 << 20
"""Bytes of embeddings in a batch of chunks: a quarter of the stream, between the first and the second (on a GPU the
third; in training always the third). On a CPU, batches of about the last-level cache with few Python steps are fastest.
"""


class OmniSiftCompressor(Compressor):
    """The paper's method. In training mode, its estimator gives the scores a gradient.

    Args:
        budget: the fraction of tokens kept; a number is the overall ratio.
        selector: the trained audio selector; may be None for streams without audio.
        score_dtype: dtype of the video similarities; None means the stream's own, as in the released code. The
            selector computes in the dtype of its weights.
        estimator: a name in `omnisift.estimators.ESTIMATORS`.
    """

    name: ClassVar[str] = "omnisift"
    idea: ClassVar[str] = "keeps salient video tokens, then the audio tokens that match them"
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
        if not isinstance(selector, nn.Module | None):
            raise UsageError(
                f"the selector of a compressor is a VGAS, got {type(selector).__name__}: load its folder with "
                "VGAS.from_pretrained, or give the folder to attach or load"
            )
        self.selector = selector
        self.score_dtype = score_dtype
        self.estimator = make_estimator(estimator)

    @property
    def reach(self) -> int | None:
        """0; the clip with a time embedding, which reads when the next chunk begins."""
        timed = self.selector is not None and self.selector.config.time_embedding
        return None if timed else 0

    @property
    def label(self) -> str:
        """``omnisift``, with what departs from the paper's selector: ``omnisift+time``."""
        return "+".join(part for part in (self.name, self.selector and self.selector.label) if part)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Prune video, then audio guided by the kept video. See `Compressor.select`."""
        batches = ChunkBatches(stream, counts, self._batch_tokens(stream))
        steps = self._steps(stream)
        video_score = None if self.selector is None else self.selector.video_score
        builder = SelectionBuilder()
        for batch in batches:
            anchors = prune_video(stream.embeds, batches, batch, builder, self.score_dtype, video_score)
            anchors = _guides(stream, batches, batch, anchors)
            self._select_audio(stream.embeds, batches, batch, anchors, steps, builder)
        return builder.build(stream)

    def select_video(self, stream: TokenStream, counts: Counts) -> Selection:
        """Prune video alone. See `Compressor.select_video`."""
        batches = ChunkBatches(stream, counts, self._batch_tokens(stream))
        video_score = None if self.selector is None else self.selector.video_score
        builder = SelectionBuilder()
        for batch in batches:
            prune_video(stream.embeds, batches, batch, builder, self.score_dtype, video_score)
        return builder.build(stream)

    def select_audio(self, stream: TokenStream, counts: Counts, video: Selection) -> Selection:
        """Select audio guided by the video tokens that another method kept; by all of a chunk's if it kept none."""
        batches = ChunkBatches(stream, counts, self._batch_tokens(stream))
        steps = self._steps(stream)
        builder = SelectionBuilder()
        for batch in batches:
            anchors = batches.kept_video(video.keep, batch)
            self._select_audio(stream.embeds, batches, batch, anchors, steps, builder)
        return builder.build(stream)

    def _select_audio(
        self,
        embeds: Tensor,
        batches: ChunkBatches,
        batch: ChunkBatch,
        anchors: PaddedGroups,
        steps: Tensor | None,
        builder: SelectionBuilder,
    ) -> None:
        """Score the audio of a batch of chunks by their anchors and keep the highest scores."""
        audio = batches.padded(batch, AUDIO)
        # The released code keeps the audio of a chunk in full if it is one token, or if there are no anchors, and so do
        # the counts of a ratio; those of a number of tokens may not.
        alone = not batch.size[FRAME0]
        in_full = not bool(batches.prunes_audio(batch).any())
        if in_full and (batch.size[AUDIO] <= 1 or (anchors.index.shape[1] == 0 and not alone)):
            builder.kept.append(audio.flat(len(embeds)))
            return
        if alone:
            self._check_guide()
        # eq 6-9.
        logits = self._logits(embeds, anchors, audio, steps)
        kept, scored = batches.kept(batch, AUDIO), None
        if anchors.valid is not None and audio.valid is not None:
            size = audio.valid.sum(dim=1)
            scored = ((anchors.valid.any(dim=1) | alone) & (size > 1)) | (kept < size)
        builder.audio_scores.append((audio.flat(len(embeds), scored), torch.sigmoid(logits).flatten()))
        # Training (section 3.3): the estimator chooses, with a gradient.
        if self._learning:
            builder.add_choice(audio, self.estimator.choose(logits, kept, audio.valid), scored, embeds)
            return
        # Inference: top-k by logit, the same order as by score without the ties of a saturated sigmoid.
        highest = audio.lowest(-logits.detach(), kept, batch.kept[AUDIO], batch.even)
        builder.kept.append(highest.flat(len(embeds)))

    def _check_guide(self) -> None:
        """Raise `CompressorError` unless the selector reads audio alone."""
        if self.selector is None or self.selector.config.guide not in ("self", "concat"):
            raise CompressorError(
                "compressor 'omnisift' chooses audio by the video it belongs to, and this prompt has audio without "
                "video: choose resift without a selector, or leave compress_audio out"
            )

    @property
    def _learning(self) -> bool:
        return self.training and torch.is_grad_enabled()

    def _logits(self, embeds: Tensor, anchors: PaddedGroups, audio: PaddedGroups, steps: Tensor | None) -> Tensor:
        """Logits of the selector, [G, A] float32."""
        if self.selector is None:
            raise CompressorError(
                "this prompt has video with audio, and compressor 'omnisift' was made without selector weights: "
                "name a checkpoint that has them, or choose a training-free compressor such as stvp or random"
            )
        if not self.selector.config.audio_score:
            raise CompressorError(
                "this prompt has video with audio, and the selector has a video score alone, for models without audio: "
                "give a selector that was distilled for this model"
            )
        dtype = self.selector.dtype
        times = () if steps is None else (steps[anchors.index], steps[audio.index])
        pair = anchors.take(embeds).to(dtype), audio.take(embeds).to(dtype)
        logits: Tensor = self.selector(*pair, anchors.valid_or_empty, *times, audio_valid=audio.valid_or_empty)
        return logits.float()

    def _steps(self, stream: TokenStream) -> Tensor | None:
        """Time steps in the chunk, [L] int64 on the device; None if the selector has no time embedding."""
        if self.selector is None or not self.selector.config.time_embedding:
            return None
        return steps_in_chunk(stream).to(stream.embeds.device, non_blocking=True)

    def _batch_tokens(self, stream: TokenStream) -> int:
        """Tokens of a batch of chunks. A gradient needs all activations at once, so training takes large batches."""
        bytes_per_token = stream.width * stream.embeds.element_size()
        largest = CPU_BATCH if stream.embeds.device.type == "cpu" and not self._learning else LARGE_BATCH
        share = largest if self._learning else min(largest, len(stream) * bytes_per_token // 4)
        return max(1, max(SMALL_BATCH, share) // bytes_per_token)


def _guides(stream: TokenStream, batches: ChunkBatches, batch: ChunkBatch, anchors: PaddedGroups) -> PaddedGroups:
    """The anchors of the chunks of a batch; all video of a chunk that keeps none, if some chunk needs it for audio."""
    if not batch.size[FRAME0] or not bool(batches.prunes_unguided(batch).any()):
        return anchors
    keep = torch.zeros(len(stream) + 1, dtype=torch.bool, device=stream.embeds.device)
    return batches.kept_video(keep.index_fill_(0, anchors.flat(len(stream)), True), batch)


def trainable_part(compressor: Compressor) -> OmniSiftCompressor | None:
    """Return the part of ``compressor`` with a selector and an estimator (itself, or half of a pair), or None."""
    return next((part for part in compressor.modules() if isinstance(part, OmniSiftCompressor)), None)
