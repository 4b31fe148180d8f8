"""Collect the ranges of activations by modality: `calibrate`, and the hooks that it uses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.calibration.linears import PADDING, TokenModality, layer_input, linear_layers
from omnisift.calibration.scales import Calibration, Scales
from omnisift.errors import ModelError, UsageError
from omnisift.media import Media, MediaFile
from omnisift.models import adapter_for
from omnisift.models.attachment import model_lock
from omnisift.models.own_hooks import OwnHook
from omnisift.pipeline import Pipeline
from omnisift.tokens import Modality
from omnisift.utils.provenance import provenance
from omnisift.utils.questions import check_question

OUTLIERS = 0.001
"""Share of the values of a tensor that `Scales.percentile` leaves out."""


def calibrate(
    pipe: Pipeline,
    clips: Sequence[MediaFile | Media],
    questions: Sequence[str],
    *,
    max_new_tokens: int = 8,
    step: Callable[[], None] | None = None,
    **reading: Any,
) -> Scales:
    """Ask questions about clips, and collect the ranges of what the linear layers of the language model read.

    The tokens are those that the pipeline's compressor keeps, and the decoded ones; with ``compressor=None``, all.

    Args:
        pipe: the model and the compressor.
        clips: media files or decoded clips, as `Pipeline.encode` takes them.
        questions: what is asked about each clip.
        max_new_tokens: maximum number of decoded tokens for each question.
        step: called after each clip.
        reading: how clips are read: arguments of `Pipeline.encode`, such as ``fps`` or ``text``.

    Returns:
        The ranges, by layer and modality.

    Raises:
        MediaError: a clip can't be read as asked.
        ModelError: activations are NaN or infinite.
        UsageError: there is no clip or no question, or an argument is out of range.
    """
    if not clips or not questions or isinstance(clips, (str, Path)) or isinstance(questions, str):
        given = f"{str(clips)!r:.80}" if isinstance(clips, (str, Path)) else f"{len(clips)} clips"
        raise UsageError(
            f"calibration needs lists of clips and questions, got {given} and {questions!r:.80}: give both"
        )
    for question in questions:
        check_question(question)
    names = []
    # Other threads wait, for their prompts would be counted too.
    with model_lock(pipe.host.thinker), RangeCollector(pipe.host.thinker) as collector:
        for clip in clips:
            # Without held prompts, each question is read as a whole.
            encoded = pipe.encode(clip, **reading, hold_bytes=0)
            for question in questions:
                pipe.ask(encoded, question, max_new_tokens=max_new_tokens)
            names.append(encoded.media.path.name)
            if step is not None:
                step()
    compressor = pipe.compressor
    return collector.scales(
        Calibration(
            model=pipe.host.name,
            compressor="none" if compressor is None else compressor.label,
            budget="all tokens" if compressor is None else compressor.budget.words,
            clips=tuple(names),
            questions=len(questions),
            made=provenance(),
        )
    )


class RangeCollector:
    """Collects ranges while the model runs in its ``with`` block.

    Args:
        model: a Hugging Face model that an adapter exists for; with a compressor attached, kept tokens count alone.
    """

    tokens: TokenModality
    """Which tokens the language model reads."""

    def __init__(self, model: nn.Module) -> None:
        adapter = adapter_for(model)
        self.tokens = TokenModality(adapter)
        self._layers = linear_layers(adapter)
        self._seen: dict[str, dict[int, _Seen]] = {name: {} for name in self._layers}
        self._stack = ExitStack()

    def __enter__(self) -> RangeCollector:
        self._stack.enter_context(self.tokens)
        for name, layer in self._layers.items():
            hook = OwnHook.before(layer, partial(self._observe, name))
            self._stack.callback(hook.remove)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @torch.no_grad()
    def _observe(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        activations = layer_input(args, kwargs)
        modality = self.tokens.of(activations, name)
        rows = activations.flatten(0, -2)
        for kind in torch.unique(modality).tolist():
            if kind != PADDING:
                of_kind = rows[(modality == kind).to(rows.device)].float().abs()
                seen = self._seen[name].setdefault(kind, _Seen(rows.shape[1]))
                seen.add(of_kind)

    def scales(self, calibration: Calibration) -> Scales:
        """Return what was collected.

        Args:
            calibration: where it comes from.

        Raises:
            ModelError: activations are NaN or infinite.
            UsageError: the model was not called, or not through all of its layers.
        """
        idle = [name for name, kinds in self._seen.items() if not kinds]
        if idle:
            raise UsageError(
                f"{len(idle)} of {len(self._seen)} linear layers read no token, such as {idle[0]}: run prompts through "
                "the model in the block"
            )
        count = 1 + max(*Modality, *(kind for kinds in self._seen.values() for kind in kinds))
        rows = {name: [kinds.get(kind) for kind in range(count)] for name, kinds in self._seen.items()}
        tokens = torch.tensor([[0 if seen is None else seen.tokens for seen in row] for row in rows.values()])
        largest = {name: _stacked([seen.largest if seen else None for seen in row]) for name, row in rows.items()}
        percentile = {name: _stacked([seen.percentile if seen else None for seen in row]) for name, row in rows.items()}
        for name, ranges in largest.items():
            if not bool(torch.isfinite(ranges).all()):
                raise ModelError(
                    f"the inputs of {name} are NaN or infinite: check the weights, or use float32 or bfloat16"
                )
        return Scales(largest, percentile, tokens.amax(dim=0), calibration)


class _Seen:
    """Activations of one layer and one modality: C channels."""

    def __init__(self, channels: int) -> None:
        self.tokens = 0
        self.largest = torch.zeros(channels)
        """[C] on the CPU."""
        self._sum = 0.0

    def add(self, magnitudes: Tensor) -> None:
        """Add [N, C] absolute values of N tokens of one call."""
        self.tokens += len(magnitudes)
        self.largest = torch.maximum(self.largest, magnitudes.amax(dim=0).cpu())
        # The smallest of the largest 0.1 % of the values; at least the largest one.
        outliers = max(1, math.ceil(OUTLIERS * magnitudes.numel()))
        self._sum += len(magnitudes) * float(magnitudes.flatten().topk(outliers, sorted=False).values.min())

    @property
    def percentile(self) -> Tensor:
        """[] the mean over calls, weighted by their tokens."""
        return torch.tensor(self._sum / self.tokens)


def _stacked(parts: Iterable[Tensor | None]) -> Tensor:
    """[M, ...] from one tensor for each modality, zeros for None."""
    tensors = list(parts)
    shape = next(part for part in tensors if part is not None)
    return torch.stack([torch.zeros_like(shape) if part is None else part for part in tensors])
