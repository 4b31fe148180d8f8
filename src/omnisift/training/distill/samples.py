"""`DistillSample`: one clip as a compressor sees it, with the attention of the full-token model; no labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnisift.chunks import index_clips, index_stream, places_in_clips
from omnisift.errors import CheckpointError
from omnisift.tokens import TokenStream
from omnisift.utils.atomic_io import atomic_file


@dataclass(frozen=True)
class DistillSample:
    """One clip; ``S`` is the number of tokens up to the end of the media."""

    embeds: Tensor
    """[S, D], in the model's dtype."""
    modality: Tensor
    """[S] int8."""
    position: Tensor
    """[3, S] int64: as `TokenStream.position`; rotary ids in files of earlier versions."""
    attention: Tensor
    """[S] float32: attention that each token receives from the answer position, maximum over the questions."""
    seconds_per_position: float
    """Seconds per step of the time axis of ``position``."""
    clip: Tensor | None = None
    """[S] int64: number of the clip, -1 outside; None in files of earlier versions, where a clip is a run of tokens."""

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears only when it is complete."""
        names = ("embeds", "modality", "position", "attention", "clip")
        tensors = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        with atomic_file(path) as unfinished:
            save_file(tensors, str(unfinished), metadata={"about": json.dumps(self.seconds_per_position)})

    @classmethod
    def load(cls, path: Path) -> DistillSample | None:
        """Read what `save` wrote; None if the file is missing or damaged."""
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(**tensors, seconds_per_position=json.loads(file.metadata()["about"]))
        except (OSError, SafetensorError, TypeError, KeyError, ValueError, RecursionError):
            return None


class DistillFiles(Sequence[DistillSample]):
    """Samples that are read from disk on access: a thousand long clips don't fit into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> DistillSample: ...
    @overload
    def __getitem__(self, index: slice) -> DistillFiles: ...
    def __getitem__(self, index: int | slice) -> DistillSample | DistillFiles:
        """One sample, or the files of a slice.

        Raises:
            CheckpointError: a file has been deleted or damaged since it was written.
        """
        if isinstance(index, slice):
            return DistillFiles(self.paths[index])
        sample = DistillSample.load(self.paths[index])
        if sample is None:
            raise CheckpointError(f"{self.paths[index]} is missing or damaged: run the same command again")
        return sample

    def shuffled(self, seed: int) -> DistillFiles:
        """The files in an order drawn by ``seed``."""
        order = torch.randperm(len(self.paths), generator=torch.Generator().manual_seed(seed)).tolist()
        return DistillFiles([self.paths[index] for index in order])


def stream_of(samples: Sequence[DistillSample]) -> TokenStream:
    """The samples as one token stream, one batch row per clip."""
    lengths = torch.tensor([len(sample.modality) for sample in samples])
    placed = [_place(sample) for sample in samples]
    # Number the clips over the batch.
    counts = torch.tensor([int(clip.max()) + 1 for clip, _ in placed])
    first = (counts.cumsum(0) - counts).repeat_interleave(lengths)
    clip = torch.cat([clip for clip, _ in placed])
    return index_stream(
        embeds=torch.cat([sample.embeds.float() for sample in samples]),
        modality=torch.cat([sample.modality for sample in samples]),
        clip=torch.where(clip >= 0, clip + first, -1),
        position=torch.cat([position for _, position in placed], dim=1),
        sample=torch.arange(len(samples)).repeat_interleave(lengths),
    )


def _place(sample: DistillSample) -> tuple[Tensor, Tensor]:
    """Clip [S] and place [3, S] of each token, as `TokenStream` has them."""
    if sample.clip is not None:
        return sample.clip, sample.position
    clip = index_clips(sample.modality, torch.zeros_like(sample.modality))
    return clip, places_in_clips(sample.position, sample.modality, clip, sample.seconds_per_position)
