"""A lesson: one clip as a compressor sees it, and which of its tokens the full-token model looks at. No labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnisift.chunks import build_stream
from omnisift.errors import CheckpointError, UsageError
from omnisift.media import Media
from omnisift.models import attach
from omnisift.models.question_attention import QuestionAttention
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality, TokenStream
from omnisift.utils.atomic_io import atomic_file
from omnisift.world.encoded import Recorder


@dataclass(frozen=True)
class Lesson:
    """One clip. ``S`` tokens up to the end of the media."""

    embeds: Tensor
    """[S, D], in the model's dtype."""
    modality: Tensor
    """[S] int8."""
    position: Tensor
    """[3, S] int64."""
    attention: Tensor
    """[S] float32: what the answer's place pays to each token, the largest over the questions."""
    seconds_per_position: float

    def save(self, path: Path) -> None:
        """Write it; the file appears only when it is whole."""
        tensors = {name: getattr(self, name).contiguous() for name in ("embeds", "modality", "position", "attention")}
        with atomic_file(path) as unfinished:
            save_file(tensors, str(unfinished), metadata={"about": json.dumps(self.seconds_per_position)})

    @classmethod
    def load(cls, path: Path) -> Lesson | None:
        """Read what `save` wrote; None if it is not there or torn."""
        try:
            with safe_open(str(path), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return cls(**tensors, seconds_per_position=json.loads(file.metadata()["about"]))
        except (FileNotFoundError, SafetensorError, TypeError, KeyError):
            return None


class DistillFiles(Sequence[Lesson]):
    """Lessons that stay on the disk until they are asked for: a thousand long clips don't fit into memory."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Lesson: ...
    @overload
    def __getitem__(self, index: slice) -> DistillFiles: ...
    def __getitem__(self, index: int | slice) -> Lesson | DistillFiles:
        """One lesson, read now; or some files. Raises `CheckpointError` if a file was lost or torn in the meantime."""
        if isinstance(index, slice):
            return DistillFiles(self.paths[index])
        lesson = Lesson.load(self.paths[index])
        if lesson is None:
            raise CheckpointError(f"{self.paths[index]} is gone or torn: run the same command again")
        return lesson

    def shuffled(self, seed: int) -> DistillFiles:
        """In an order drawn by ``seed``."""
        order = torch.randperm(len(self.paths), generator=torch.Generator().manual_seed(seed)).tolist()
        return DistillFiles([self.paths[place] for place in order])


def stream_of(lessons: Sequence[Lesson]) -> TokenStream:
    """Several lessons as one batch, a clip a row."""
    lengths = torch.tensor([len(lesson.modality) for lesson in lessons])
    return build_stream(
        embeds=torch.cat([lesson.embeds.float() for lesson in lessons]),
        modality=torch.cat([lesson.modality for lesson in lessons]),
        position=torch.cat([lesson.position for lesson in lessons], dim=1),
        sample=torch.arange(len(lessons)).repeat_interleave(lengths),
        seconds_per_position=lessons[0].seconds_per_position,
    )


@torch.inference_mode()
def observe(host: Host, media: Media, questions: Sequence[str], rows: str = "answer") -> Lesson:
    """Read ``questions`` about one clip with all tokens, forward only, and note what the model looks at from ``rows``.

    ``rows``: "answer", the place where the answer is due; or "question", the mean over all that follows the clip. The
    encoders run once, the language model once for each question. Raises `UsageError` for a clip without picture or
    without sound: there is nothing to choose by the picture.
    """
    if not (media.has_video and media.has_audio):
        raise UsageError(f"{media.path}: a clip needs picture and sound, or the selector has nothing to learn from it")
    inputs = build_inputs(host.processor, media, questions[0]).to(host.device, host.dtype)
    recorder = Recorder(needs=())
    with attach(host.thinker, recorder) as attachment:
        host.thinker(**inputs, use_cache=False)
        adapter = attachment.adapter
    stream = recorder.seen
    if stream is None:
        raise UsageError(f"{media.path}: its prompt has no video tokens")
    ids = inputs["input_ids"][0].cpu()
    end = int(torch.nonzero(stream.modality != int(Modality.TEXT)).max()) + 1
    listener, best = QuestionAttention(adapter.parts.language_model), torch.zeros(end)
    for question in questions:
        whole = torch.cat([ids[:end], _tail(host.processor, question, ids[end:])])
        places = torch.arange(end, len(whole)) if rows == "question" else torch.tensor([len(whole) - 1])
        seen = _looked_at(host, listener, adapter, stream.embeds[:end], whole, inputs, places)
        best = torch.maximum(best, seen[:end])
    position = stream.position[:, :end]
    return Lesson(stream.embeds[:end].cpu().clone(), stream.modality[:end].clone(), position.clone(), best,
                  adapter.seconds_per_position)  # fmt: skip


def _tail(processor: Any, question: str, own: Tensor) -> Tensor:
    """[T] int64: what follows the clip where ``question`` is asked; ``own`` follows it in the prompt that was read."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    eos = processor.vision_eos_token
    behind = processor.tokenizer(eos + text.rsplit(eos, 1)[1], add_special_tokens=False).input_ids
    first = int(behind[0])
    ends = torch.nonzero(own == first)
    return torch.cat([own[: int(ends[0])], torch.tensor(behind)])


def _looked_at(
    host: Host,
    listener: QuestionAttention,
    adapter: Any,
    media: Tensor,
    ids: Tensor,
    inputs: Mapping[str, Any],
    places: Tensor,
) -> Tensor:
    """[L] float32 on the CPU: mean attention of the ``places``."""
    embed = host.thinker.get_input_embeddings()
    tail = embed(ids[len(media) :].to(media.device))
    row = ids[None]
    position = adapter.position_ids(row, torch.ones_like(row, dtype=torch.bool), inputs).to(media.device)
    with listener.record(places):
        adapter.parts.language_model(
            inputs_embeds=torch.cat([media, tail])[None], position_ids=position, use_cache=False
        )
    return listener.weights().mean(dim=0).cpu()
