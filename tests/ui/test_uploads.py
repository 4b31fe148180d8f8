"""The folder of uploads: its size, the endings of names, and what broken uploads leave."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest
from tests.ui.asgi import Answer, Inner, exchange, request

from omnisift.ui import uploads
from omnisift.ui.request_filter import RequestFilter
from omnisift.ui.uploads import MEGABYTE, SUBTITLE_SUFFIXES, UPLOAD_SUFFIXES, Uploads

PATH = "/gradio_api/upload"


class Store:
    """Stores a body under its name, like Gradio: first in the folder, then in a subfolder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.names = folder, 0, ["clip.mp4"]
        self.status, self.error, self.wait = 200, None, None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        number = self.count
        part = self.folder / f"part{number}"
        with part.open("wb") as file:
            more = True
            while more:
                message = await receive()
                file.write(message["body"])
                more = message["more_body"]
        if self.wait is not None:
            await self.wait.wait()
        if self.error is not None:
            raise self.error
        stored = []
        for name in self.names:
            (self.folder / f"hash{number}").mkdir(exist_ok=True)
            path = self.folder / f"hash{number}" / name
            path.write_bytes(part.read_bytes())
            os.utime(path, (number, number))
            stored.append(str(path))
        if stored:
            part.unlink()
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(stored).encode()})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "sample.mp4").write_bytes(bytes(MEGABYTE))
    return Store(tmp_path)


def page(store: Store, max_file: int = 1000, max_total: int = 3000) -> RequestFilter:
    return RequestFilter(store, uploads=Uploads(store.folder, max_file, max_total))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_oldest_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_FORM_BYTES", 0)
    app = page(store)
    for number in range(1, 21):
        assert request(app, "POST", PATH, bytes(900)).status == 200
        kept = [f"hash{n}/clip.mp4" for n in range(max(1, number - 2), number + 1)]
        assert files(store.folder) == sorted([*kept, "samples/sample.mp4"])
    assert len(list(store.folder.iterdir())) == 4, "no empty folders stay"


@pytest.mark.parametrize("length", [None, "", "x", "-1", "\xb2"])
def test_an_upload_announces_its_size(store: Store, length: str | None) -> None:
    assert request(page(store), "POST", PATH, bytes(10), content_length=length).status == 411
    assert request(page(store), "POST", PATH, bytes(10), transfer_encoding="chunked").status == 411
    assert store.count == 0


@pytest.mark.parametrize("path", [PATH, f"{PATH}/", PATH.replace("upload", "uplo%61d")])
def test_an_upload_that_is_too_large(store: Store, path: str) -> None:
    answer = request(page(store), "POST", path, b"x", content_length=str(1001 + uploads._FORM_BYTES))
    assert (answer.status, store.count) == (413, 0)
    assert b"the maximum is 1,000" in answer.body


@pytest.mark.parametrize(
    "suffix", [*UPLOAD_SUFFIXES, *SUBTITLE_SUFFIXES, *(each.upper() for each in (*UPLOAD_SUFFIXES, ".srt"))]
)
def test_endings_of_clips(store: Store, suffix: str) -> None:
    store.names = [f"clip{suffix}"]
    assert json.loads(request(page(store), "POST", PATH, b"x").body) == [str(store.folder / "hash1" / f"clip{suffix}")]


@pytest.mark.parametrize(
    "name",
    [
        *("x.html", "x.svg", "x.exe", "state.json", "clip.mp4.html", "clip", "mp4", ".mp4", "clip.mp4.", "clip.mp4 "),
        *(
            "clip.html\u202e4pm.",
            "clip.m\u0440 4",
            "clip.js",
            "x.xhtml",
            "x.m3u8",
            "x.sub",
            "x.srt.html",
            "x.ffconcat",
            "x.mp4\u200b",
        ),
    ],
)
def test_other_endings_are_not_kept(store: Store, name: str) -> None:
    store.names = ["first.mp4", name]
    answer = request(page(store), "POST", PATH, b"x")
    assert answer.status == 415
    assert b".mp4" in answer.body
    assert files(store.folder) == ["hash1/first.mp4", "samples/sample.mp4"]


@pytest.mark.parametrize("way", ["error", "status", "no file"])
def test_broken_uploads_leave_nothing(store: Store, way: str) -> None:
    app = page(store)
    for _ in range(10):
        store.error = RuntimeError("the client left") if way == "error" else None
        store.status = 400 if way == "status" else 200
        store.names = [] if way != "error" else ["clip.mp4"]
        assert request(app, "POST", PATH, bytes(900)).status in (200, 400)
    store.error, store.status, store.names = None, 200, ["clip.mp4"]
    assert request(app, "POST", PATH, bytes(900)).status == 200
    assert files(store.folder) == ["hash11/clip.mp4", "samples/sample.mp4"]


def test_uploads_under_way_and_their_parts_are_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One upload that never ends, and others that break: together they stay below the limit."""
    monkeypatch.setattr(uploads, "_FORM_BYTES", 0)
    app = page(store)

    async def visit() -> list[Answer]:
        store.wait = asyncio.Event()
        waiting = asyncio.create_task(exchange(app, "POST", PATH, bytes(900)))
        while store.count == 0:
            await asyncio.sleep(0)
        release, store.wait = store.wait, None
        store.error = RuntimeError("the client left")
        broken = [await exchange(app, "POST", PATH, bytes(900)) for _ in range(6)]
        assert sum((store.folder / name).stat().st_size for name in files(store.folder) if "part" in name) <= 3000
        store.error = None
        release.set()
        return [*broken, await waiting]

    answers = asyncio.run(visit())
    assert [each.status for each in answers] == [400, 400, 503, 503, 503, 503, 200]
    assert files(store.folder) == ["hash1/clip.mp4", "samples/sample.mp4"]
    assert request(app, "POST", PATH, bytes(900)).status == 200


def test_an_upload_that_never_ends(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "UPLOAD_SECONDS", 0.05)
    store.wait = asyncio.Event()
    assert request(page(store), "POST", PATH, bytes(900)).status == 400
    assert files(store.folder) == ["samples/sample.mp4"]


def test_other_posts_have_the_limit_of_questions(store: Store) -> None:
    inner = Inner()
    app = RequestFilter(inner, uploads=Uploads(store.folder, 1000, 3000))
    assert request(app, "POST", "/gradio_api/upload_progress", bytes(1 << 17)).status == 413
    assert inner.seen == []
