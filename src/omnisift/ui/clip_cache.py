"""The few clips that were asked about last, encoded: a next question to one of them needs no encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omnisift.pipeline.encoded_clip import EncodedClip


@dataclass
class Entry:
    """A held clip, and what its first question cost that later ones are spared."""

    clip: EncodedClip
    spared: float | None = None
    """Seconds of decoding, preparing and encoding; None until a question was answered."""


class EncodedClipCache:
    """At most ``places`` clips, those asked about last, each by the file's path, size and date.

    Users who upload different files get different paths, and so different entries. Not for several threads at once.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._entries: OrderedDict[tuple[str, int, int], Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: Path, hold: Callable[[Path], EncodedClip]) -> Entry:
        """The entry of the file at ``path``, made by ``hold`` if there is none. The oldest makes room before that."""
        state = path.stat()
        key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        if key not in self._entries:
            while len(self._entries) >= self._places:
                self._entries.popitem(last=False)
            self._entries[key] = Entry(hold(path))
        self._entries.move_to_end(key)
        return self._entries[key]
