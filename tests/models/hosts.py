"""Helpers of the tests of `omnisift.models`: small compressors, and a cut made by hand to compare with."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from tests.helpers.models import WIDTH, language_model
from torch import Tensor, nn

from omnisift.budget import Budget
from omnisift.compressors import RandomCompressor, ScoredCompressor, make_compressor
from omnisift.compressors.base import Compressor
from omnisift.tokens import Selection, TokenStream
from omnisift.vgas import VGAS, VGASConfig

HALF = Budget(retain_video=0.5, retain_audio=0.5)
ALL = Budget(retain_video=1.0, retain_audio=1.0)


def half() -> Compressor:
    return RandomCompressor(HALF, seed=3)


def omnisift_half(budget: Budget = HALF, seed: int = 0) -> Compressor:
    """The real method with a random selector."""
    torch.manual_seed(seed)
    selector = VGAS(VGASConfig(input_size=WIDTH, hidden_size=16, num_attention_heads=2))
    return make_compressor("omnisift", budget, selector=selector).eval()


def keep_all() -> Compressor:
    return RandomCompressor(ALL)


class Norms(ScoredCompressor):
    """Keeps the embeddings with the largest norm."""

    name: ClassVar[str] = "norms"

    def score(self, stream: TokenStream) -> Tensor:
        return stream.embeds.float().norm(dim=1)


class Learned(ScoredCompressor):
    """One linear score with a straight-through gate."""

    name: ClassVar[str] = "learned"
    trained: ClassVar[bool] = True

    def __init__(self, budget: Budget, width: int) -> None:
        super().__init__(budget)
        self.linear = nn.Linear(width, 1)

    def score(self, stream: TokenStream) -> Tensor:
        return self.linear(stream.embeds).squeeze(-1).sigmoid()

    def forward(self, stream: TokenStream) -> Selection:
        selection = super().forward(stream)
        assert selection.scores is not None
        gate = (selection.keep.to(selection.scores.dtype) - selection.scores).detach() + selection.scores
        return Selection(selection.keep, selection.scores, torch.where(_in_chunks(stream), gate, 1.0))


class Doubled(ScoredCompressor):
    """Merges: each kept embedding is doubled."""

    name: ClassVar[str] = "doubled"

    def score(self, stream: TokenStream) -> Tensor:
        return torch.arange(len(stream)).float()

    def forward(self, stream: TokenStream) -> Selection:
        selection = super().forward(stream)
        return Selection(selection.keep, selection.scores, embeds=2 * stream.embeds[selection.keep])


class Ragged(Compressor):
    """Keeps every n-th chunk token, n = 2 + row: rows of one batch get different lengths."""

    name: ClassVar[str] = "ragged"

    def __init__(self) -> None:
        super().__init__(HALF)

    def forward(self, stream: TokenStream) -> Selection:
        return self.select(stream, None)

    def select(self, stream: TokenStream, counts: Any) -> Selection:
        index = stream.position.sum(dim=0)
        return Selection((stream.chunk < 0) | (index % (2 + stream.sample) == 0))


class NeedsUnknown(Norms):
    needs: ClassVar[frozenset[str]] = frozenset({"unknown_extra"})


class ReadsAttention(Norms):
    """Needs encoder attention, and remembers the extras of each call."""

    name: ClassVar[str] = "reads_attention"
    needs: ClassVar[frozenset[str]] = frozenset({"audio_attention", "audio_attention_window", "video_attention"})

    def __init__(self, budget: Budget = HALF, needs: frozenset[str] | None = None) -> None:
        super().__init__(budget)
        if needs is not None:
            self.needs = needs  # type: ignore[misc]
        self.extras: list[dict[str, Tensor]] = []

    def score(self, stream: TokenStream) -> Tensor:
        self.extras.append(dict(stream.extras))
        return sum(stream.extras.values(), torch.zeros(len(stream)))


def language_model_arguments(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Arguments that the host passes to its language model for ``inputs``."""
    arguments: dict[str, Any] = {}
    handle = language_model(model).register_forward_pre_hook(lambda m, a, k: arguments.update(k), with_kwargs=True)
    with torch.no_grad():
        model(**inputs, use_cache=False)
    handle.remove()
    return arguments


@torch.no_grad()
def logits_by_hand(model: Any, inputs: dict[str, Any], keep: Tensor) -> Tensor:
    """[K, V] of one prompt: the language model on the kept embeddings at their old rotary positions."""
    arguments = language_model_arguments(model, inputs)
    index = keep[0].nonzero()[:, 0]
    embeds, positions = arguments["inputs_embeds"][:, index], arguments["position_ids"][-3:, :, index]
    hidden = language_model(model)(inputs_embeds=embeds, position_ids=positions, use_cache=False).last_hidden_state
    return model.lm_head(hidden)[0]


def _in_chunks(stream: TokenStream) -> Tensor:
    return (stream.chunk >= 0).to(stream.embeds.device)
