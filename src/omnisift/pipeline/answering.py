"""Answer questions about clips: open each clip, build its prompt, generate, and report what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from omnisift.compressors import Compressor
from omnisift.config import EncodingOptions
from omnisift.errors import UsageError
from omnisift.media import Media, MediaFile
from omnisift.models.attachment import model_lock
from omnisift.pipeline.context import check_context
from omnisift.pipeline.encoded_clip import EncodedClip, PromptRow, prompt_row, split_calls
from omnisift.pipeline.generation import Generated, generate_releasing
from omnisift.pipeline.loading import Host
from omnisift.pipeline.preparation import preparation_notices
from omnisift.pipeline.prompt import check_prompt
from omnisift.pipeline.report import Answer, Report, Seconds, notices_of, source_of
from omnisift.pipeline.stopwatch import timed
from omnisift.pipeline.windowed_clip import ALL_ENCODED, WindowedClip, open_clip
from omnisift.utils.questions import check_max_new_tokens

if TYPE_CHECKING:
    Clip = MediaFile | Media | EncodedClip


@dataclass(frozen=True)
class _Prompt:
    """A prompt that is ready for ``generate``, and what that took."""

    row: PromptRow
    compressor: Compressor | None
    """The method, which may depend on the length of the clip."""
    seconds: dict[str, float]
    peak_memory_bytes: int | None = None


def answer_prompts(
    host: Host,
    compressor: Compressor | None,
    encoding: EncodingOptions,
    prompts: Sequence[tuple[Clip, str]],
    reading: Mapping[str, Any],
    *,
    max_new_tokens: int,
    system: str | None,
    on_stage: Callable[[str], None] | None,
    on_text: Callable[[str], None] | None = None,
) -> list[Answer]:
    """Answer several questions.

    Args:
        host: the model.
        compressor: the method; None keeps every token.
        encoding: which video tokens are encoded.
        prompts: (clip, question) pairs.
        reading: the fields of `ReadOptions`, for clips that are not decoded.
        max_new_tokens: maximum number of generated tokens per answer.
        system: a system prompt; None sends none.
        on_stage: called with the name of each stage when it begins, and with ``window 3 of 225`` before those of a
            window.
        on_text: called with each piece of the answer as it is generated; for a single prompt only.

    Returns:
        One answer per prompt, in their order.

    Raises:
        MediaError: a file cannot be read as asked; `TooBig` also if a prompt exceeds the model's context.
        UsageError: a question is empty, an argument is out of range, or a clip was encoded by another model.
    """
    stage = on_stage or (lambda _name: None)
    for _, question in prompts:
        check_prompt(host.processor, question, system)
    check_max_new_tokens(max_new_tokens)
    opened = list[tuple[Media | EncodedClip, float]]()
    try:
        # Decode the clips; long ones are only opened.
        stage("read")
        opened += (timed(_open, host, compressor, encoding, clip, reading) for clip, _ in prompts)
        # Threads wait for each other: neither the processor nor the hooks take two questions at a time.
        with model_lock(host.thinker):
            # Build each prompt alone, and compress those of long clips.
            stage("process")
            ready = [
                _prompt(host, compressor, encoding, clip, question, system, max_new_tokens, stage)
                for (clip, _), (_, question) in zip(opened, prompts, strict=True)
            ]
            # Generate, and report each answer.
            answers: dict[int, Answer] = {}
            for indices in split_calls([prompt.row for prompt in ready], compressor):
                call = [ready[index].row for index in indices]
                method = ready[indices[0]].compressor
                options = {"max_new_tokens": max_new_tokens, "on_stage": stage, "on_text": on_text}
                for index, answer in zip(indices, generate_releasing(host, method, call, **options), strict=True):
                    # A clip that was encoded before is not opened again, unless the method needs all of it.
                    clip, opening = opened[index]
                    seconds = 0.0 if clip is prompts[index][0] else opening
                    answers[index] = _answer(host, ready[index], answer, seconds)
    finally:
        # A clip that the caller encoded has no open file, unless another thread reads it.
        given = {id(clip) for clip, _ in prompts}
        for clip, _ in opened:
            if isinstance(clip, WindowedClip) and id(clip) not in given:
                clip.close()
    return [answers[index] for index in range(len(prompts))]


def _open(
    host: Host, compressor: Compressor | None, encoding: EncodingOptions, clip: Clip, reading: Mapping[str, Any]
) -> Media | EncodedClip:
    if isinstance(clip, WindowedClip):
        return clip.for_method(compressor)
    if not isinstance(clip, EncodedClip):
        return open_clip(host, compressor, clip, reading, encoding)
    if encoding != ALL_ENCODED:
        raise UsageError(
            "the clip was encoded by a pipeline without retain_encoded or still_threshold: encode it with this one, or "
            "ask about its path"
        )
    return clip


def _prompt(
    host: Host,
    compressor: Compressor | None,
    encoding: EncodingOptions,
    clip: Media | EncodedClip,
    question: str,
    system: str | None,
    max_new_tokens: int,
    on_stage: Callable[[str], None],
) -> _Prompt:
    method = clip.method(compressor) if isinstance(clip, WindowedClip) else compressor
    row, seconds = timed(prompt_row, host, method, clip, question, system)
    check_context(host, method, row, max_new_tokens)
    if not isinstance(clip, WindowedClip) or method is None:
        return _Prompt(row, method, {"process": seconds})
    short, spent, peak = clip.shortened(row, method, encoding, on_stage)
    if short.key is not None:
        short = replace(short, key=(*short.key, encoding))
    return _Prompt(short, method, {**spent, "process": spent.get("process", 0.0) + seconds}, peak)


def _answer(host: Host, prompt: _Prompt, answer: Generated, read_seconds: float) -> Answer:
    """An answer with its report."""
    parts = {"read": read_seconds}, prompt.seconds, answer.seconds
    seconds = Seconds(**{stage: sum(part.get(stage, 0.0) for part in parts) for stage in ("read", *answer.seconds)})
    row, compressor = prompt.row, prompt.compressor
    if row.clip is not None and row.clip.encoding_seconds is None:
        row.clip.encoding_seconds = row.clip.read_seconds + seconds.process + seconds.encode
    keeps_audio = compressor is not None and not compressor.budget.compress_audio
    peaks = [peak for peak in (prompt.peak_memory_bytes, answer.peak_memory_bytes) if peak is not None]
    report = Report(
        model=host.name,
        compressor="none" if compressor is None else compressor.label,
        compressor_reason="" if compressor is None else compressor.reason,
        budget=None if compressor is None else compressor.budget,
        tokens=answer.tokens,
        seconds=seconds,
        source=source_of(row.media),
        peak_memory_bytes=max(peaks, default=None),
        cached_tokens=answer.cached_tokens,
        encoded_tokens=_encoded_tokens(row, answer),
        notices=(
            *answer.notices,
            *notices_of(row.media, is_nano=host.is_nano, keeps_audio=keeps_audio),
            *preparation_notices(host.processor, row.media),
        ),
    )
    return Answer(answer.text, report, answer.thinking)


def _encoded_tokens(row: PromptRow, answer: Generated) -> int | None:
    """Video tokens that were encoded, if not all of them were."""
    count = answer.tokens.video if row.short is None else row.short.encoded_tokens
    return count if count < answer.tokens.video else None
