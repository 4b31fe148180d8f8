"""Ask about one clip with every method, and record what each compressor decided."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.chunks import MICROSECONDS
from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.inspector.columns import audio_only_tokens, chunks_of, clip_tokens, grid_of, method_selection
from omnisift.inspector.evidence import evidence_of, find_scene, has_labels
from omnisift.inspector.lines import trace_lines
from omnisift.inspector.trace import ClipTokens, MethodSelection, MethodTrace, Trace, TraceEvidence
from omnisift.media import SAMPLE_RATE, Media, MediaFile
from omnisift.media.sampling import Sampling
from omnisift.media.subtitles import TextKind
from omnisift.media.units import TEMPORAL_PATCH
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.models import adapter_for
from omnisift.models.attachment import model_lock
from omnisift.pipeline import Answer, Pipeline
from omnisift.pipeline.clip_format import ClipFormat, frame_seconds
from omnisift.pipeline.encoded_clip import EncodedClip, prompt_row
from omnisift.pipeline.held_prompt import HeldPrompt
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import audio_items
from omnisift.tokens import Selection, TokenStream
from omnisift.world import Scene, count_kept, questions
from omnisift.world.files import COMMENT

ALL = "none"
"""Name of the run that reads every token; always the first of a trace."""
DEFAULT_QUESTION = "Describe what is seen and heard."
ENCODED_ONCE = "the clip is encoded once: only the first answer's time includes the encoders"

Decision = tuple[ClipTokens, MethodSelection]
"""The tokens of the clip, and what a method did with them. It is the same for all questions."""


@dataclass(frozen=True)
class Inspection:
    """A trace, and the clip as the model was given it."""

    trace: Trace
    media: Media
    mel: NDArray[np.float32] | None
    """[bands, T] log-mel spectrogram of the processor, 100 columns per second; None without audio. For models that read
    the waveform itself, the logarithm of the power of each piece of it."""
    images_per_frame: int = TEMPORAL_PATCH
    """Images of a frame of the token grid."""


def inspect_clip(
    host: Host,
    methods: Mapping[str, Compressor],
    path: MediaFile | Media | EncodedClip,
    question: str | None = None,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    read_timeout: float = READ_TIMEOUT,
    text: TextKind = None,
    max_new_tokens: int = 256,
    on_stage: Callable[[str], None] | None = None,
) -> Inspection:
    """Ask a question about a clip with all its tokens and with each of ``methods``.

    The clip is decoded once. Each method is then asked by `Pipeline.ask`, encoders included, so that its stage times
    are those of a single question; a forward hook records the compressor's input and output.

    Args:
        host: a loaded model (`omnisift.pipeline.loading.load_host`).
        methods: name -> method. ``none`` (all tokens) is always run and must not be among them.
        path: the clip, as `Pipeline.read` takes it; or a clip encoded by ``host``, which is sampled already: then only
            the first question runs the encoders, and a notice says so.
        question: None asks about a sound in generated clips, and for a description of all others.
        fps: frames sampled per second.
        max_frames: maximum number of frames; None means 256, or 768 with ``qwen`` sampling.
        max_pixels: maximum pixels per frame.
        sampling: ``time``, or ``qwen`` for the index rule of published results.
        max_decoded_pixels: maximum pixels of all frames that are decoded for the clip.
        read_timeout: maximum seconds to read the clip.
        text: ``subtitles`` puts the lines of the file beside the clip, or of its text track, into the prompt.
        max_new_tokens: maximum number of generated tokens.
        on_stage: called with the name of each stage when it begins.

    Returns:
        The trace with the decoded clip.

    Raises:
        MediaError: the clip cannot be read.
        UsageError: ``methods`` is empty or contains ``none``, or the question is empty.
    """
    if not methods or ALL in methods:
        raise UsageError(f"name at least one method, and not {ALL!r}: the run with all tokens is always included")
    (on_stage or (lambda _stage: None))("read")
    begin = time.perf_counter()
    clip: Media | EncodedClip
    if isinstance(path, EncodedClip):
        clip, media, notices = path, path.media, [ENCODED_ONCE]
    else:
        media = Pipeline(host, None).read(
            path,
            fps=fps,
            max_frames=max_frames,
            max_pixels=max_pixels,
            sampling=sampling,
            max_decoded_pixels=max_decoded_pixels,
            read_timeout=read_timeout,
            text=text,
        )
        clip, notices = media, []
    read_seconds = time.perf_counter() - begin
    scene = find_scene(media)
    question = _default_question(scene) if question is None else question
    ask = partial(Pipeline.ask, question=question, max_new_tokens=max_new_tokens, on_stage=on_stage)
    answers: dict[str, Answer] = {}
    decisions: dict[str, Decision] = {}
    for name, compressor in {ALL: None, **methods}.items():
        known = _known_decision(host, compressor, clip, question)
        # A long clip would be compressed window by window, where no call has all tokens.
        given = clip if isinstance(clip, EncodedClip) else EncodedClip(host, clip, hold_bytes=0)
        with _recorded(compressor) as calls:
            answers[name] = _with_read_time(ask(Pipeline(host, compressor), media=given), read_seconds)
        if calls and compressor is not None:
            known = _decision(compressor, *calls[-1], _audio_seconds(host))
            if (held := _held(host, compressor, clip, question)) is not None:
                held.memo["decision"] = known
        if known is not None:
            decisions[name] = known
    trace = _trace(host, question, answers, decisions, media, scene, notices)
    return Inspection(trace, media, _mel(host, media), ClipFormat.of(host.processor).images)


def _trace(
    host: Host,
    question: str,
    answers: Mapping[str, Answer],
    decisions: Mapping[str, Decision],
    media: Media,
    scene: Scene | None,
    notices: Iterable[str],
) -> Trace:
    report = answers[ALL].report
    tokens = _tokens(decisions, report.tokens.audio, _audio_seconds(host))
    scene = scene if scene is not None and has_labels(scene, tokens) else None
    evidence = None if scene is None else evidence_of(scene, question, tokens)
    grid = grid_of(tokens, (frame_seconds(host.processor, [media]) or [0.0])[0])
    return Trace(
        model=host.name,
        question=question,
        clip=report.source,
        grid=grid,
        tokens=tokens,
        chunks=chunks_of(tokens, grid, media.seconds),
        methods=_method_traces(answers, decisions, tokens, evidence),
        evidence=evidence,
        notices=(*_notices(answers.values(), media, scene, evidence), *notices),
        lines=trace_lines(host.processor, media, tokens),
    )


def _method_traces(
    answers: Mapping[str, Answer],
    decisions: Mapping[str, Decision],
    tokens: ClipTokens,
    evidence: TraceEvidence | None,
) -> tuple[MethodTrace, ...]:
    """Each answer with its method's decision; every token was read where no compressor was called."""
    traces = []
    for name, answer in answers.items():
        selection = decisions[name][1] if name in decisions else None
        kept = np.ones(len(tokens), bool) if selection is None else selection.kept
        counts = None if evidence is None else count_kept([event.tokens for event in evidence.events], kept)
        traces.append(MethodTrace(name, answer, selection, counts))
    return tuple(traces)


def _with_read_time(answer: Answer, seconds: float) -> Answer:
    """The answer with the time of the one decoding that all answers share."""
    times = replace(answer.report.seconds, read=seconds)
    return replace(answer, report=replace(answer.report, seconds=times))


@contextmanager
def _recorded(compressor: Compressor | None) -> Iterator[list[tuple[TokenStream, Selection]]]:
    """Record the input and the output of each call to the compressor."""
    calls: list[tuple[TokenStream, Selection]] = []
    if compressor is None:
        yield calls
        return

    def note(_module: Any, args: tuple[TokenStream], output: Selection) -> None:
        calls.append((args[0], output))

    handle = compressor.register_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


def _decision(compressor: Compressor, stream: TokenStream, selection: Selection, audio_seconds: float) -> Decision:
    """The columns of what the compressor was shown, and of what it returned."""
    tokens = clip_tokens(stream, audio_seconds)
    return tokens, method_selection(compressor, stream, selection, tokens)


def _known_decision(
    host: Host, compressor: Compressor | None, clip: Media | EncodedClip, question: str
) -> Decision | None:
    """The decision of a held prompt. One whose decision was not recorded is dropped, so that it is made again."""
    held = None if compressor is None else _held(host, compressor, clip, question)
    if held is None or not isinstance(clip, EncodedClip):
        return None
    if "decision" not in held.memo:
        clip.held.clear()
    known: Decision | None = held.memo.get("decision")
    return known


def _held(host: Host, compressor: Compressor, clip: Media | EncodedClip, question: str) -> HeldPrompt | None:
    """What a clip holds for a method."""
    if not isinstance(clip, EncodedClip) or not len(clip.held):
        return None
    with model_lock(host.thinker):
        return clip.held.find(prompt_row(host, compressor, clip, question).key)


def _tokens(decisions: Mapping[str, Decision], audio: int, audio_seconds: float) -> ClipTokens:
    """Columns of any of the methods, which see one layout; from the audio count where no compressor was called."""
    for tokens, _ in decisions.values():
        return tokens
    return audio_only_tokens(audio, audio_seconds)


def _notices(
    answers: Iterable[Answer], media: Media, scene: Scene | None, evidence: TraceEvidence | None
) -> tuple[str, ...]:
    """The notices of all answers without repetition, and why a generated clip has no evidence."""
    notices = [notice for answer in answers for notice in answer.report.notices]
    if scene is None and media.tags.get("comment", "").startswith(COMMENT):
        notices.append(
            "no evidence: the clip names a generated scene but does not match it as it was sampled for this model"
        )
    elif scene is not None and evidence is None:
        notices.append("no evidence: the question is not one of the generated questions about this clip")
    return tuple(dict.fromkeys(notices))


def _default_question(scene: Scene | None) -> str:
    """The question that `omnisift make-clip` suggests for a generated clip, where it can be asked."""
    if scene is None:
        return DEFAULT_QUESTION
    types = ["sound_with"] if scene.sounds and scene.shapes else None
    return questions(scene, np.random.default_rng(scene.seed), types)[0].text


def _audio_seconds(host: Host) -> float:
    """Duration of one audio token; 1.0 for a model that takes no audio."""
    return float(getattr(adapter_for(host.thinker), "audio_step", MICROSECONDS)) / MICROSECONDS


def _mel(host: Host, media: Media) -> NDArray[np.float32] | None:
    """The spectrogram that the audio encoder is given."""
    if media.waveform is None:
        return None
    extract = host.processor.feature_extractor
    # Gemma 4 has a row for each time, and its unified model reads pieces of the waveform.
    if ClipFormat.of(host.processor).audio_apart:
        parts = [
            extract([item], sampling_rate=SAMPLE_RATE, truncation=False, return_tensors="np")["input_features"][0]
            for item in audio_items(media)
        ]
        rows = np.concatenate(parts)
        if not hasattr(extract, "hop_length"):
            rows = np.log(np.abs(np.fft.rfft(rows)) ** 2 + 1e-6)
        return np.asarray(rows.T, dtype=np.float32)
    features = extract(media.waveform, sampling_rate=SAMPLE_RATE, truncation=False, return_tensors="np")
    columns = -(-len(media.waveform) // extract.hop_length)
    return np.asarray(features["input_features"][0][:, :columns], dtype=np.float32)
