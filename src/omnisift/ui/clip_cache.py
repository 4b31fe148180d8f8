"""Keep the most recently used clips encoded, so that a further question about one of them needs no encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from omnisift.pipeline.encoded_clip import EncodedClip


@dataclass
class CachedClip:
    """An encoded clip and what it cost."""

    clip: EncodedClip
    encoding_seconds: float | None = None
    """Seconds of decoding, preparing and encoding; None until a question was answered."""


class EncodedClipCache:
    """The ``max_clips`` most recently used clips, keyed by path, size and modification time of the file.

    Users who upload different files get different paths, and so different entries. Not thread-safe.

    Args:
        max_clips: number of clips to keep.
    """

    def __init__(self, max_clips: int) -> None:
        self._max_clips = max_clips
        self._entries: OrderedDict[tuple[str, int, int], CachedClip] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, path: Path, encode: Callable[[Path], EncodedClip]) -> CachedClip:
        """The entry of the file at ``path``; a missing one is made by ``encode`` after the oldest is dropped."""
        state = path.stat()
        key = (str(path.resolve()), state.st_size, state.st_mtime_ns)
        if key not in self._entries:
            while len(self._entries) >= self._max_clips:
                self._entries.popitem(last=False)
            self._entries[key] = CachedClip(encode(path))
        self._entries.move_to_end(key)
        return self._entries[key]
