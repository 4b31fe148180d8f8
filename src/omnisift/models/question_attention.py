"""Attention of a language model from a few query positions, without an L x L matrix.

Hooks on the attention modules take the incoming hidden states and repeat the host's own projection, norm and rotation,
for all tokens as keys and for the few positions as queries. This works with any kernel: sdpa and flash attention return
no weights. Layers with a state instead of keys, such as most of Qwen3.5's, have no attention and do not count.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedModel
from omnisift.models.host_arguments import bind_arguments


class QuestionAttention:
    """Records the attention of all layers with keys of a language model while `record` is open."""

    def __init__(self, language_model: nn.Module) -> None:
        """Find the attention modules.

        Raises:
            UnsupportedModel: the layers are not built as those of the supported families.
        """
        layers: Any = getattr(language_model, "layers", None)
        found = [getattr(layer, "self_attn", None) for layer in layers or []]
        attentions = [part for part in found if part is not None]
        if not attentions or any(not hasattr(part, "q_proj") or not hasattr(part, "k_proj") for part in attentions):
            raise UnsupportedModel(
                f"{type(language_model).__name__} has no layers with q_proj and k_proj: pass the language model of a "
                "supported family (docs/models.md)"
            )
        self._attentions: list[Any] = attentions
        self._rotate = getattr(inspect.getmodule(type(attentions[0])), "apply_rotary_pos_emb", None)
        if self._rotate is None:
            raise UnsupportedModel(
                f"the module of {type(attentions[0]).__name__} has no apply_rotary_pos_emb: pass the language model of "
                "a supported family (docs/models.md)"
            )
        self._positions = torch.zeros(0, dtype=torch.int64)
        self._total: Tensor | None = None

    @contextmanager
    def record(self, positions: Tensor) -> Iterator[QuestionAttention]:
        """Record one call with one prompt.

        Args:
            positions: [R] int64, indices of the tokens whose attention is recorded.
        """
        self._positions, self._total = positions, None
        handles = [part.register_forward_pre_hook(self._add_layer, with_kwargs=True) for part in self._attentions]
        try:
            yield self
        finally:
            for handle in handles:
                handle.remove()

    def weights(self) -> Tensor:
        """Return the recorded attention.

        Returns:
            [R, L] float32, mean over heads and layers; each row sums to 1.

        Raises:
            RuntimeError: the language model was not called while recording.
        """
        if self._total is None:
            raise RuntimeError("the language model was not called inside record()")
        return self._total / len(self._attentions)

    @torch.no_grad()
    def _add_layer(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments = bind_arguments(module, args, kwargs)
        hidden, (cos, sin) = arguments["hidden_states"], arguments["position_embeddings"]
        positions = self._positions.to(hidden.device, non_blocking=True)
        size = module.head_dim
        # Project: every token as a key, only the recorded positions as queries.
        keys = module.k_proj(hidden).view(1, hidden.shape[1], -1, size)  # [1, L, KV, d]
        heads = keys.shape[2] * module.num_key_value_groups
        # With a gate, the projection of a head holds its query first and then its gate.
        queries = module.q_proj(hidden[:, positions]).view(1, len(positions), heads, -1)[..., :size]  # [1, R, H, d]
        if hasattr(module, "q_norm"):
            queries, keys = module.q_norm(queries), module.k_norm(keys)
        queries, keys = queries.transpose(1, 2), keys.transpose(1, 2)
        # Rotate by the host's own function, each side at its own positions.
        _, keys = self._rotate(keys, keys, cos, sin)  # type: ignore[misc]
        queries, _ = self._rotate(queries, queries, cos[:, positions], sin[:, positions])  # type: ignore[misc]
        weights = _attention(queries[0].float(), keys[0].float() * size**-0.5, positions)
        self._total = weights if self._total is None else self._total + weights


def _attention(queries: Tensor, keys: Tensor, positions: Tensor) -> Tensor:
    """[R, L]: mean over heads of the causal softmax. ``queries`` [H, R, d], ``keys`` [KV, L, d], scaled."""
    later = torch.arange(keys.shape[1], device=keys.device) > positions[:, None]
    group = len(queries) // len(keys)  # query heads that share a key head
    total = keys.new_zeros(len(positions), keys.shape[1])
    # One head at a time bounds memory to R x L.
    for head, query in enumerate(queries):
        total += (query @ keys[head // group].T).masked_fill(later, -torch.inf).softmax(dim=1)
    return total / len(queries)
