"""Hear the attention of an encoder while the host runs it, and lay it on the tokens of the prompt.

A listener hangs on the last attention module of one encoder, only while a compressor that needs it is attached. It
takes the queries and keys that the host computes for itself, so nothing runs twice, and keeps a few numbers a token.

Two ways lead from an encoder to the prompt. In a plain call the model runs its encoders on the way; then the latest run
counts, and it is forgotten when the call ends, however it ends. ``generate`` runs the vision encoder *before* the call
and hands its output over; so the numbers also ride on that output object: they can't be taken for another prompt's, and
end with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.errors import CompressorError
from omnisift.models.host_arguments import by_name
from omnisift.tokens import Modality

_NOTE = "omnisift_heard"


@dataclass(frozen=True)
class Ear:
    """Where to listen."""

    encoder: nn.Module
    attention: nn.Module
    """The attention module of its last layer."""
    query: nn.Module
    """The projection in ``attention`` that makes queries [T, H * d]."""
    key: nn.Module


@dataclass
class _Run:
    """One run of an encoder."""

    shape: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Those of the attention module."""
    query: Tensor | None = None
    key: Tensor | None = None
    values: Mapping[str, Tensor] | None = None
    """[N] float32 each, in the order of the encoder's output."""


class AttentionProbe(ABC):
    """Hooks on one encoder. Subclasses say what its call tells of shapes, and how queries and keys become numbers."""

    modality: ClassVar[Modality]
    """The tokens that the encoder's output replaces."""
    encoded: ClassVar[str]
    """The encoder's name among ``mm_encoder_outputs``."""
    argument: ClassVar[str]
    """The argument of the host that makes it run the encoder."""

    def __init__(self, ear: Ear, names: frozenset[str]) -> None:
        self.names = names
        self.ear = ear
        self._running: _Run | None = None
        self._latest: _Run | None = None

    @abstractmethod
    def shape(self, arguments: Mapping[str, Any]) -> Any:
        """Lengths or grids, from the arguments of a call to the encoder."""

    @abstractmethod
    def measure(self, shape: Any, query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """[N] float32 for each of `names`, one value for each token that the encoder puts out.

        ``query`` and ``key`` [T, H * d] are those of the projections, ``arguments`` those of the attention module.
        """

    def belongs(self, shape: Any, arguments: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether a run of this shape encoded the tokens of a prompt with these arguments."""
        return True

    @property
    def heads(self) -> int:
        """``H``, the heads of the attention module."""
        attention: Any = self.ear.attention
        return int(attention.num_heads)

    def hooks(self) -> list[RemovableHandle]:
        """Register. The attachment removes them."""
        ear = self.ear
        return [
            ear.encoder.register_forward_pre_hook(self._enter, with_kwargs=True),
            ear.attention.register_forward_pre_hook(self._attend, with_kwargs=True),
            ear.query.register_forward_hook(self._hear_query),
            ear.key.register_forward_hook(self._hear_key),
            ear.attention.register_forward_hook(self._attended),
            ear.encoder.register_forward_hook(self._leave, always_call=True),
        ]

    def forget(self) -> None:
        """Drop the latest run: the attachment calls it before and after every call to the model."""
        self._latest = None

    def extras(self, modality: Tensor, arguments: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
        """[B * S] float32 on ``device`` for each of `names`; 0 for tokens of other modalities.

        ``modality`` [B, S] and ``arguments`` are the prompt's. Raises `CompressorError` if the encoder did not run for
        its tokens.
        """
        where = modality == self.modality
        index = where.flatten().nonzero()[:, 0].to(device)
        counts = where.sum(dim=1).tolist()
        values = self._of(arguments, sum(counts)) if sum(counts) else {}
        found = {name: torch.zeros(where.numel(), device=device) for name in self.names}
        for name, value in values.items():
            found[name][index] = self._for_rows(value, counts).to(device)
        return found

    def _of(self, arguments: Mapping[str, Any], count: int) -> Mapping[str, Tensor]:
        """What was heard of the prompt with these arguments, which has ``count`` tokens of this modality."""
        run = self._run_for(arguments)
        if run is None or run.values is None:
            raise CompressorError(
                f"{sorted(self.names)} can only be heard while the {self.encoded} encoder runs, which it did not for "
                f"the {count} {self.encoded} tokens of this call: pass {self.argument} while the compressor is "
                "attached, or choose another compressor"
            )
        return run.values

    def _run_for(self, arguments: Mapping[str, Any]) -> _Run | None:
        output = (arguments.get("mm_encoder_outputs") or {}).get(self.encoded)
        if output is not None:
            return getattr(output, _NOTE, None)
        run = self._latest
        # Without its argument the encoder ran for something else, if at all.
        if run is None or arguments.get(self.argument) is None or not self.belongs(run.shape, arguments):
            return None
        return run

    def _for_rows(self, value: Tensor, counts: list[int]) -> Tensor:
        """As many values as tokens. ``generate`` repeats each row (for beams) after its vision encoder has run."""
        total = sum(counts)
        times = max(1, total // max(1, len(value)))
        rows = counts[::times]
        if len(value) * times != total or sum(rows) != len(value):
            raise CompressorError(
                f"heard {len(value)} values of {sorted(self.names)} for {total} {self.encoded} tokens: "
                f"pass {self.argument} of this prompt's placeholders, no more and no fewer"
            )
        return value if times == 1 else torch.cat([part for part in torch.split(value, rows) for _ in range(times)])

    # --- hooks: nothing is heard outside a run of the encoder (checkpointing repeats layers in the backward pass) -----

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running = _Run(self.shape(by_name(module, args, kwargs)))

    def _attend(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running is not None:
            self._running.arguments = by_name(module, args, kwargs)

    def _hear_query(self, module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG002
        if self._running is not None:
            self._running.query = output.detach()

    def _hear_key(self, module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG002
        if self._running is not None:
            self._running.key = output.detach()

    def _attended(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        run = self._running
        if run is None or run.query is None or run.key is None:
            return
        with torch.no_grad():
            run.values = self.measure(run.shape, run.query, run.key, run.arguments)
        run.query, run.key, run.arguments = None, None, {}

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        run, self._running = self._running, None
        self._latest = None if output is None else run  # None: the encoder failed
        if output is not None and not isinstance(output, tuple):
            setattr(output, _NOTE, run)
