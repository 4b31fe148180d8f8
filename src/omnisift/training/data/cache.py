"""Decoded clips on the disk, bounded in size: the second epoch reads arrays instead of decoding films."""

from __future__ import annotations

import hashlib
import json
import logging
import os
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
_ARRAYS = ("images", "times", "indices", "waveform")
_PLAIN = ("fps", "seconds", "video_seconds", "capped", "bad_packets")


@dataclass(frozen=True)
class ClipCache:
    """A folder of safetensors files, one a clip and way of reading it.

    The oldest used go first when ``max_bytes`` is exceeded. A torn file is read anew. Several processes may share it.
    """

    folder: Path
    max_bytes: int = 20 << 30

    def get(self, path: Path, reading: str) -> Media | None:
        """What was kept of ``path`` as it is now, read in the way that ``reading`` says; None if nothing was."""
        file = self._file(path, reading)
        try:
            with safe_open(str(file), framework="pt") as content:
                about: dict[str, Any] = json.loads(content.metadata()["about"])
                arrays = {name: content.get_tensor(name).numpy() for name in content.keys()}  # noqa: SIM118
            os.utime(file)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            logger.warning("%s in the cache is damaged (%s) and is read anew", file.name, type(error).__name__)
            return None
        return Media(
            path=path,
            warnings=tuple(about["warnings"]),
            tags=about["tags"],
            **{name: about[name] for name in _PLAIN},
            **{name: arrays.get(name) for name in _ARRAYS},  # type: ignore[arg-type]
        )

    def put(self, media: Media, path: Path, reading: str) -> None:
        """Keep ``media``; a clip larger than a quarter of the bound is not kept, nor any on a full disk."""
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
            logger.warning("%s is not kept in the cache (%s: %s)", path, type(error).__name__, error)
            return
        self._shrink()

    def _file(self, path: Path, reading: str) -> Path:
        """Named by path, size and date of the clip, and by how it is read."""
        try:
            state = path.stat()
        except OSError:
            return self.folder / "missing"
        what = f"1|{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{reading}"
        return self.folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.safetensors"

    def _shrink(self) -> None:
        found = []
        for file in self.folder.glob("*.safetensors"):
            try:
                state = file.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            found.append((state.st_mtime_ns, state.st_size, file))
        total = sum(size for _, size, _ in found)
        for _, size, file in sorted(found):
            if total <= self.max_bytes:
                return
            file.unlink(missing_ok=True)
            total -= size
