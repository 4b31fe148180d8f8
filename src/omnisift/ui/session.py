"""Answer the questions of the page: check a request, ask the model once per method, report what was reused.

A session answers one question at a time for all users, because they share one model and the hooks on it.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, Compressor
from omnisift.config import ServedReadOptions
from omnisift.errors import Blocked, CompressorError, MediaError, NotFound, UsageError
from omnisift.inspector import Inspection, inspect_clip
from omnisift.media import Media
from omnisift.pipeline.ask import Pipeline
from omnisift.pipeline.clip_format import size_options
from omnisift.pipeline.encoded_clip import EncodedClip, EncodedClipCache
from omnisift.pipeline.loading import Host
from omnisift.pipeline.method import compressor_for, resolve_compressor
from omnisift.serving.decoder_pool import DecoderPool
from omnisift.ui.uploads import SUBTITLE_SUFFIXES, UPLOAD_SUFFIXES
from omnisift.utils.names import AUTO
from omnisift.utils.questions import check_max_new_tokens, check_question
from omnisift.utils.special_tokens import SpecialTokens
from omnisift.utils.stages import STAGES

MAX_CHARACTERS = 1000
"""Maximum length of a question."""
MAX_CLIPS = 4
"""Encoded clips kept in memory, for all users together."""
HOLD_BYTES = 2**28
"""Bytes of keys and values that each of them holds for further questions."""
MAX_COMPRESSORS = 8
"""Methods kept in memory, with their selectors."""

ProgressCallback = Callable[[float, str], None]
"""Called with the share of the work that is done, 0 to 1, and the current step."""


@dataclass(frozen=True)
class SessionAnswer:
    """The answers with all tokens and with each method, and what the encoders did for them."""

    inspection: Inspection
    encoding_seconds: float | None
    """Seconds of decoding, preparing and encoding this clip for its first answer; None if no answer came of it."""
    reused: bool
    """Whether the clip was already encoded and no encoder ran."""
    reencoded: tuple[str, ...]
    """Methods for which the encoders ran again, because they need the encoders' attention."""


class Session:
    """A loaded model and the methods it can run, restricted to clips in given folders.

    Args:
        host: a loaded model.
        roots: folders whose files may be read, with their subfolders.
        selector: folder of selector weights; None looks into the model's checkpoint.
        seed: random seed, for methods that sample.
        compress_audio: whether a file with audio alone is compressed too.
        max_new_tokens: maximum number of generated tokens.
        max_clips: number of encoded clips kept in memory.
        read_options: fields of `ServedReadOptions`.

    Raises:
        UsageError: the selector folder does not exist, or ``max_new_tokens`` is below 1.
    """

    def __init__(
        self,
        host: Host,
        roots: Sequence[Path],
        *,
        selector: str | None = None,
        seed: int = 0,
        compress_audio: bool = False,
        max_new_tokens: int = 256,
        max_clips: int = MAX_CLIPS,
        read_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self._roots = [root.resolve() for root in roots]
        self._selector, self._seed, self._compress_audio = selector, seed, compress_audio
        check_max_new_tokens(max_new_tokens)
        self._max_new_tokens = max_new_tokens
        options = ServedReadOptions(**(read_options or {}))
        self.max_pixels = options.max_pixels
        """Largest area of one image; None leaves it to the model."""
        sizes = size_options(host.processor, options.max_pixels)
        self._decoders = DecoderPool({**options.reading, **sizes}, max_children=1)
        self._clips = EncodedClipCache(max_clips)
        self._compressors: dict[tuple[str, float], Compressor] = {}
        self._lock = threading.Lock()
        self.methods = self._available_methods()
        """Names of the registered methods that this model can run; a trained one needs a selector."""
        self.default, self.reason = resolve_compressor(AUTO, host.source, selector)
        """The model's default method, and why it is that."""

    def _available_methods(self) -> tuple[str, ...]:
        available = []
        for name in COMPRESSORS:
            try:
                self._compressor(name, 25)
            except CompressorError:
                continue
            available.append(name)
        return tuple(available)

    def _compressor(self, name: str, percent: float) -> Compressor:
        budget = Budget(retain=percent / 100, compress_audio=self._compress_audio)
        return compressor_for(self.host, name, budget, self._selector, self._seed)

    def _kept_compressor(self, name: str, percent: float) -> Compressor:
        """The method as it was made for an earlier question: clips hold prompts for the selector that it loaded."""
        made = self._compressors.pop((name, percent), None) or self._compressor(name, percent)
        self._compressors[name, percent] = made
        while len(self._compressors) > MAX_COMPRESSORS:
            self._compressors.pop(next(iter(self._compressors)))
        return made

    def ask(
        self,
        path: str | Path | None,
        question: str,
        methods: Sequence[str],
        percent: float,
        on_progress: ProgressCallback | None = None,
        *,
        text: bool = False,
        subtitles: str | Path | None = None,
    ) -> SessionAnswer:
        """Ask about a clip with all tokens and with each of ``methods``.

        Args:
            path: the clip; None raises `UsageError`, as the page does before a clip is chosen.
            question: at most `MAX_CHARACTERS` characters.
            methods: names of methods, among `methods` of this session.
            percent: share of the tokens of the clip to keep, in percent.
            on_progress: called when a stage begins.
            text: whether to read the clip's own subtitles.
            subtitles: a file with the clip's subtitles, which is read instead of its own; None for none.

        Raises:
            OmniSiftError: one line that says what is wrong and what to do.
        """
        clip = self._checked(path)
        words = None if subtitles is None else self._checked_subtitles(subtitles)
        self._check(question, methods, percent)
        with self._lock, _renamed({str(clip): clip.name}):
            compressors = {name: self._kept_compressor(name, percent) for name in dict.fromkeys(methods)}
            if on_progress is not None:
                on_progress(0.0, "read")
            encoded = self._encoded(clip, words, text)
            known = encoded.is_encoded
            stages = None if on_progress is None else _StageProgress(on_progress, ["all tokens", *compressors])
            inspection = inspect_clip(
                self.host, compressors, encoded, question, max_new_tokens=self._max_new_tokens, on_stage=stages
            )
            made = {method.name: method.answer.report for method in inspection.trace.methods}
            reencoded = tuple(
                name for name, compressor in compressors.items() if compressor.needs and not made[name].cached_tokens
            )
            return SessionAnswer(inspection, encoded.encoding_seconds, known and not reencoded, reencoded)

    def pipeline(self, percent: float) -> Pipeline:
        """The model with its default method, which shares the model's lock with this session.

        Raises:
            OmniSiftError: the budget is wrong, or the method's weights can't be read.
        """
        return Pipeline(self.host, self._compressor(AUTO, percent))

    def _encoded(self, clip: Path, words: Path | None, text: bool) -> EncodedClip:
        """The clip, which is read anew with other subtitles."""
        if words is not None:
            state = words.stat()
            return self._clips.get(clip, partial(self._encode, words=words), (str(words), state.st_mtime_ns))
        return self._clips.get(clip, partial(self._encode, text=text) if text else self._encode, text)

    def _encode(self, path: Path, words: Path | None = None, text: bool = False) -> EncodedClip:
        begin = time.perf_counter()
        if words is not None:
            media = self._read_together(path, words)
        else:
            media = self._decoders.read(path, "subtitles" if text else None)
        return EncodedClip(self.host, media, time.perf_counter() - begin, HOLD_BYTES)

    def _read_together(self, clip: Path, words: Path) -> Media:
        """Read a clip with a file of subtitles that lies elsewhere: both lie beside each other in a folder of links."""
        with tempfile.TemporaryDirectory(prefix="omnisift-ui-") as folder:
            link = Path(folder).resolve() / clip.name
            link.symlink_to(clip)
            beside = link.with_suffix(words.suffix.lower())
            beside.symlink_to(words)
            with _renamed({str(link): clip.name, beside.name: words.name}):
                media = self._decoders.read(link, "subtitles")
            warnings = (warning.replace(beside.name, words.name) for warning in media.warnings)
            return replace(media, path=clip, warnings=tuple(warnings))

    def _checked(self, path: str | Path | None) -> Path:
        """The resolved path of a clip, if it may be read."""
        if path is None:
            raise UsageError("no clip yet; drop a file or choose a sample")
        clip = self._uploaded(path)
        if clip.suffix.lower() not in UPLOAD_SUFFIXES:
            raise UsageError(f"{clip.name} is not a clip by its name; upload one of {' '.join(UPLOAD_SUFFIXES)}")
        return _existing(clip)

    def _checked_subtitles(self, path: str | Path) -> Path:
        """The resolved path of a file of subtitles, if it may be read."""
        words = self._uploaded(path)
        if words.suffix.lower() not in SUBTITLE_SUFFIXES:
            raise UsageError(
                f"{words.name} is no file of subtitles by its name; upload {' or '.join(SUBTITLE_SUFFIXES)}"
            )
        return _existing(words)

    def _uploaded(self, path: str | Path) -> Path:
        """The resolved path of a file in one of the folders."""
        file = Path(path).resolve()
        if not any(file.is_relative_to(root) for root in self._roots):
            raise Blocked(f"{file.name} was not uploaded and is not a sample; drop it on the page first")
        return file

    def _check(self, question: str, methods: Sequence[str], percent: float) -> None:
        check_question(question, special=SpecialTokens.of(self.host.processor.tokenizer))
        if len(question) > MAX_CHARACTERS:
            raise UsageError(f"the question has {len(question)} characters; the maximum is {MAX_CHARACTERS}")
        for name in methods:
            if name not in self.methods:
                raise CompressorError(f"this model cannot run {name!r}; choose one of {', '.join(self.methods)}")
        if not isinstance(percent, (int, float)) or not 0 < percent <= 100:
            raise UsageError(f"keep more than 0 and at most 100 % of the tokens, got {str(percent)[:20]}")


def _existing(file: Path) -> Path:
    """The path, if it is a file."""
    if not file.is_file():
        raise NotFound(f"{file.name} no longer exists; drop it on the page again")
    return file


@contextmanager
def _renamed(names: Mapping[str, str]) -> Iterator[None]:
    """Replace paths in errors by names: users must not see the folders of this machine."""
    try:
        yield
    except (MediaError, UsageError) as error:
        message = str(error)
        for path, name in names.items():
            message = message.replace(path, name)
        raise type(error)(message) from error


class _StageProgress:
    """Convert the stages of several consecutive answers into one share of the work."""

    _STAGES = tuple(STAGES)[1:]

    def __init__(self, on_progress: ProgressCallback, labels: Sequence[str]) -> None:
        self._on_progress, self._labels, self._current = on_progress, labels, -1

    def __call__(self, stage: str) -> None:
        # Every answer begins with the stage "process".
        self._current += stage == "process"
        if stage in self._STAGES and self._current >= 0:
            done = self._current + self._STAGES.index(stage) / len(self._STAGES)
            self._on_progress(done / len(self._labels), f"{self._labels[self._current]}: {stage}")
