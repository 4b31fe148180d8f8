"""What the media reader fetches, from a local HTTP server."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.asking import Video
from tests.serving.web import public

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture
def video(tmp_path: Path) -> Video:
    return Video.of_world(tmp_path, 2)


@pytest.fixture
def web(tmp_path: Path, video: Video) -> Iterator[str]:
    """``/video`` is a video, ``/moved`` redirects to it."""
    data = (tmp_path / "2.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/video")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connector that may fetch from this machine, which a server never may."""
    from omnisift.serving.vllm.connector import Connector

    public(monkeypatch, "127.0.0.1")
    return Connector(allowed_media_domains=["127.0.0.1"])


def test_a_video_is_fetched_with_its_audio(connector: Any, web: str, video: Video) -> None:
    images, metadata = connector.fetch_video(web + "/video")
    assert video.audio is not None
    assert metadata["fps"] == video.fps
    assert np.array_equal(metadata["audio"], video.audio)
    assert len(images) == len(video.images)


def test_redirects_are_refused(connector: Any, web: str) -> None:
    """Although the response itself holds a video."""
    with pytest.raises(ValueError, match="redirects to another URL"):
        connector.fetch_video(web + "/moved")


def test_a_file_that_is_too_large(connector: Any, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNISIFT_FETCH", '{"max_media": 0}')
    with pytest.raises(ValueError, match="larger than 0 MB"):
        connector.fetch_video(web + "/video")


def test_no_host_is_allowed_by_default(web: str) -> None:
    from omnisift.serving.vllm.connector import Connector

    for fetch in ("fetch_video", "fetch_audio", "fetch_image"):
        with pytest.raises(ValueError, match="fetches no media"):
            getattr(Connector(), fetch)(web + "/video")


def data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def test_audio_is_read_by_the_plugin(tmp_path: Path, video: Video) -> None:
    """Also that of a video; vLLM's own reader would open playlists, which can name files and hosts."""
    from omnisift.serving.vllm.connector import Connector

    waveform, rate = Connector().fetch_audio(data_url(tmp_path / "2.mp4", "audio/mp4"))
    assert rate == 16_000
    assert np.array_equal(waveform, video.audio)
    (tmp_path / "list.m3u8").write_bytes(b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n")
    with pytest.raises(ValueError, match="the file: is a list that refers to other files"):
        Connector().fetch_audio(data_url(tmp_path / "list.m3u8", "audio/mpeg"))


def test_a_crash_of_the_decoder_is_a_client_error(
    tmp_path: Path, video: Video, monkeypatch: pytest.MonkeyPatch
) -> None:
    from omnisift.serving import media_limits
    from omnisift.serving.decoder_pool import DecoderPool
    from omnisift.serving.vllm.connector import Connector

    options = {"require_video": True, **asdict(media_limits.MediaLimits())}
    pool = DecoderPool(options, max_children=1, entry="tests.serving.bad_decoders:main")
    monkeypatch.setattr(media_limits, "_pool", lambda *_: pool)
    connector = Connector(allowed_local_media_path=str(tmp_path))
    for name in ("abort", "segfault", "leave"):
        path = tmp_path / f"{name}.mp4"
        path.write_bytes((tmp_path / "2.mp4").read_bytes())
        with pytest.raises(ValueError, match="the decoder crashed on it; convert the file"):
            connector.fetch_video(path.as_uri())
    images, _ = connector.fetch_video((tmp_path / "2.mp4").as_uri())
    assert len(images) == len(video.images)
    pool.close()
