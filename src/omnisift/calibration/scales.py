"""`Scales`: the ranges of activations by modality, as a file and as a summary."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import mean, median
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnisift.errors import CheckpointError
from omnisift.tokens import Modality
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.safetensors_files import open_safetensors

FORMAT = "omnisift scales 1"
"""What `Scales.load` reads."""
AGAIN = "make it again with omnisift calibrate"
WORTH_MEASURING = 0.5
"""Bits lost from which scales by modality may be worth a try. With 0.2 to 0.3 bits they gained less than a point at 4
bits (docs/small-machines.md); more was not measured."""
Statistic = Literal["largest", "percentile"]


@dataclass(frozen=True)
class Calibration:
    """Where scales come from."""

    model: str
    """As the user gave it: ``nano``, a folder, or a hub id."""
    compressor: str
    """Label of the method; ``none`` if all tokens were read."""
    budget: str
    """What it kept, in words."""
    clips: tuple[str, ...]
    """Names of the files."""
    questions: int
    """Questions about each clip."""
    made: Mapping[str, Any]
    """Commit, versions and date, as `omnisift.utils.provenance.provenance` returns them."""


@dataclass(frozen=True)
class RoleRanges:
    """The ranges of all layers of one role, such as ``down_proj``."""

    role: str
    layers: int
    largest: Mapping[str, float]
    """Modality -> largest absolute input over all layers."""
    ratio: float
    """Largest range of a modality divided by the smallest one, median over the layers."""
    channels: float
    """Largest range of a channel divided by that of the median channel, all modalities together; median over the
    layers. Where it is large, outliers belong to channels and not to a modality."""


@dataclass(frozen=True, repr=False)
class Scales:
    """The ranges of what each linear layer of a language model read, by modality. M rows, one for each `Modality`.

    A range becomes a scale by division by the largest integer of the grid, which `fake_quantized` does. Rows of
    modalities without tokens are zero.
    """

    largest: Mapping[str, Tensor]
    """Layer -> [M, C] float32: largest absolute value of each input channel, over all tokens of all prompts."""
    percentile: Mapping[str, Tensor]
    """Layer -> [M] float32: what 0.1 % of the absolute values of one call reach, all channels together; the mean over
    the calls (one for each prompt, and one for each decoded token), weighted by their tokens. It is not kept by
    channel: a prompt has too few tokens of a modality."""
    tokens: Tensor
    """[M] int64: tokens that were read."""
    calibration: Calibration
    """Model, method and clips."""

    def __repr__(self) -> str:
        source = self.calibration
        counts = ", ".join(f"{count:,} {name}" for name, count in self.counts().items())
        method = f"{source.compressor}, {source.budget}"
        return f"Scales({len(self.largest)} layers of {source.model!r}; {method}; tokens: {counts})"

    def counts(self) -> dict[str, int]:
        """Modality -> tokens that were read, for those with any."""
        return {modality_name(kind): int(self.tokens[kind]) for kind in self._present}

    def ranges(self, layer: str, statistic: Statistic = "largest") -> Tensor:
        """[M] float32: the range of a layer's input for each modality, all channels together.

        Args:
            layer: name of the layer in the language model.
            statistic: ``largest``, or ``percentile``, which leaves 0.1 % of the values out.
        """
        return self.percentile[layer] if statistic == "percentile" else self.largest[layer].amax(dim=1)

    def bits_lost(self, statistic: Statistic = "percentile") -> dict[str, float]:
        """Modality -> bits of the grid that it loses where all modalities share one scale, mean over the layers.

        A modality whose range is half of the largest one uses half of the grid, and so loses one bit.
        """
        lost: dict[str, list[float]] = {modality_name(kind): [] for kind in self._present}
        for layer in self.largest:
            ranges = self.ranges(layer, statistic)
            for kind in self._present:
                lost[modality_name(kind)].append(math.log2(_ratio(ranges.max(), ranges[kind])))
        return {name: mean(values) for name, values in lost.items()}

    def outlier_bits(self) -> float:
        """Bits of the grid that one scale loses to the largest 0.1 % of the values, mean over the layers."""
        pairs = [(self.ranges(layer).max(), self.percentile[layer].max()) for layer in self.largest]
        return mean(math.log2(_ratio(*pair)) for pair in pairs)

    def roles(self) -> list[RoleRanges]:
        """Sum the layers up by the last part of their names, in the order of the model."""
        grouped: dict[str, list[str]] = {}
        for layer in self.largest:
            grouped.setdefault(layer.rpartition(".")[2], []).append(layer)
        present, found = self._present, []
        for role, layers in grouped.items():
            ranges = torch.stack([self.ranges(layer)[present] for layer in layers])  # [layers, modalities]
            names = [modality_name(kind) for kind in present]
            channels = [self.largest[layer].amax(dim=0) for layer in layers]
            found.append(
                RoleRanges(
                    role=role,
                    layers=len(layers),
                    largest=dict(zip(names, ranges.amax(dim=0).tolist(), strict=True)),
                    ratio=median(_ratio(row.max(), row.min()) for row in ranges),
                    channels=median(_ratio(row.max(), row.median()) for row in channels),
                )
            )
        return found

    def verdict(self) -> str:
        """Say in one sentence how much of the grid one scale for all modalities wastes, and what to do about it."""
        lost = self.bits_lost()
        if len(lost) < 2:
            return f"only {' and '.join(lost)} tokens were read, so modalities can't be compared"
        name = max(lost, key=lost.__getitem__)
        sharing = f"{name} loses {lost[name]:.1f} bits of the grid where all modalities share one scale"
        outliers = f"the largest 0.1 % of the values cost {self.outlier_bits():.1f} bits"
        if lost[name] < WORTH_MEASURING:
            return f"{sharing}, and {outliers}: leave these out and share the scale"
        return f"{sharing}, and {outliers}: at 8 bits share the scale; at 4, measure both with fake_quantized"

    def save(self, path: Path) -> None:
        """Write a safetensors file, atomically.

        Args:
            path: the file to create or replace. Its folder must exist.

        Raises:
            OSError: it can't be written.
        """
        tensors = {f"{name}.{layer}": ranges for name in _TENSORS for layer, ranges in getattr(self, name).items()}
        tensors = {name: tensor.clone().contiguous() for name, tensor in {**tensors, "tokens": self.tokens}.items()}
        about = json.dumps(asdict(self.calibration))
        with atomic_file(path) as unfinished:
            save_file(tensors, str(unfinished), metadata={"format": FORMAT, "calibration": about})

    @classmethod
    def load(cls, path: str | Path) -> Scales:
        """Read a file of `save`.

        Args:
            path: the file.

        Raises:
            CheckpointError: it is missing or broken, or holds something else.
        """
        path = Path(path)
        with open_safetensors(path) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} holds no scales of this version, got {sorted(tensors)[:3]}: {AGAIN}")
        calibration = _calibration(path, metadata.get("calibration", ""))
        tokens = tensors.pop("tokens", torch.zeros(0))
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in _TENSORS}
        for name, tensor in tensors.items():
            part, _, layer = name.partition(".")
            parts.setdefault(part, {})[layer] = tensor
        _check(path, parts, tokens)
        return cls(parts["largest"], parts["percentile"], tokens, calibration)

    def check_fits(self, layers: Mapping[str, int], model: str) -> None:
        """Check that the scales are of a model's layers.

        Args:
            layers: name -> input channels.
            model: name of the model, for the message.

        Raises:
            CheckpointError: layers are missing or surplus, or have other widths.
        """
        own = {name: int(ranges.shape[1]) for name, ranges in self.largest.items()}
        if own == layers:
            return
        wrong = sorted(name for name in {*own, *layers} if own.get(name) != layers.get(name))
        name = wrong[0]
        raise CheckpointError(
            f"the scales of {self.calibration.model} do not fit {model}: {len(wrong)} layers differ, such as {name} "
            f"({own.get(name, 'no')} channels for {layers.get(name, 'no')}); calibrate this model"
        )

    @property
    def _present(self) -> list[int]:
        """Modalities with tokens."""
        return [kind for kind, count in enumerate(self.tokens.tolist()) if count]


_TENSORS = ("largest", "percentile")


def modality_name(kind: int) -> str:
    """``video``; ``modality 7`` for a number of one's own."""
    return Modality(kind).name.lower() if kind in tuple(Modality) else f"modality {kind}"


def _ratio(larger: Any, smaller: Any) -> float:
    """Ratio of two ranges; layers whose input is zero have no range, and lose nothing."""
    return max(1.0, float(larger) / float(smaller)) if float(smaller) > 0 else 1.0


def _calibration(path: Path, text: str) -> Calibration:
    kinds: dict[str, type] = {"model": str, "compressor": str, "budget": str, "clips": list, "questions": int}
    try:
        values = json.loads(text)
        if {*values} != {field.name for field in fields(Calibration)} or not isinstance(values["made"], dict):
            raise ValueError("its fields are others")
        wrong = [name for name, kind in kinds.items() if not isinstance(values[name], kind)]
        if wrong:
            raise ValueError(f"{wrong[0]} is {values[wrong[0]]!r:.40}")
        return Calibration(**{**values, "clips": tuple(map(str, values["clips"]))})
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} does not say where its scales come from ({error}): {AGAIN}") from error


def _check(path: Path, parts: Mapping[str, Mapping[str, Tensor]], tokens: Tensor) -> None:
    """Raise `CheckpointError` unless the tensors are ranges of the same layers and modalities."""
    rows, layers = tokens.shape[0] if tokens.ndim else 0, parts["largest"].keys()
    sound = {*parts} == {*_TENSORS} and layers == parts["percentile"].keys() and bool(layers)
    sound &= tokens.ndim == 1 and tokens.dtype == torch.int64 and rows >= len(Modality)
    sound = sound and bool((tokens >= 0).all()) and bool(tokens.any())
    if not sound:
        raise CheckpointError(f"{path} has missing or surplus tensors: {AGAIN}")
    for part, dimensions in zip(_TENSORS, (2, 1), strict=True):
        for layer, ranges in parts[part].items():
            is_range = ranges.ndim == dimensions and ranges.shape[0] == rows and ranges.dtype == torch.float32
            if not is_range or not ranges.numel() or not bool((torch.isfinite(ranges) & (ranges >= 0)).all()):
                raise CheckpointError(
                    f"{path}: {part} of {layer} is {ranges.dtype} {list(ranges.shape)}, not {rows} finite rows of "
                    f"float32 that are not negative: {AGAIN}"
                )
