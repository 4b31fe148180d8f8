"""Test clips as a compressor meets them: encoded once by the real model, then kept on the disk for every method.

Each clip goes through a real .mp4 file, the library's reader, the processor and the model's own encoders. What is kept
is what the adapter hands to a compressor (`TokenStream`): so all methods of a table see the same tokens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import build_stream
from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.media import read
from omnisift.models import attach
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Selection, TokenStream
from omnisift.utils.atomic_io import atomic_file
from omnisift.world import Scene, write_clip

EXTRAS = ("audio_attention", "audio_attention_window", "video_attention")
"""What methods may need beside the embeddings; recorded for all clips."""


@dataclass(frozen=True)
class Encoded:
    """``N`` clips whose prompts have the same layout: ``S`` tokens from the start of the prompt to the clip's end."""

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

    def __len__(self) -> int:
        return len(self.embeds)

    def stream(self) -> TokenStream:
        """All clips as one batch, a clip a row."""
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
        """Some clips of these, as views."""
        here = slice(first, first + count)
        extras = {name: values[here] for name, values in self.extras.items()}
        return Encoded(self.embeds[here], self.modality, self.position, self.ids, extras, self.seconds_per_position)

    def take(self, rows: Sequence[int]) -> Encoded:
        """Some clips of these, in this order, as a copy."""
        index = torch.tensor(list(rows))
        extras = {name: values[index] for name, values in self.extras.items()}
        return Encoded(self.embeds[index], self.modality, self.position, self.ids, extras, self.seconds_per_position)

    def save(self, path: Path) -> None:
        """Write all of it; the file appears only when it is whole."""
        tensors = {"embeds": self.embeds, "modality": self.modality, "position": self.position, "ids": self.ids}
        tensors |= {f"extra.{name}": values for name, values in self.extras.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"seconds_per_position": repr(self.seconds_per_position)}
        with atomic_file(path) as unfinished:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(unfinished), metadata=about)

    @classmethod
    def join(cls, parts: Sequence[Encoded]) -> Encoded:
        """Clips of one layout, one after the other."""
        first = parts[0]
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in first.extras}
        embeds = torch.cat([part.embeds for part in parts])
        return cls(embeds, first.modality, first.position, first.ids, extras, first.seconds_per_position)

    @classmethod
    def load(cls, path: Path) -> Encoded:
        """Read what `save` wrote."""
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            seconds = float(file.metadata()["seconds_per_position"])
        extras = {name.removeprefix("extra."): value for name, value in tensors.items() if name.startswith("extra.")}
        return cls(tensors["embeds"], tensors["modality"], tensors["position"], tensors["ids"], extras, seconds)


class Recorder(Compressor):
    """Keeps every token, and the stream that it was shown."""

    name: ClassVar[str] = "recorder"

    def __init__(self, needs: Iterable[str] = EXTRAS) -> None:
        super().__init__(Budget(retain=1.0))
        self.needs = frozenset(needs)
        self.seen: TokenStream | None = None

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Everything."""
        self.seen = stream
        return Selection(torch.ones(len(stream), dtype=torch.bool, device=stream.embeds.device))


@torch.inference_mode()
def encode_scenes(host: Any, scenes: Sequence[Scene]) -> Encoded:
    """Write, read and encode the clips of ``scenes``. ``host`` is a loaded model (`omnisift.pipeline`)."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [_encode(host, scene, Path(folder) / "clip.mp4") for scene in scenes]
    first = rows[0]
    for row in rows:
        if not (torch.equal(row.modality, first.modality) and torch.equal(row.position, first.position)):
            raise UsageError("clips of one set must have one length and one picture size, so that they form batches")
    return Encoded.join(rows)


def _encode(host: Any, scene: Scene, path: Path) -> Encoded:
    write_clip(scene, path)
    size = host.processor.video_processor.size
    media = read(path, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
    inputs = build_inputs(host.processor, media, "?")
    recorder = Recorder(EXTRAS if media.has_audio else [name for name in EXTRAS if not name.startswith("audio")])
    with attach(host.thinker, recorder) as attachment:
        host.thinker(**inputs, use_cache=False)
        seconds = attachment.adapter.seconds_per_position
    stream, ids = recorder.seen, inputs["input_ids"][0]
    if stream is None:
        raise UsageError(f"clip {scene.seed} of split {scene.split} has no picture that a compressor could cut")
    end = host.processor.tokenizer.convert_tokens_to_ids(host.processor.vision_eos_token)
    length = int(torch.nonzero(ids == end)[-1]) + 1
    extras = {name: stream.extras[name][None, :length] if name in stream.extras else torch.zeros(1, length)
              for name in EXTRAS}  # fmt: skip
    return Encoded(
        stream.embeds[None, :length],
        stream.modality[:length],
        stream.position[:, :length],
        ids[:length],
        extras,
        seconds,
    )
