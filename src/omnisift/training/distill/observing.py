"""Observe which tokens of a clip the full-token model attends to when it reads questions about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from omnisift.budget import Budget, Counts
from omnisift.chunks import MICROSECONDS
from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.models import adapter_for, attach
from omnisift.models.host_arguments import read_positions, rotary_rows
from omnisift.models.question_attention import QuestionAttention
from omnisift.models.side_inputs import continued_side_inputs
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import build_inputs, placeholder, prompt_text
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.training.distill.samples import DistillSample

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
class ReadPrompt:
    """A prompt that a host read with all tokens, to be read again with other questions about its clip."""

    host: Host
    media: Media
    question: str
    stream: TokenStream
    input_ids: Tensor
    """[S] int64 on the CPU."""
    arguments: Mapping[str, Any]
    """Those of the language model, by name."""

    @classmethod
    def of(cls, host: Host, media: Media, question: str, needs: Iterable[str] = ()) -> ReadPrompt:
        """Read a question about a clip with a compressor that keeps everything, and note what it is given.

        Args:
            host: the model.
            media: the clip.
            question: what is asked.
            needs: names of the encoder attention that is recorded.

        Raises:
            UsageError: the prompt has no video.
        """
        inputs = build_inputs(host.processor, media, question).to(host.device, host.dtype)
        recorder, arguments = Recorder(needs), {}
        with attach(host.thinker, recorder) as attachment:
            attachment.frame_seconds = [media.seconds_per_grid]
            language_model = attachment.adapter.parts.language_model
            handle = language_model.register_forward_pre_hook(
                lambda _module, _args, kwargs: arguments.update(kwargs), with_kwargs=True
            )
            try:
                host.thinker(**inputs, use_cache=False)
            finally:
                handle.remove()
        if recorder.stream is None:
            raise UsageError(f"{media.path}: its prompt has no video tokens")
        return cls(host, media, question, recorder.stream, inputs["input_ids"][0].cpu(), arguments)

    @cached_property
    def end(self) -> int:
        """Number of tokens up to the end of the clip."""
        return int(torch.nonzero(self.stream.modality != int(Modality.TEXT)).max()) + 1

    @cached_property
    def _between(self) -> Tensor:
        """[T] int64: what the processor put between the clip and the text that follows it in the chat template."""
        return self.input_ids[self.end : len(self.input_ids) - len(self._text_after(self.question))]

    def attention(self, question: str, rows: str) -> Tensor:
        """[L] float32 on the CPU: attention to each token of the prompt with ``question``; ``rows`` as in `observe`."""
        adapter, end, device = adapter_for(self.host.thinker), self.end, self.stream.embeds.device
        text = torch.cat([self._between, self._text_after(question)])
        length = end + len(text)
        queries = torch.arange(end, length) if rows == "question" else torch.tensor([length - 1])
        tail = self.host.thinker.get_input_embeddings()(text.to(device))
        probe = QuestionAttention(adapter.parts.language_model)
        with probe.record(queries):
            adapter.parts.language_model(
                inputs_embeds=torch.cat([self.stream.embeds[:end], tail])[None],
                position_ids=self._positions(length).to(device),
                use_cache=False,
                **continued_side_inputs(self.arguments, adapter.side_inputs, end, len(text)),
            )
        return probe.weights().mean(dim=0).cpu()

    def _positions(self, length: int) -> Tensor:
        """[3, 1, length]: rotary positions of a prompt with another question; those of text count on by one."""
        read = read_positions(self.arguments.get("position_ids"), 1, len(self.input_ids))
        read = rotary_rows(read, 1, len(self.input_ids))[-3:]
        further = read[..., -1:] + 1 + torch.arange(max(0, length - read.shape[-1]))
        return torch.cat([read, further], dim=-1)[..., :length]

    def _text_after(self, question: str) -> Tensor:
        """[T] int64: the text that follows the clip in the chat template."""
        processor = self.host.processor
        text = prompt_text(processor, self.media, question).rsplit(placeholder(processor, self.media), 1)[1]
        return torch.tensor(processor.tokenizer(text, add_special_tokens=False).input_ids)


@torch.inference_mode()
def observe(host: Host, media: Media, questions: Sequence[str], rows: str = "answer") -> DistillSample:
    """Record which tokens of a clip the model attends to when it reads questions about it with all tokens.

    The encoders run once and the language model once per question, forward only.

    Args:
        host: the model that is observed.
        media: a clip with video, and with audio if the model takes audio.
        questions: what is asked.
        rows: query positions of the attention: ``answer``, where the answer begins, or ``question``, the mean over all
            tokens after the clip.

    Returns:
        The clip with the maximum attention over the questions.

    Raises:
        UsageError: the clip has no video, or no audio although the model takes it, so that nothing can be selected by
            the video.
    """
    if hears(host.processor) and not (media.has_video and media.has_audio):
        raise UsageError(f"{media.path}: a clip needs both video and audio to distill a selector from it")
    if not media.has_video:
        raise UsageError(f"{media.path}: a clip needs video to distill a video score from it")
    read = ReadPrompt.of(host, media, questions[0])
    largest = torch.zeros(read.end)
    # Read each question after the same clip embeddings.
    for question in questions:
        largest = torch.maximum(largest, read.attention(question, rows)[: read.end])
    stream, end = read.stream, read.end
    return DistillSample(
        embeds=stream.embeds[:end].cpu().clone(),
        modality=stream.modality[:end].clone(),
        position=stream.position[:, :end].clone(),
        attention=largest,
        seconds_per_position=1 / MICROSECONDS,
        clip=stream.clip[:end].clone(),
    )
