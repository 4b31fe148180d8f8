"""A clip that a client sent: bytes to pictures and sound, read as `omnisift ask` reads a file."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omnisift.media import Media, read

VARIABLE = "OMNISIFT_MEDIA"
"""Environment variable by which `omnisift serve` tells the server's processes how clips are read."""


@dataclass(frozen=True)
class MediaLimits:
    """Limits of a clip. The server's owner sets them, never a request."""

    fps: float = 2.0
    max_frames: int = 256
    min_pixels: int = 128 * 784
    max_pixels: int = 320 * 784
    max_seconds: float = 7200.0

    @classmethod
    def from_environment(cls) -> MediaLimits:
        """What the server was told; the defaults if it was not."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))

    def to_environment(self) -> dict[str, str]:
        """For the environment of the server's processes."""
        return {VARIABLE: json.dumps(asdict(self))}

    def bytes(self, data: bytes) -> Media:
        """Read a clip from memory. Raises `MediaError` if it has no picture or can't be read."""
        with tempfile.TemporaryDirectory(prefix="omnisift-") as folder:
            file = Path(folder) / "video"
            file.write_bytes(data)
            return self.file(file)

    def file(self, path: Path) -> Media:
        """Read a clip. Raises `MediaError` if it has no picture or can't be read."""
        return read(path, require_video=True, **asdict(self))


def as_item(media: Media) -> tuple[Any, dict[str, Any]]:
    """Pictures, and what belongs to them: the form in which the plugin takes a video."""
    return media.images, {"fps": media.fps, "audio": media.waveform}
