"""Read the clips that clients send, within limits set by the server's owner."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omnisift.config import ServedReadOptions
from omnisift.errors import MediaError
from omnisift.media import SAMPLE_RATE, Media
from omnisift.serving.decoder_pool import DecoderPool

VARIABLE = "OMNISIFT_MEDIA"
"""Environment variable with which `omnisift serve` hands the limits to the server's processes, as JSON."""


@dataclass(frozen=True, kw_only=True)
class MediaLimits(ServedReadOptions):
    """Limits on the clips of requests; no request can change them."""

    min_pixels: int = 128 * 784
    """Pixels per frame, at least."""
    max_pixels: int = 320 * 784
    """Pixels per frame, at most."""
    max_seconds: float = 7200.0

    @classmethod
    def from_environment(cls) -> MediaLimits:
        """Return the limits in the environment, or the defaults."""
        return cls(**json.loads(os.environ.get(VARIABLE, "{}")))

    def to_environment(self) -> dict[str, str]:
        """Return the variable for the environment of the server's processes."""
        return {VARIABLE: json.dumps(asdict(self))}

    def read_bytes(self, data: bytes, *, video: bool = True) -> Media:
        """Read a clip from memory; see `read_file`."""
        with tempfile.TemporaryDirectory(prefix="omnisift-") as folder:
            path = Path(folder) / "video"
            path.write_bytes(data)
            try:
                return self.read_file(path, video=video)
            except MediaError as error:
                raise type(error)(str(error).replace(str(path), "the file")) from None  # a client knows no path

    def read_file(self, path: Path, *, video: bool = True) -> Media:
        """Read a clip from a file, in a child process.

        Args:
            path: the file.
            video: whether it must have video; False reads the audio alone, which it must then have.

        Raises:
            MediaError: it can't be read.
        """
        return _pool(self, video).read(path)


@cache
def _pool(limits: MediaLimits, video: bool) -> DecoderPool:
    """The child processes that read the clips of this server, or their audio alone."""
    return DecoderPool({"video": video, "require_video": video, "require_audio": not video, **asdict(limits)})


def as_vllm_video(media: Media) -> tuple[Any, dict[str, Any]]:
    """Return a clip in the form in which the plugin takes a video: images, and metadata with frame rate and audio."""
    return media.images, {"fps": media.fps, "audio": media.waveform}


def as_vllm_audio(media: Media) -> tuple[Any, int]:
    """Return the audio of a clip in the form in which vLLM takes it."""
    return media.waveform, SAMPLE_RATE
