"""What the media reader fetches, from a server of our own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.asking import Film

pytestmark = [pytest.mark.slow, pytest.mark.vllm]


@pytest.fixture
def film(tmp_path: Path) -> Film:
    return Film.of_world(tmp_path, 2)


@pytest.fixture
def web(tmp_path: Path, film: Film) -> Iterator[str]:
    """``/film`` is a film, ``/moved`` leads to it."""
    data = (tmp_path / "2.mp4").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302 if self.path == "/moved" else 200)
            self.send_header("Location", "/film")
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
    """One that may fetch from this machine, which a server never may."""
    from omnisift.serving.vllm import connector

    monkeypatch.setattr(connector, "check_address", lambda url, allowed: None)
    return connector.Connector()


def test_a_film_is_fetched_with_its_sound(connector: Any, web: str, film: Film) -> None:
    images, metadata = connector.fetch_video(web + "/film")
    assert film.sound is not None
    assert metadata["fps"] == film.fps
    assert np.array_equal(metadata["audio"], film.sound)
    assert len(images) == len(film.images)


def test_redirects_are_refused(connector: Any, web: str) -> None:
    """Though the answer itself holds a film."""
    with pytest.raises(ValueError, match="can't be read"):
        connector.fetch_video(web + "/moved")


def test_a_file_that_is_too_large(connector: Any, web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnisift.serving.vllm.connector.MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="can't be read"):
        connector.fetch_video(web + "/film")


def test_no_host_is_allowed_by_default(web: str) -> None:
    from omnisift.serving.vllm.connector import Connector

    for fetch in ("fetch_video", "fetch_audio", "fetch_image"):
        with pytest.raises(ValueError, match="fetches no media"):
            getattr(Connector(), fetch)(web + "/film")
