"""A cache of decoded clips on disk with a size limit, so that later epochs read arrays instead of decoding video."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from omnisift.media import Media
from omnisift.utils.atomic_io import atomic_file

logger = logging.getLogger(__name__)
_NAME = re.compile(r"([0-9a-f]{32}|missing)\.safetensors")
_ARRAYS = ("images", "times", "indices", "waveform")
_PLAIN = ("fps", "seconds", "video_seconds", "capped", "bad_packets")


@dataclass(frozen=True)
class ClipCache:
    """A folder of safetensors files, one per clip and reading options.

    Above ``max_bytes`` the least recently used files are deleted. A damaged file is replaced. Several processes may
    share the folder.
    """

    folder: Path
    max_bytes: int = 20 << 30
    """Maximum size of all files together."""

    def get(self, path: Path, reading: str) -> Media | None:
        """The decoded clip, or None if it is not cached.

        Args:
            path: the clip; a changed file is another clip.
            reading: the reading options as text.
        """
        file = self._file(path, reading)
        try:
            with safe_open(str(file), framework="pt") as content:
                about: dict[str, Any] = json.loads(content.metadata()["about"])
                arrays = {name: content.get_tensor(name).numpy() for name in content.keys()}  # noqa: SIM118
            os.utime(file)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning(
                "%s in the cache is damaged (%s); the clip is decoded again", file.name, type(error).__name__
            )
            return None
        return Media(
            path=path,
            warnings=tuple(about["warnings"]),
            tags=about["tags"],
            **{name: about[name] for name in _PLAIN},
            **{name: arrays.get(name) for name in _ARRAYS},  # type: ignore[arg-type]
        )

    def put(self, media: Media, path: Path, reading: str) -> None:
        """Store ``media``; does nothing for a clip above a quarter of ``max_bytes``, or when the disk is full."""
        arrays = {name: getattr(media, name) for name in _ARRAYS}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items() if a is not None}
        if sum(tensor.nbytes for tensor in tensors.values()) > self.max_bytes // 4:
            return
        about = {name: getattr(media, name) for name in _PLAIN}
        about |= {"warnings": list(media.warnings), "tags": dict(media.tags)}
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._file(path, reading)
        try:
            with atomic_file(file) as unfinished:
                save_file(tensors, str(unfinished), metadata={"about": json.dumps(about)})
        except (SafetensorError, OSError) as error:
            logger.warning("%s is not cached (%s: %s)", path, type(error).__name__, error)
            return
        self._shrink()

    def _file(self, path: Path, reading: str) -> Path:
        """A file named after the clip's path, size and time, and the reading options."""
        try:
            state = path.stat()
        except OSError:
            return self.folder / "missing"
        key = f"1|{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{reading}"
        return self.folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.safetensors"

    def _shrink(self) -> None:
        files = []
        for file in self.folder.glob("*.safetensors"):
            if not _NAME.fullmatch(file.name):  # not from this cache
                continue
            try:
                state = file.stat()
            except FileNotFoundError:  # another process deleted it
                continue
            files.append((state.st_mtime_ns, state.st_size, file))
        total = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if total <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size
