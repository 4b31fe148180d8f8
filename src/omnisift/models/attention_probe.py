"""Record encoder attention during the forward pass and map it to prompt tokens.

A probe hooks the last attention module of one encoder, only while a compressor that needs it is attached. It takes the
queries and keys that the host computes anyway, so nothing runs twice, and stores a few numbers per token.

The encoder runs either inside the forward call or, under ``generate``, before it. In a forward call the latest run
applies, and it is cleared when the call ends or fails. Before a call the numbers are stored on the encoder's output
object, so that they apply to that output alone and end with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from omnisift.errors import CompressorError
from omnisift.models.host_arguments import bind_arguments
from omnisift.models.own_hooks import OwnHook
from omnisift.tokens import Modality

_ATTRIBUTE = "omnisift_encoder_run"
BLOCK = 2**24
"""Attention weights in memory at once (a single query's row may be longer)."""


@dataclass(frozen=True)
class ProbedEncoder:
    """Modules of an encoder that get hooks."""

    encoder: nn.Module
    attention: nn.Module
    """The attention module of its last layer."""
    query: nn.Module
    """The projection in ``attention`` that returns queries [T, H * d]."""
    key: nn.Module
    """The projection in ``attention`` that returns keys [T, H * d]. One that is ``query`` too returns queries, keys and
    values side by side, [T, 3 * H * d]."""

    def queries(self, output: Tensor) -> Tensor:
        """[T, H * d] of what ``query`` returned."""
        return output.chunk(3, dim=-1)[0] if self.query is self.key else output

    def keys(self, output: Tensor) -> Tensor:
        """[T, H * d] of what ``key`` returned."""
        return output.chunk(3, dim=-1)[1] if self.query is self.key else output


@dataclass
class EncoderRun:
    """One run of an encoder."""

    shape: Any
    """Lengths or grids of its inputs, see `AttentionProbe.read_shape`."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the attention module."""
    query: Tensor | None = None
    key: Tensor | None = None
    values: Mapping[str, Tensor] | None = None
    """[N] float32 each, in the order of the encoder's output."""


class AttentionProbe(ABC):
    """Hooks on one encoder. Subclasses read its shapes and turn queries and keys into one number per token."""

    modality: ClassVar[Modality]
    """The tokens that the encoder's output replaces."""
    output_name: ClassVar[str]
    """The encoder's name among ``mm_encoder_outputs``."""
    input_name: ClassVar[str]
    """The argument of the host that makes it run the encoder."""

    def __init__(self, probed: ProbedEncoder, names: frozenset[str]) -> None:
        """Prepare a probe without hooking anything.

        Args:
            probed: the modules to hook.
            names: the extras to provide.
        """
        self.names = names
        self.probed = probed
        self._running: EncoderRun | None = None
        self._latest: EncoderRun | None = None

    @abstractmethod
    def read_shape(self, arguments: Mapping[str, Any]) -> Any:
        """Return lengths or grids from the arguments of a call to the encoder."""

    @abstractmethod
    def measure(self, shape: Any, query: Tensor, key: Tensor, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """Compute the extras from the attention of one run.

        Args:
            shape: of the run, as `read_shape` returned it.
            query: [T, H * d], output of the query projection.
            key: [T, H * d], output of the key projection.
            arguments: those of the attention module.

        Returns:
            [N] float32 for each of `names`, one value for each token that the encoder returns.
        """

    def matches_prompt(self, shape: Any, arguments: Mapping[str, Any]) -> bool:  # noqa: ARG002
        """Whether a run of this shape encoded the tokens of a prompt with these arguments."""
        return True

    @property
    def num_heads(self) -> int:
        """``H``, the number of heads of the attention module."""
        attention: Any = self.probed.attention
        return int(attention.num_heads)

    def hooks(self) -> list[OwnHook]:
        """Register the hooks. The attachment removes them."""
        probed = self.probed
        return [
            OwnHook.before(probed.encoder, self._start_run),
            OwnHook.before(probed.attention, self._store_arguments),
            OwnHook.after(probed.query, self._store_query),
            OwnHook.after(probed.key, self._store_key),
            OwnHook.after(probed.attention, self._measure_run),
            OwnHook.after(probed.encoder, self._end_run, always_call=True),
        ]

    def clear(self) -> None:
        """Drop the latest run. The attachment calls this before and after every call to the model."""
        self._latest = None

    def extras(self, modality: Tensor, arguments: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
        """Map the recorded values to the tokens of a prompt.

        Args:
            modality: [B, S] int8 on the CPU, of the prompt.
            arguments: those of the call to the host's core, by name.
            device: where to put the result.

        Returns:
            [B * S] float32 for each of `names`; 0 on tokens of other modalities.

        Raises:
            CompressorError: the encoder did not run for the tokens of this prompt, or returned another number of them.
        """
        # Flat indices of the tokens that the encoder's output replaces, in the order of its output.
        is_encoded = modality == self.modality
        index = is_encoded.flatten().nonzero()[:, 0].to(device, non_blocking=True)
        counts = is_encoded.sum(dim=1).tolist()
        values = self._values_for(arguments, sum(counts)) if sum(counts) else {}
        extras = {name: torch.zeros(is_encoded.numel(), device=device) for name in self.names}
        for name, value in values.items():
            extras[name][index] = self._repeat_for_beams(value, counts).to(device, non_blocking=True)
        return extras

    def _values_for(self, arguments: Mapping[str, Any], count: int) -> Mapping[str, Tensor]:
        """Values of the run for a prompt with these arguments, which has ``count`` tokens of this modality."""
        run = self._find_run(arguments)
        if run is None or run.values is None:
            raise CompressorError(
                f"{sorted(self.names)} is only known while the {self.output_name} encoder runs, which it did not for "
                f"the {count} {self.output_name} tokens of this call: pass {self.input_name} while the compressor is "
                "attached, or choose another compressor"
            )
        return run.values

    def _find_run(self, arguments: Mapping[str, Any]) -> EncoderRun | None:
        """The run stored on an encoder output among the arguments, else the latest one if it belongs to the prompt."""
        output = (arguments.get("mm_encoder_outputs") or {}).get(self.output_name)
        if output is not None:
            return getattr(output, _ATTRIBUTE, None)
        run = self._latest
        # Without its input the encoder ran for something else, if at all.
        if run is None or arguments.get(self.input_name) is None or not self.matches_prompt(run.shape, arguments):
            return None
        return run

    def _repeat_for_beams(self, value: Tensor, counts: list[int]) -> Tensor:
        """As many values as tokens: ``generate`` repeats each row (for beams) after its vision encoder has run."""
        # Rows of one prompt are adjacent, so every times-th row is an original.
        total = sum(counts)
        times = max(1, total // max(1, len(value)))
        rows = counts[::times]
        if len(value) * times != total or sum(rows) != len(value):
            raise CompressorError(
                f"the {self.output_name} encoder returned {len(value)} values of {sorted(self.names)} for {total} "
                f"{self.output_name} tokens: pass {self.input_name} of this prompt's placeholders, no more and no fewer"
            )
        return value if times == 1 else torch.cat([part for part in torch.split(value, rows) for _ in range(times)])

    # --- hooks: they record inside a run of the encoder only (checkpointing repeats layers in the backward pass) ------

    def _start_run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._running = EncoderRun(self.read_shape(bind_arguments(module, args, kwargs)))

    def _store_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._running is not None:
            self._running.arguments = bind_arguments(module, args, kwargs)

    def _store_query(self, module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG002
        if self._running is not None:
            self._running.query = self.probed.queries(output.detach())

    def _store_key(self, module: nn.Module, args: Any, output: Tensor) -> None:  # noqa: ARG002
        if self._running is not None:
            self._running.key = self.probed.keys(output.detach())

    def _measure_run(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        run = self._running
        if run is None or run.query is None or run.key is None:
            return
        with torch.no_grad():
            run.values = self.measure(run.shape, run.query, run.key, run.arguments)
        # Only the values are needed from here on: free the queries and keys of a long clip.
        run.query, run.key, run.arguments = None, None, {}

    def _end_run(self, module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG002
        run, self._running = self._running, None
        self._latest = None if output is None else run  # None: the encoder failed
        # Under `generate` the output object carries the run into the forward call.
        if output is not None and not isinstance(output, tuple):
            setattr(output, _ATTRIBUTE, run)


@torch.no_grad()
def received_attention(query: Tensor, key: Tensor, scale: float, lengths: Sequence[int], block: int = BLOCK) -> Tensor:
    """Sum the attention that each step of an encoder receives from all queries of its sequence.

        s_j = mean over heads of (sum over queries i of softmax over j of (q_i k_j scale))

    This is the column sum of the softmax. OmniZip (for audio), SEATS and VisionZip (for both) read it from the last
    layer of an encoder as saliency. It is summed over blocks: ten minutes of audio at 50 Hz would need 36 GB for the
    full matrix in bfloat16, a block needs 64 MiB in float32. The softmax is taken in float32 for every dtype of the
    model, under autocast too.

    Args:
        query: [H, T, d], the queries of all sequences one after another.
        key: [H, T, d], the keys. Each sequence attends to itself only.
        scale: factor on the logits.
        lengths: steps of each sequence; they sum to T.
        block: most attention weights in memory at once.

    Returns:
        [T] float32, at least 0. It sums to the sequence's length over each sequence.

    Raises:
        ValueError: ``lengths`` do not sum to T.
    """
    if sum(lengths) != query.shape[1]:
        raise ValueError(f"lengths must sum to the {query.shape[1]} steps of query, got {sum(lengths)}")
    received = query.new_zeros(query.shape[1], dtype=torch.float32)
    start = 0
    with torch.autocast(query.device.type, enabled=False):
        # Consecutive sequences of equal length are one batch: an encoder has hundreds of windows.
        for length, run in groupby(length for length in lengths if length):
            stop = start + length * len(list(run))
            queries, keys = (side[:, start:stop].reshape(-1, length, side.shape[-1]) for side in (query, key))
            sums = _column_sums(queries, keys, scale, block)
            received[start:stop] = sums.view(len(query), -1).mean(dim=0)
            start = stop
    return received


def _column_sums(query: Tensor, key: Tensor, scale: float, block: int) -> Tensor:
    """[N, t] float32 from [N, t, d]: the softmax over keys, summed over queries, in blocks of rows and queries."""
    rows, length, _ = query.shape
    # As many queries as fit into a block, then as many rows as still fit.
    n_queries = min(length, max(1, block // length))
    n_rows = max(1, block // (n_queries * length))
    sums = query.new_zeros(rows, length, dtype=torch.float32)
    for top in range(0, rows, n_rows):
        keys = (key[top : top + n_rows].float() * scale).transpose(1, 2)
        for first in range(0, length, n_queries):
            weights = query[top : top + n_rows, first : first + n_queries].float() @ keys
            sums[top : top + n_rows] += weights.softmax(dim=-1).sum(dim=1)
    return sums
