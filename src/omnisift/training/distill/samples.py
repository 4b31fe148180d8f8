"""`DistillSample`: one clip as a compressor sees it, with the attention of the full-token model; no labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import MICROSECONDS, build_stream
from omnisift.compressors import Compressor
from omnisift.errors import CheckpointError, UsageError
from omnisift.media import Media
from omnisift.models import attach
from omnisift.models.question_attention import QuestionAttention
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.utils.atomic_io import atomic_file

EXTRAS = ("audio_attention", "audio_attention_window", "video_attention")
"""Encoder attention that methods can need in addition to embeddings; recorded for all clips."""


class Recorder(Compressor):
    """Keep every token, and store the stream in ``stream``."""

    name: ClassVar[str] = "recorder"

    def __init__(self, needs: Iterable[str] = EXTRAS) -> None:
        super().__init__(Budget(retain=1.0))
        self.needs = frozenset(needs)
        self.stream: TokenStream | None = None

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Select all tokens."""
        self.stream = stream
        return Selection(torch.ones(len(stream), dtype=torch.bool, device=stream.embeds.device))


@dataclass(frozen=True)
class DistillSample:
    """One clip; ``S`` is the number of tokens up to the end of the media."""

    embeds: Tensor
    """[S, D], in the model's dtype."""
    modality: Tensor
    """[S] int8."""
    position: Tensor
    """[3, S] int64: time, row and column, as in `TokenStream.position` or as rotary ids."""
    attention: Tensor
    """[S] float32: attention that each token receives from the answer position, maximum over the questions."""
    seconds_per_position: float
    """Seconds per step of the time axis of ``position``."""

    def save(self, path: Path) -> None:
        """Write a safetensors file; it appears only when it is complete."""
        tensors = {name: getattr(self, name).contiguous() for name in ("embeds", "modality", "position", "attention")}
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
    # Files of earlier versions count time in rotary ids, later ones in microseconds.
    position = torch.cat([sample.position.double() for sample in samples], dim=1)
    position[0] *= torch.tensor([sample.seconds_per_position for sample in samples]).double().repeat_interleave(lengths)
    return build_stream(
        embeds=torch.cat([sample.embeds.float() for sample in samples]),
        modality=torch.cat([sample.modality for sample in samples]),
        position=position,
        sample=torch.arange(len(samples)).repeat_interleave(lengths),
        seconds_per_position=1.0,
    )


@torch.inference_mode()
def observe(host: Host, media: Media, questions: Sequence[str], rows: str = "answer") -> DistillSample:
    """Record which tokens of a clip the model attends to when it reads questions about it with all tokens.

    The encoders run once and the language model once per question, forward only.

    Args:
        host: the model that is observed.
        media: a clip with video and audio.
        questions: what is asked.
        rows: query positions of the attention: ``answer``, where the answer begins, or ``question``, the mean over all
            tokens after the clip.

    Returns:
        The clip with the maximum attention over the questions.

    Raises:
        UsageError: the clip has no video or no audio, so that nothing can be selected by the video.
    """
    if not (media.has_video and media.has_audio):
        raise UsageError(f"{media.path}: a clip needs both video and audio to distill a selector from it")
    # Run the host once with a compressor that keeps everything, and take the token stream that it is given.
    inputs = build_inputs(host.processor, media, questions[0]).to(host.device, host.dtype)
    recorder = Recorder(needs=())
    with attach(host.thinker, recorder) as attachment:
        host.thinker(**inputs, use_cache=False)
        adapter, position_ids = attachment.adapter, attachment.position_ids
    stream = recorder.stream
    if stream is None or position_ids is None:
        raise UsageError(f"{media.path}: its prompt has no video tokens")
    input_ids = inputs["input_ids"][0].cpu()
    end = int(torch.nonzero(stream.modality != int(Modality.TEXT)).max()) + 1
    probe, largest = QuestionAttention(adapter.parts.language_model), torch.zeros(end)
    # Read each question after the same clip embeddings.
    for question in questions:
        prompt = torch.cat([input_ids[:end], _tail(host.processor, question, input_ids[end:])])
        queries = torch.arange(end, len(prompt)) if rows == "question" else torch.tensor([len(prompt) - 1])
        attention = _attention_from(queries, host, probe, adapter, stream.embeds[:end], prompt, position_ids[-3:])
        largest = torch.maximum(largest, attention[:end])
    position = stream.position[:, :end]
    return DistillSample(stream.embeds[:end].cpu().clone(), stream.modality[:end].clone(), position.clone(), largest,
                         1 / MICROSECONDS)  # fmt: skip


def _tail(processor: Any, question: str, after_clip: Tensor) -> Tensor:
    """[T] int64: what follows the clip with ``question``; ``after_clip`` follows it in the prompt that was read."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    text = render_chat(processor, conversation, add_generation_prompt=True)
    eos = processor.vision_eos_token
    tail = processor.tokenizer(eos + text.rsplit(eos, 1)[1], add_special_tokens=False).input_ids
    ends = torch.nonzero(after_clip == int(tail[0]))
    return torch.cat([after_clip[: int(ends[0])], torch.tensor(tail)])


def _attention_from(
    queries: Tensor,
    host: Host,
    probe: QuestionAttention,
    adapter: Any,
    media: Tensor,
    prompt: Tensor,
    read: Tensor,
) -> Tensor:
    """[L] float32 on the CPU: mean attention from the positions ``queries`` of ``prompt`` [L].

    ``read`` [3, 1, S] are the rotary positions of the prompt that was read, which differs in the question alone.
    """
    embed = host.thinker.get_input_embeddings()
    tail = embed(prompt[len(media) :].to(media.device))
    # The positions of text count on by one.
    further = read[..., -1:] + 1 + torch.arange(max(0, len(prompt) - read.shape[-1]))
    position_ids = torch.cat([read, further], dim=-1)[..., : len(prompt)].to(media.device)
    with probe.record(queries):
        adapter.parts.language_model(
            inputs_embeds=torch.cat([media, tail])[None], position_ids=position_ids, use_cache=False
        )
    return probe.weights().mean(dim=0).cpu()
