"""How media of a chat request come in: clips through `omnisift.media`, with their sound, within the server's limits.

vLLM's own reader leaves the sound behind unless a request asks for it, samples a fixed number of pictures without
saying when they were shown, and lets a request change how much is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pybase64
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector, MediaIO

from omnisift.errors import OmniSiftError
from omnisift.serving.media_limits import MediaLimits, as_item
from omnisift.serving.url_policy import check_address
from omnisift.serving.vllm import CONNECTOR

MOST_BYTES = 1 << 30
"""Of a fetched file."""


@contextmanager
def bad_media() -> Iterator[None]:
    """What a client can cause, as a `ValueError`: vLLM answers with status 400 and its text."""
    try:
        yield
    except OmniSiftError as error:
        raise ValueError(str(error)) from error
    except (OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"the media can't be read ({type(error).__name__}): send another file") from error


class ClipIO(MediaIO):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Reads clips."""

    def __init__(self) -> None:
        super().__init__()
        self.how = MediaLimits.from_environment()

    def load_bytes(self, data: bytes) -> Any:
        """Pictures with their metadata, which holds the sound."""
        return as_item(self.how.bytes(data))

    def load_base64(self, media_type: str, data: str) -> Any:  # noqa: ARG002
        """The same from the text of a data: URL."""
        return self.load_bytes(pybase64.b64decode(data, validate=True))

    def load_file(self, filepath: Path) -> Any:
        """The same from a file of an allowed folder."""
        return as_item(self.how.file(filepath))


class Connector(MediaConnector):  # type: ignore[misc]
    """vLLM's connector, with our clips and stricter rules: no host is allowed that was not named, no redirects."""

    def __init__(self, media_io_kwargs: Any = None, *args: Any, **kwargs: Any) -> None:
        """Raises `ValueError` if a request (or a flag of vLLM) brings ``media_io_kwargs``."""
        if media_io_kwargs:
            raise ValueError("media_io_kwargs can't be set: this server's own limits hold")
        super().__init__(None, *args, **kwargs)

    def fetch_video(self, video_url: str, **_: Any) -> Any:
        """A clip with its sound."""
        return self.load_from_url(video_url, ClipIO())

    async def fetch_video_async(self, video_url: str, **_: Any) -> Any:
        """A clip with its sound."""
        return await self.load_from_url_async(video_url, ClipIO())

    def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """Data URLs, files of the allowed folder, and addresses of allowed hosts."""
        with bad_media():
            if not _is_web(url):
                return super().load_from_url(url, media_io, fetch_timeout=fetch_timeout)
            check_address(url, self.allowed_media_domains)
            return media_io.load_bytes(self._fetch(url, fetch_timeout))

    async def load_from_url_async(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
        """As `load_from_url`, in a thread."""
        return await asyncio.to_thread(self.load_from_url, url, media_io, fetch_timeout=fetch_timeout)

    def _fetch(self, url: str, timeout: int | None) -> bytes:
        response = self.connection.get_response(url, timeout=timeout, allow_redirects=False, stream=True)
        with response:
            if response.status_code != 200:
                raise OSError(f"status {response.status_code}")
            data = response.raw.read(MOST_BYTES + 1, decode_content=True)
        if len(data) > MOST_BYTES:
            raise OSError("too large")
        return bytes(data)


def _is_web(url: str) -> bool:
    return url[:5].lower() not in ("data:", "file:")


def make_known() -> None:
    """Enter the connector in vLLM's list."""
    MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)(Connector)
