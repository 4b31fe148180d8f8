"""The connector's way to the web, without vLLM: a stand-in for the few names that it imports."""

from __future__ import annotations

import asyncio
import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from tests.serving.web import CONTENT, listening, public

NAME = "omnisift.serving.vllm.connector"


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    class MediaConnector:
        def __init__(self, media_io_kwargs: Any, *, allowed_media_domains: list[str] | None = None) -> None:
            self.allowed_media_domains = allowed_media_domains or []

        def load_from_url(self, url: str, media_io: Any, *, fetch_timeout: int | None = None) -> Any:
            return "vLLM reads", url

    media = types.ModuleType("vllm.multimodal.media")
    media.__dict__.update(MEDIA_CONNECTOR_REGISTRY=None, MediaConnector=MediaConnector, MediaIO=object)
    modules = {"vllm": types.ModuleType("vllm"), "vllm.multimodal": types.ModuleType("m"), media.__name__: media}
    for name, module in {**modules, "pybase64": types.ModuleType("pybase64")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules.pop(NAME, None)
    yield importlib.import_module(NAME)
    sys.modules.pop(NAME, None)


class Reader:
    def load_bytes(self, data: bytes) -> int:
        return len(data)


def load(connector: Any, url: str, way: str) -> Any:
    if way == "waits":
        return connector.load_from_url(url, Reader(), fetch_timeout=5)
    return asyncio.run(connector.load_from_url_async(url, Reader()))


@pytest.mark.parametrize("way", ["waits", "async"])
def test_the_web_is_fetched_and_the_rest_is_left_to_vllm(connector: Any, monkeypatch, way: str) -> None:
    public(monkeypatch, "127.0.0.1")
    reader = connector.Connector(allowed_media_domains=["127.0.0.1"])
    with listening() as web:
        assert load(reader, f"HTTP://127.0.0.1:{web.port}/", way) == len(CONTENT)
        assert load(reader, "data:,x", way) == ("vLLM reads", "data:,x")
        with pytest.raises(ValueError, match=r"fetches no media from 'media\.example'"):
            load(reader, f"http://media.example:{web.port}/", way)
        monkeypatch.setenv("OMNISIFT_FETCH", '{"max_media": 0}')
        with pytest.raises(ValueError, match="larger than 0 MB"):
            load(reader, f"http://127.0.0.1:{web.port}/", way)
    with pytest.raises(ValueError, match="fetches no media;"):
        load(connector.Connector(), "http://127.0.0.1/", way)
