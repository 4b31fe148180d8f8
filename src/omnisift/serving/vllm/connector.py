"""The plugin's media reader for chat requests: clips are read by `omnisift.media`, with audio, within server limits.

vLLM's own reader drops the audio unless a request asks for it, samples a fixed number of images without their times,
and lets a request change how much is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pybase64

from omnisift.errors import OmniSiftError
from omnisift.serving.fetch import submit
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.media_limits import MediaLimits, as_vllm_audio, as_vllm_video
from omnisift.serving.vllm.internals import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaIO


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn errors that a client can cause into `ValueError`, which vLLM answers with status 400 and its text."""
    try:
        yield
    except OmniSiftError as error:
        raise ValueError(str(error)) from error
    except (OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"the media can't be read ({type(error).__name__}); send another file") from error


class ClipIO(MediaIO):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Reads clips within the server's limits."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = MediaLimits.from_environment()

    def load_bytes(self, data: bytes) -> Any:
        """Return images and metadata, which holds the audio, from the bytes of a file."""
        return as_vllm_video(self.limits.read_bytes(data))

    def load_base64(self, media_type: str, data: str) -> Any:  # noqa: ARG002
        """Return the same from the text of a data: URL."""
        return self.load_bytes(pybase64.b64decode(data, validate=True))

    def load_file(self, filepath: Path) -> Any:
        """Return the same from a file of the allowed folder."""
        return as_vllm_video(self.limits.read_file(filepath))


class AudioIO(ClipIO):
    """Reads audio within the server's limits; vLLM's own reader decodes any format in the server's process."""

    def load_bytes(self, data: bytes) -> Any:
        """Return the waveform and its rate from the bytes of a file."""
        return as_vllm_audio(self.limits.read_bytes(data, video=False))

    def load_file(self, filepath: Path) -> Any:
        """Return the same from a file of the allowed folder."""
        return as_vllm_audio(self.limits.read_file(filepath, video=False))


class Connector(MediaConnector):  # type: ignore[misc]
    """vLLM's connector with the plugin's clips and stricter rules: only hosts that were named, and limits.

    Raises:
        ValueError: a request (or a flag of vLLM) sets ``media_io_kwargs``.
    """

    def __init__(self, media_io_kwargs: Any = None, *args: Any, **kwargs: Any) -> None:
        if media_io_kwargs:
            raise ValueError("media_io_kwargs can't be set; this server has its own limits")
        super().__init__(None, *args, **kwargs)

    def fetch_video(self, video_url: str, **_: Any) -> Any:
        """Return a clip with its audio."""
        return self.load_from_url(video_url, ClipIO())

    async def fetch_video_async(self, video_url: str, **_: Any) -> Any:
        """Return a clip with its audio."""
        return await self.load_from_url_async(video_url, ClipIO())

    def fetch_audio(self, audio_url: str) -> Any:
        """Return a waveform and its rate."""
        return self.load_from_url(audio_url, AudioIO())

    async def fetch_audio_async(self, audio_url: str) -> Any:
        """Return a waveform and its rate."""
        return await self.load_from_url_async(audio_url, AudioIO())

    def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """Read a data URL, a file of the allowed folder, or a file from an allowed host."""
        with client_errors():
            if _is_web(url):
                return self._fetched(url, media_io).result()
            return super().load_from_url(url, media_io, fetch_timeout=fetch_timeout)

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """Run `load_from_url` in a thread; fetches have threads of their own, which bound their number."""
        if not _is_web(url):
            return await asyncio.to_thread(self.load_from_url, url, media_io, fetch_timeout=fetch_timeout)
        with client_errors():
            return await asyncio.wrap_future(self._fetched(url, media_io))

    def _fetched(self, url: str, media_io: Any) -> Future[Any]:
        """Read a file of the web, within the server's limits instead of vLLM's ``fetch_timeout``."""
        return submit(url, self.allowed_media_domains, FetchLimits.from_environment(), media_io.load_bytes)


def _is_web(url: str) -> bool:
    return url[:5].lower() not in ("data:", "file:")


def register_connector(name: str) -> None:
    """Register `Connector` with vLLM under ``name``."""
    MEDIA_CONNECTOR_REGISTRY.register(name)(Connector)
