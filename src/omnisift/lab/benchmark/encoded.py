"""Encoded clips: the input of compressors, computed once by the model and stored for all methods.

Each clip is written as .mp4, read by the library's reader, and encoded by the processor and the model's encoders. The
stored tensors are those that the adapter passes to a compressor (`TokenStream`), so all methods get the same tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from omnisift.chunks import build_stream
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.pipeline.prompt import read_for
from omnisift.tokens import TokenStream
from omnisift.training.distill.observing import EXTRAS, ReadPrompt
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.safetensors_files import open_safetensors
from omnisift.world import Scene, write_clip


@dataclass(frozen=True)
class Encoded:
    """``N`` clips of one layout: ``S`` tokens from the start of the prompt to the end of the clip."""

    embeds: Tensor
    """[N, S, D] float32."""
    modality: Tensor
    """[S] int8, as in `TokenStream`."""
    position: Tensor
    """[3, S] int64: the host's rotary ids."""
    ids: Tensor
    """[S] int64: token ids."""
    extras: dict[str, Tensor]
    """Name -> [N, S] float32."""
    seconds_per_position: float
    deep: Tensor | None = None
    """[N, levels, V, D] float32: what enters the language model with the V video tokens after its first layers; None
    for a host without deepstack."""

    def __len__(self) -> int:
        return len(self.embeds)

    def stream(self) -> TokenStream:
        """Return all clips as one batch, one sample per clip."""
        count, length = self.embeds.shape[:2]
        return build_stream(
            embeds=self.embeds.flatten(0, 1),
            modality=self.modality.repeat(count),
            position=self.position.repeat(1, count),
            sample=torch.arange(count).repeat_interleave(length),
            seconds_per_position=self.seconds_per_position,
            extras={name: values.flatten() for name, values in self.extras.items()},
        )

    def part(self, first: int, count: int) -> Encoded:
        """Return ``count`` clips from clip ``first`` on, as views."""
        return self._rows(slice(first, first + count))

    def take(self, rows: Sequence[int]) -> Encoded:
        """Return the clips ``rows`` in this order, as a copy."""
        return self._rows(torch.tensor(list(rows)))

    def _rows(self, index: Any) -> Encoded:
        extras = {name: values[index] for name, values in self.extras.items()}
        deep = None if self.deep is None else self.deep[index]
        return replace(self, embeds=self.embeds[index], extras=extras, deep=deep)

    def save(self, path: Path) -> None:
        """Write a safetensors file atomically."""
        tensors = {"embeds": self.embeds, "modality": self.modality, "position": self.position, "ids": self.ids}
        tensors |= {f"extra.{name}": values for name, values in self.extras.items()}
        if self.deep is not None:
            tensors["deep"] = self.deep
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"seconds_per_position": repr(self.seconds_per_position)}
        with atomic_file(path) as unfinished:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(unfinished), metadata=metadata)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Concatenate clips of one layout."""
        first = parts[0]
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in first.extras}
        embeds = torch.cat([part.embeds for part in parts])
        deep = None if first.deep is None else torch.cat([part.deep for part in parts if part.deep is not None])
        return replace(first, embeds=embeds, extras=extras, deep=deep)

    @classmethod
    def load(cls, path: Path) -> Encoded:
        """Read a file of `save`."""
        with open_safetensors(path) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            seconds = float(file.metadata()["seconds_per_position"])
        extras = {name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")}
        embeds, modality, position, ids = (tensors[name] for name in ("embeds", "modality", "position", "ids"))
        return cls(embeds, modality, position, ids, extras, seconds, tensors.get("deep"))


@torch.inference_mode()
def encode_scenes(
    host: Any,
    scenes: Sequence[Scene],
    fps: float = 2.0,
    max_pixels: int | None = None,
    files: Path | None = None,
    seen: Callable[[Media], Media] = lambda media: media,
) -> Encoded:
    """Write, read and encode the clips of scenes.

    Args:
        host: A loaded model (`omnisift.pipeline.loading.Host`).
        scenes: Scenes of one length and size.
        fps: Images read per second.
        max_pixels: Maximum pixels per image.
        files: Folder that keeps the files of the clips, for a caller that reads them more than once.
        seen: What is done to a clip after it is read.

    Raises:
        UsageError: The clips have different layouts.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if files is None else files
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for scene in scenes:
            path = folder / f"{scene.fingerprint()}.mp4"
            rows.append(_encode(host, scene, path, fps, max_pixels, seen))
            if files is None:
                path.unlink()
    first = rows[0]
    for row in rows:
        if not (torch.equal(row.modality, first.modality) and torch.equal(row.position, first.position)):
            raise UsageError("all clips must have the same length and frame size, so that they form batches")
    return Encoded.join(rows)


def _encode(
    host: Any, scene: Scene, path: Path, fps: float, max_pixels: int | None, seen: Callable[[Media], Media]
) -> Encoded:
    # A file that an earlier condition left is named by its contents.
    if not path.is_file():
        write_clip(scene, path)
    media = seen(read_for(host.processor, path, fps=fps, max_pixels=max_pixels))
    names = EXTRAS if media.has_audio else [name for name in EXTRAS if not name.startswith("audio")]
    prompt = ReadPrompt.of(host, media, "?", names)
    stream, ids = prompt.stream, prompt.input_ids
    end = host.processor.tokenizer.convert_tokens_to_ids(host.processor.vision_eos_token)
    length = int(torch.nonzero(ids == end)[-1]) + 1
    extras = {name: stream.extras[name][None, :length] if name in stream.extras else torch.zeros(1, length)
              for name in EXTRAS}  # fmt: skip
    deep = prompt.arguments.get("deepstack_visual_embeds")
    return Encoded(
        stream.embeds[None, :length],
        stream.modality[:length],
        prompt.arguments["position_ids"][-3:, 0, :length],
        ids[:length],
        extras,
        1 / host.thinker.config.position_id_per_seconds,
        None if deep is None else torch.stack(list(deep))[None],
    )
