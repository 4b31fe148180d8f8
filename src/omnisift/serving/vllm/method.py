"""The compressor of a server: made once, with the selector's weights, for whatever budgets requests bring."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors import Compressor, make_compressor, needs_selector
from omnisift.errors import CompressorError
from omnisift.pipeline.loading import read_selector
from omnisift.serving.clip_layout import ClipLayout
from omnisift.serving.position_columns import attach_columns
from omnisift.serving.vllm.settings import Settings
from omnisift.vgas import VGAS

WIDTH = 8
"""Of the embeddings of a rehearsal: what counts depends on shapes alone."""


def rehearse(settings: Settings, span: ClipLayout, budget: Budget) -> None:
    """Raise `CompressorError` if the method can't keep as few tokens of a clip as ``budget`` says.

    Some methods have a floor. A request must hear of it before it is in the engine, where an error ends all requests.
    What is trained has none, and is stood in for by chance.
    """
    halves = settings.compressor.split("+")
    stand_ins = "+".join("random" if needs_selector(half) else half for half in halves)
    if budget.keeps_all or all(half.strip() == "random" for half in stand_ins.split("+")):
        return
    noise = torch.randn(len(span), WIDTH, generator=torch.Generator().manual_seed(0))
    make_compressor(stand_ins, budget, seed=settings.seed).eval()(span.stream(noise))


class Method:
    """Compresses single clips. No module of the host, so its loader neither fills nor misses the selector's weights."""

    def __init__(self, settings: Settings, source: str, width: int) -> None:
        """Read the selector of ``source`` (folder or hub id) if the method has one.

        Raises:
            CompressorError: no such method, no selector weights, or the method looks into the encoders.
            CheckpointError: selector weights that don't fit.
        """
        self.settings = settings
        self._selector: VGAS | None = None
        # Requests name the budgets, so what is kept of them is bounded.
        self._make = lru_cache(maxsize=64)(self._compressor)
        if settings.compressor == "none":
            return
        if needs_selector(settings.compressor):
            self._selector = read_selector(source, source, settings.selector, width)
        needs = sorted(self._make(settings.default).needs)
        if needs:
            raise CompressorError(
                f"compressor {settings.compressor!r} needs {needs}, which vLLM's encoders don't give: choose another, "
                "as omnisift or stvp"
            )

    @torch.inference_mode()
    def __call__(self, video: Tensor, sound: Tensor | None, span: ClipLayout, budget: Budget) -> Tensor:
        """[K, D + COLUMNS]: what stays of one clip, in prompt order, with its places.

        ``video`` [V, D] and ``sound`` [A, D] come from the encoders. Raises `CompressorError` if the method keeps
        another number than the prompt has room for.
        """
        both = video if sound is None else torch.cat([video, sound.to(video.dtype)])
        if len(both) != len(span):
            raise CompressorError(f"the encoders made {len(both)} tokens where {len(span)} were planned: report this")
        embeds = both[span.order.to(both.device)]
        if budget.keeps_all:
            return attach_columns(embeds, span.position)
        selection = self._at(budget, embeds)(span.stream(embeds))
        kept = selection.keep.cpu()
        room = len(span.kept(budget))
        if int(kept.sum()) != room:
            raise CompressorError(
                f"compressor {self.settings.compressor!r} kept {int(kept.sum())} tokens where the prompt has room for "
                f"{room}: choose another"
            )
        chosen = embeds[selection.keep] if selection.embeds is None else selection.embeds.to(embeds.dtype)
        return attach_columns(chosen, span.position[:, kept])

    def _at(self, budget: Budget, like: Tensor) -> Compressor:
        return self._make(budget).to(like.device, like.dtype)

    def _compressor(self, budget: Budget) -> Compressor:
        settings = self.settings
        return make_compressor(settings.compressor, budget, selector=self._selector, seed=settings.seed).eval()
