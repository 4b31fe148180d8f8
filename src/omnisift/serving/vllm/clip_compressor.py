"""The compressor of a server: its selector is read once, and it serves the budget of any request."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from omnisift.budget import Budget
from omnisift.compressors import DEFAULT, Compressor, make_compressor, needs_selector
from omnisift.errors import CompressorError
from omnisift.pipeline.loading import read_selector
from omnisift.serving.clip_layout import ClipLayout
from omnisift.serving.position_columns import attach_columns
from omnisift.serving.vllm.settings import Settings
from omnisift.utils.names import AUTO
from omnisift.vgas import VGAS

_PROBE_WIDTH = 8
"""Width of the random embeddings in `check_reachable`, whose outcome depends on shapes only."""


_EXACT = frozenset({AUTO, DEFAULT})
"""Methods that meet every budget and cost too much to be tried for each request."""


def _name(part: str) -> str:
    return part.partition(":")[0].strip()


def check_reachable(settings: Settings, layout: ClipLayout, budget: Budget) -> None:
    """Check that the method can keep as few tokens of a clip as the budget says.

    Some methods have a lower limit. A request must be refused before it reaches vLLM's engine, where an error ends all
    requests. Trained methods and `resift` have no lower limit, so `random` replaces them here.

    Raises:
        BudgetError: a number of tokens is above the server's limit.
        CompressorError: the budget is below the method's limit.
    """
    settings.check_share(budget, layout.tokens_in_chunks)
    parts = settings.compressor.split("+")
    untrained = ["random" if needs_selector(part) or _name(part) in _EXACT else part for part in parts]
    if budget.keeps_all or all(part.strip() == "random" for part in untrained):
        return
    embeds = torch.randn(len(layout), _PROBE_WIDTH, generator=torch.Generator().manual_seed(0))
    make_compressor("+".join(untrained), budget, seed=settings.seed).eval()(layout.stream(embeds))


class ClipCompressor:
    """Compresses single clips.

    It is not a module of the host, so that the host's loader neither fills nor misses the selector's weights.

    Args:
        settings: compressor and default budget.
        source: folder or hub id of the checkpoint, from which the selector is read if the method has one, and by which
            the default method is chosen.
        hidden_size: width of the model's embeddings.

    Raises:
        CompressorError: an unknown method, no selector weights, or a method that needs encoder attention.
        CheckpointError: the selector's weights don't fit.
    """

    def __init__(self, settings: Settings, source: str, hidden_size: int) -> None:
        self.settings = settings = settings.resolved(source)
        self._hidden_size = hidden_size
        self._selector: VGAS | None = None
        # Requests bring their own budgets, so the cache is bounded.
        self._compressor = lru_cache(maxsize=64)(self._make)
        if settings.keeps_all:
            return
        if needs_selector(settings.compressor):
            self._selector = read_selector(source, source, settings.selector, hidden_size)
        needs = sorted(self._compressor(settings.budget).needs)
        if needs:
            raise CompressorError(
                f"compressor {settings.compressor!r} needs {needs}, which vLLM's encoders don't give; choose another, "
                "for example omnisift or stvp"
            )

    @torch.inference_mode()
    def __call__(self, video: Tensor, audio: Tensor | None, layout: ClipLayout, budget: Budget) -> Tensor:
        """Compress one clip.

        Args:
            video: [V, D] from the vision encoder, or [V, E] with features for the language model's first layers behind
                the embedding. They are cut with the tokens; those of a merged token are of the one that stands for it.
            audio: [A, D] from the audio encoder; None for a clip without audio.
            layout: the clip's tokens in prompt order.
            budget: how many tokens stay.

        Returns:
            [K, E + COLUMNS] kept rows in prompt order, with their positions in additional columns. Audio has no
            features: zero adds nothing.

        Raises:
            CompressorError: the method kept another number of tokens than the prompt has placeholders.
        """
        if audio is None:
            tokens = video
        else:
            tokens = torch.cat([video, pad(audio.to(video.dtype), (0, video.shape[1] - audio.shape[1]))])
        if len(tokens) != len(layout):
            raise CompressorError(f"the encoders made {len(tokens)} tokens instead of {len(layout)}; report this")
        rows = tokens[layout.order.to(tokens.device)]
        if budget.keeps_all:
            return attach_columns(rows, layout.position_ids)
        embeds = rows[:, : self._hidden_size]
        compressor = self._compressor(budget).to(embeds.device, embeds.dtype)
        selection = compressor(layout.stream(embeds))
        # The prompt was laid out before, so the number of kept tokens must be the planned one.
        keep = selection.keep.cpu()
        planned = len(layout.kept_labels(budget))
        if int(keep.sum()) != planned:
            raise CompressorError(
                f"compressor {self.settings.compressor!r} kept {int(keep.sum())} tokens, but the prompt has "
                f"placeholders for {planned}; choose another"
            )
        kept = rows[selection.keep]
        if selection.embeds is not None:
            kept = torch.cat([selection.embeds.to(kept.dtype), kept[:, self._hidden_size :]], dim=1)
        return attach_columns(kept, layout.position_ids[:, keep])

    def _make(self, budget: Budget) -> Compressor:
        settings = self.settings
        return make_compressor(settings.compressor, budget, selector=self._selector, seed=settings.seed).eval()
