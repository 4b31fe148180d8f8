"""What the page does when somebody asks: check the request, ask the model once per method, say what was reused.

One question is answered at a time, whoever asks: the model is one, and so are the hooks on it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, Compressor
from omnisift.errors import Blocked, CompressorError, MediaError, NotFound, UsageError
from omnisift.inspector import Inspection, inspect_clip
from omnisift.media.suffixes import MEDIA_SUFFIXES
from omnisift.pipeline import Pipeline
from omnisift.pipeline.ask import compressor_for
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.loading import Host
from omnisift.ui.clip_cache import EncodedClipCache, Entry

ENDINGS = tuple(sorted(MEDIA_SUFFIXES))
"""Suffixes of files that may be uploaded."""
MOST_CHARACTERS = 1000
"""Of a question."""
KEPT_CLIPS = 4
"""Encoded clips in memory, for all users together."""

Told = Callable[[float, str], None]
"""Is told how far a question is, 0 to 1, and what is being done."""


@dataclass(frozen=True)
class Reply:
    """The answers with all tokens and with each method, as an inspection, and what the clip's second visit saved."""

    inspection: Inspection
    seconds: float
    """Of all answers, as their reports say; with decoding, if the clip was decoded for it."""
    reused: bool
    """Whether the clip was there, encoded, and no encoder ran."""
    spared: float | None
    """Seconds that decoding, preparing and encoding took when this clip was first asked about; None if that failed."""
    listening: tuple[str, ...]
    """Methods that made the encoders run again, because they listen to them."""


class Session:
    """A loaded model and its methods, for people who may read files below ``roots`` and no others."""

    def __init__(
        self,
        host: Host,
        roots: Sequence[Path],
        *,
        selector: str | None = None,
        seed: int = 0,
        max_new_tokens: int = 256,
        places: int = KEPT_CLIPS,
        reading: Mapping[str, Any] | None = None,
    ) -> None:
        self.host = host
        self._roots = [root.resolve() for root in roots]
        self._method = {"selector": selector, "seed": seed}
        self._max_new_tokens = max_new_tokens
        self._reading = dict(reading or {})
        self._shelf = EncodedClipCache(places)
        self._lock = threading.Lock()
        self.methods = self._able()

    def _able(self) -> tuple[str, ...]:
        """Names of the registry that this model can run; a trained one needs a selector."""
        able = []
        for name in COMPRESSORS:
            try:
                self._make(name, 25)
            except CompressorError:
                continue
            able.append(name)
        return tuple(able)

    def _make(self, name: str, percent: float) -> Compressor:
        return compressor_for(self.host, name, Budget(retain=percent / 100), **self._method)  # type: ignore[arg-type]

    def ask(
        self,
        path: str | Path | None,
        question: str,
        names: Sequence[str],
        percent: float,
        told: Told | None = None,
    ) -> Reply:
        """Ask about the clip at ``path`` with all tokens and with the methods ``names`` at ``percent`` of them.

        Raises:
            OmniSiftError: one line that says what is wrong and what to do.
        """
        clip = self._checked(path)
        self._check(question, names, percent)
        with self._lock, _named(clip):
            methods = {name: self._make(name, percent) for name in dict.fromkeys(names)}
            if told is not None:
                told(0.0, "read")
            entry = self._shelf.get(clip, self._hold)
            known = entry.clip.is_encoded
            steps = None if told is None else _Steps(told, ["all tokens", *methods])
            inspection = inspect_clip(
                self.host, methods, entry.clip, question, max_new_tokens=self._max_new_tokens, on_stage=steps
            )
            return self._reply(entry, inspection, known, methods)

    def _hold(self, path: Path) -> EncodedClip:
        return Pipeline(self.host, None).encode(path, **self._reading)

    def _reply(self, entry: Entry, inspection: Inspection, known: bool, methods: Mapping[str, Compressor]) -> Reply:
        spent = [asked.answer.report.seconds for asked in inspection.trace.methods]
        seconds = sum(one.total for one in spent)
        if not known:
            seconds += entry.clip.read_seconds
            entry.spared = entry.clip.read_seconds + spent[0].process + spent[0].encode
        listening = tuple(name for name, method in methods.items() if method.needs)
        return Reply(inspection, seconds, known and not listening, entry.spared, listening)

    def _checked(self, path: str | Path | None) -> Path:
        """The file, if it is one that may be read."""
        if path is None:
            raise UsageError("no clip yet; drop a file or choose a sample")
        clip = Path(path).resolve()
        if not any(clip.is_relative_to(root) for root in self._roots):
            raise Blocked(f"{clip.name} was not uploaded here and is no sample; drop it on the page first")
        if clip.suffix.lower() not in ENDINGS:
            raise UsageError(f"{clip.name} does not end like a clip; give one of {' '.join(ENDINGS)}")
        if not clip.is_file():
            raise NotFound(f"{clip.name} is no longer here; drop it on the page again")
        return clip

    def _check(self, question: str, names: Sequence[str], percent: float) -> None:
        if not question.strip():
            raise UsageError("the question is empty; ask something in plain words")
        if len(question) > MOST_CHARACTERS:
            raise UsageError(f"the question has {len(question)} characters; ask in at most {MOST_CHARACTERS}")
        for name in names:
            if name not in self.methods:
                raise CompressorError(f"this model can't run {name!r}; choose one of {', '.join(self.methods)}")
        if not 0 < percent <= 100:
            raise UsageError(f"keep more than 0 and at most 100 % of the tokens, got {percent:g}")


@contextmanager
def _named(clip: Path) -> Iterator[None]:
    """Errors about the clip call it by its name: where uploads lie on this machine is nobody's business."""
    try:
        yield
    except MediaError as wrong:
        raise type(wrong)(str(wrong).replace(str(clip), clip.name)) from wrong


class _Steps:
    """Turns the stages of several questions, one after the other, into a share of all of them."""

    _STAGES = ("process", "encode_video", "encode_audio", "compress", "prefill", "decode")

    def __init__(self, told: Told, ways: Sequence[str]) -> None:
        self._told, self._ways, self._way = told, ways, -1

    def __call__(self, stage: str) -> None:
        self._way += stage == "process"
        if stage in self._STAGES and self._way >= 0:
            done = self._way + self._STAGES.index(stage) / len(self._STAGES)
            self._told(done / len(self._ways), f"{self._ways[self._way]}: {stage}")
