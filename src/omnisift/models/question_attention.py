"""What a language model looks at from a few places: the rows of its attention for them alone, with nothing L x L.

Hooks on the attention modules take the hidden states that come in and repeat the host's own projection and rotation:
for all tokens as keys, for the few as queries. So it works beside any kernel: sdpa and flash attention give no weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedModel
from omnisift.models.host_arguments import by_name


class QuestionAttention:
    """Listens to all decoder layers of ``language_model`` while `from_rows` is open.

    Raises `UnsupportedModel` if its layers are not built as those of Qwen2.5-Omni.
    """

    def __init__(self, language_model: nn.Module) -> None:
        layers: Any = getattr(language_model, "layers", None)
        attentions = [getattr(layer, "self_attn", None) for layer in layers or []]
        if not attentions or any(not hasattr(part, "q_proj") or not hasattr(part, "k_proj") for part in attentions):
            raise UnsupportedModel(f"{type(language_model).__name__} has no layers with q_proj and k_proj to listen to")
        self._attentions: list[Any] = attentions
        self._rotate = getattr(inspect.getmodule(type(attentions[0])), "apply_rotary_pos_emb", None)
        if self._rotate is None:
            raise UnsupportedModel(f"no rotation rule beside {type(attentions[0]).__name__}: another family's layout")
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._total: Tensor | None = None

    @contextmanager
    def from_rows(self, rows: Tensor) -> Iterator[QuestionAttention]:
        """Listen to one call with one prompt; ``rows`` [R] int64 are the places that look."""
        self._rows, self._total = rows, None
        handles = [part.register_forward_pre_hook(self._hear, with_kwargs=True) for part in self._attentions]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def weights(self) -> Tensor:
        """[R, L] float32, rows sum to 1: attention of each row, mean over heads and layers. After the call."""
        if self._total is None:
            raise RuntimeError("the language model was not called while listening")
        return self._total / len(self._attentions)

    @torch.no_grad()
    def _hear(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = by_name(module, args, kwargs)
        hidden, (cos, sin) = arguments["hidden_states"], arguments["position_embeddings"]
        rows = self._rows.to(hidden.device)
        size = module.head_dim
        keys = module.k_proj(hidden).view(1, hidden.shape[1], -1, size).transpose(1, 2)  # [1, KV, L, d]
        queries = module.q_proj(hidden[:, rows]).view(1, len(rows), -1, size).transpose(1, 2)  # [1, H, R, d]
        _, keys = self._rotate(keys, keys, cos, sin)  # type: ignore[misc]
        queries, _ = self._rotate(queries, queries, cos[:, rows], sin[:, rows])  # type: ignore[misc]
        weights = _attention(queries[0].float(), keys[0].float() * size**-0.5, rows)
        self._total = weights if self._total is None else self._total + weights


def _attention(queries: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """[R, L]: mean over heads of the causal softmax. ``queries`` [H, R, d], ``keys`` [KV, L, d], scaled."""
    later = torch.arange(keys.shape[1], device=keys.device) > rows[:, None]
    shared = len(queries) // len(keys)
    total = keys.new_zeros(len(rows), keys.shape[1])
    for head, query in enumerate(queries):  # one head at a time: R x L is all that is ever held
        total += (query @ keys[head // shared].T).masked_fill(later, -torch.inf).softmax(dim=1)
    return total / len(queries)
