"""Ask one clip with every method, and record what each decided while it answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnisift.compressors import Compressor
from omnisift.errors import UsageError
from omnisift.inspector.decision import selected_by
from omnisift.inspector.evidence import evidence_of, find_scene, recall
from omnisift.inspector.layout import chunks_of, grid_of, tokens_of, tokens_of_sound
from omnisift.inspector.trace import Asked, Evidence, Tokens, Trace
from omnisift.media import SAMPLE_RATE, Media
from omnisift.pipeline import Answer, Pipeline
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.loading import Host
from omnisift.tokens import Selection, TokenStream
from omnisift.world import Scene, questions
from omnisift.world.files import COMMENT

ALL = "none"
"""The name of the way that reads every token; always in a trace, and always first."""
DEFAULT_QUESTION = "Describe what is seen and heard."
HELD = "the clip is encoded once and kept: times of all but the first question to it are without the encoders"


@dataclass(frozen=True)
class Inspection:
    """A trace, and the clip as the model was given it."""

    trace: Trace
    media: Media
    mel: NDArray[np.float32] | None
    """[bands, T] log-mel spectrogram of the processor, 100 columns a second; None without sound."""


def inspect_clip(
    host: Host,
    methods: Mapping[str, Compressor],
    path: str | Path | EncodedClip,
    question: str | None = None,
    *,
    max_new_tokens: int = 256,
    on_stage: Callable[[str], None] | None = None,
    **reading: Any,
) -> Inspection:
    """Ask ``question`` about a clip with all its tokens and with each of ``methods``.

    The clip is decoded once. Each method is then asked by `Pipeline.ask` as anyone would, encoders included, so that
    its stage times are those of a question; a hook notes what the compressor was shown and what it said.

    Args:
        host: a loaded model (`omnisift.pipeline.loading.load_host`).
        methods: name -> method. ``none`` may not be among them: it is asked anyway.
        path: the clip; or one held by ``host``, then ``reading`` is settled, only the first question to it runs the
            encoders, and a notice says so.
        question: None asks clips of the invented world about a sound, others for a description.
        max_new_tokens: most tokens of an answer.
        on_stage: called with the name of each stage as it begins.
        reading: as in `Pipeline.read`: ``fps``, ``max_frames``, ``max_pixels``, ``sampling``.

    Raises:
        MediaError: the clip can't be read.
        UsageError: no method, ``none`` among them, or an empty question.
    """
    if not methods or ALL in methods:
        raise UsageError(f"name methods to inspect, and not {ALL!r}: all tokens are asked anyway")
    (on_stage or (lambda _stage: None))("read")
    begin = time.perf_counter()
    clip = path if isinstance(path, EncodedClip) else Pipeline(host, None).read(path, **reading)
    media = clip.media if isinstance(clip, EncodedClip) else clip
    seconds = time.perf_counter() - begin
    scene = find_scene(media)
    question = _default_question(scene) if question is None else question
    asking = {"question": question, "max_new_tokens": max_new_tokens, "on_stage": on_stage}
    full = _ask(Pipeline(host, None), clip, seconds, asking)
    seen: dict[str, tuple[TokenStream, Selection]] = {}
    answers = {ALL: full}
    for name, compressor in methods.items():
        with _recorded(compressor) as calls:
            answers[name] = _ask(Pipeline(host, compressor), clip, seconds, asking)
        if calls:
            seen[name] = calls[-1]
    tokens = _tokens(seen, full.report.tokens.audio, 1.0 / float(host.thinker.config.position_id_per_seconds))
    evidence = None if scene is None else evidence_of(scene, question, tokens)
    grid = grid_of(tokens, media.seconds_per_grid)
    trace = Trace(
        model=host.name,
        question=question,
        clip=full.report.source,
        grid=grid,
        tokens=tokens,
        chunks=chunks_of(tokens, grid, media.seconds),
        methods=_asked(answers, methods, seen, tokens, evidence),
        evidence=evidence,
        notices=(*_notices(answers.values(), media, scene, evidence), *([HELD] if clip is not media else [])),
    )
    return Inspection(trace, media, _mel(host, media))


def _asked(
    answers: Mapping[str, Answer],
    methods: Mapping[str, Compressor],
    seen: Mapping[str, tuple[TokenStream, Selection]],
    tokens: Tokens,
    evidence: Evidence | None,
) -> tuple[Asked, ...]:
    """Each answer with what its method decided; all was read where none was called."""
    asked = []
    for name, answer in answers.items():
        selected = selected_by(methods[name], *seen[name], tokens) if name in seen else None
        kept = np.ones(len(tokens), bool) if selected is None else selected.kept
        asked.append(Asked(name, answer, selected, None if evidence is None else recall(evidence, kept)))
    return tuple(asked)


def _ask(pipeline: Pipeline, clip: Media | EncodedClip, read_seconds: float, asking: Mapping[str, Any]) -> Answer:
    """The answer, with the time of the one reading that all share."""
    answer = pipeline.ask(clip, **asking)
    seconds = replace(answer.report.seconds, read=read_seconds)
    return replace(answer, report=replace(answer.report, seconds=seconds))


@contextmanager
def _recorded(compressor: Compressor) -> Iterator[list[tuple[TokenStream, Selection]]]:
    """Collects what the compressor is shown and what it says, untouched."""
    calls: list[tuple[TokenStream, Selection]] = []

    def note(_module: Any, args: tuple[TokenStream], output: Selection) -> None:
        calls.append((args[0], output))

    handle = compressor.register_forward_hook(note)
    try:
        yield calls
    finally:
        handle.remove()


def _tokens(seen: Mapping[str, tuple[TokenStream, Selection]], audio: int, audio_seconds: float) -> Tokens:
    """Columns from any of the streams (all have one layout), or of plain sound where no method was called."""
    for stream, _ in seen.values():
        return tokens_of(stream, audio_seconds)
    return tokens_of_sound(audio, audio_seconds)


def _notices(
    answers: Iterable[Answer], media: Media, scene: Scene | None, evidence: Evidence | None
) -> tuple[str, ...]:
    """Those of all answers, once each, and why a clip of the invented world comes without evidence."""
    notices = [notice for answer in answers for notice in answer.report.notices]
    if scene is None and media.tags.get("comment", "").startswith(COMMENT):
        notices.append("this clip says that it is of the invented world; read this way it does not match: no evidence")
    elif scene is not None and evidence is None:
        notices.append("the question is none that the invented world asks about this clip: no evidence is known")
    return tuple(dict.fromkeys(notices))


def _default_question(scene: Scene | None) -> str:
    """What `omnisift make-clip` suggests for a clip of the world, where such a question can be asked."""
    if scene is None:
        return DEFAULT_QUESTION
    types = ["sound_with"] if scene.sounds and scene.shapes else None
    return questions(scene, np.random.default_rng(scene.seed), types)[0].text


def _mel(host: Host, media: Media) -> NDArray[np.float32] | None:
    """The spectrogram that the audio encoder is given."""
    if media.waveform is None:
        return None
    extract = host.processor.feature_extractor
    features = extract(media.waveform, sampling_rate=SAMPLE_RATE, truncation=False, return_tensors="np")
    columns = -(-len(media.waveform) // extract.hop_length)
    return np.asarray(features["input_features"][0][:, :columns], dtype=np.float32)
