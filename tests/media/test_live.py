"""Streams: a file's pieces are what `read` gives; pipes, addresses and devices give the same where they can."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import clip_writer
import numpy as np
import pytest
from corpus import CASES, made
from odd_files import FILES

from omnisift.errors import (
    Blocked,
    MediaError,
    MediaTimeout,
    NotFound,
    NotMedia,
    NotReadable,
    TooBig,
    UsageError,
)
from omnisift.media import SAMPLE_RATE, Media, live_decode, live_inputs, read
from omnisift.media.live import IN_ONE_PASS, LiveSource, open_stream
from omnisift.media.live_bytes import shown_address
from omnisift.media.live_clock import JUMPED, LiveClock
from omnisift.media.live_inputs import Device
from omnisift.media.live_order import PIECE_SAMPLES, StreamOrder
from omnisift.media.live_warnings import WarningLog
from omnisift.media.pieces import Piece

SMALL: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 4 * 28 * 28}
LIVE: dict[str, Any] = {**SMALL, "allow_addresses": True, "read_timeout": 5.0}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
CONTAINERS = {
    "ts": {"container": "mpegts"},
    "mkv": {"container": "matroska"},
    "frag": {"container": "mp4", "options": FRAGMENTED},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One clip of 4 s in each container."""
    folder = tmp_path_factory.mktemp("live")
    paths = {"mp4": folder / "clip.mp4"} | {name: folder / f"clip.{name}" for name in CONTAINERS}
    for name, path in paths.items():
        clip_writer.write(path, waveform=noise(), **CONTAINERS.get(name, {}))
    return paths


class FakeTimer:
    """A clock that moves only while something waits."""

    def __init__(self) -> None:
        self.time = 100.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.time

    def wait(self, seconds: float, stopped: threading.Event) -> None:
        self.waits.append(seconds)
        self.time += seconds


def noise(seconds: float = clip_writer.SECONDS) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (1, round(48_000 * seconds))).astype(np.float32)


def played(source: LiveSource) -> list[Piece]:
    with source:
        return list(source)


def joined(pieces: list[Piece]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """All images and samples, which must follow each other without a gap."""
    images, samples = [], []
    for piece in pieces:
        if piece.image is not None:
            images.append(piece.image)
        if piece.samples is not None:
            assert piece.time == sum(map(len, samples)) / SAMPLE_RATE
            samples.append(piece.samples)
    return (np.stack(images) if images else None), (np.concatenate(samples) if samples else None)


def assert_in_order(pieces: list[Piece], fps: float) -> None:
    assert min(np.diff([piece.time for piece in pieces])) > -1e-9
    images = [piece.time for piece in pieces if piece.image is not None]
    assert images == [number / fps for number in range(len(images))]
    assert all(piece.samples is None or 0 < len(piece.samples) <= PIECE_SAMPLES for piece in pieces)


def check(path: Path, fps: float = 2.0, **options: Any) -> list[Piece]:
    expected: Media = read(path, fps=fps, max_frames=10_000, **{**SMALL, **options})
    pieces = played(open_stream(path, fps=fps, **{**SMALL, **options}))
    np.testing.assert_equal(joined(pieces), (expected.images, expected.waveform))
    assert_in_order(pieces, fps)
    return pieces


@pytest.mark.parametrize("fps", [2.0, 0.7, 3.0, 25.0])
def test_a_file_gives_what_read_gives(clips: dict[str, Path], fps: float) -> None:
    pieces = check(clips["mp4"], fps)
    # No samples reach beyond the next image, and each image precedes the samples of its time.
    heard = 0.0
    for piece in pieces:
        if piece.image is not None and piece.time < clip_writer.SECONDS - 0.1:
            assert heard == pytest.approx(piece.time, abs=1.01 / SAMPLE_RATE)
        if piece.samples is not None:
            heard = piece.time + len(piece.samples) / SAMPLE_RATE


def test_one_track_alone(clips: dict[str, Path], tmp_path: Path) -> None:
    check(clips["mp4"], video=False)
    check(clips["mp4"], audio=False)
    clip_writer.write(tmp_path / "a.wav", video=None, audio="pcm_s16le", seconds=1.3)
    clip_writer.write(tmp_path / "v.mp4", audio=None, seconds=1.3)
    assert [piece.image is None for piece in check(tmp_path / "a.wav")] == [True] * 6
    assert [piece.image is None for piece in check(tmp_path / "v.mp4")] == [False] * 4


def test_more_images_than_read_takes(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "long.mp4", fps=2, seconds=150.0, audio=None)
    assert len(read(tmp_path / "long.mp4", **SMALL).times) == 256
    assert len(check(tmp_path / "long.mp4")) == 300


def test_a_file_tells_what_it_has(clips: dict[str, Path]) -> None:
    heard: list[np.ndarray] = []
    with open_stream(clips["mp4"], on_samples=heard.append, **SMALL) as source:
        assert (source.has_video, source.has_audio, source.is_live) == (True, True, False)
        assert source.seconds == pytest.approx(clip_writer.SECONDS, abs=0.1)
        samples = joined(list(source))[1]
        assert source.warnings == ()
    np.testing.assert_array_equal(np.concatenate(heard), samples)


@pytest.mark.parametrize("name", ["refresh-25.ts", "all-key-open-group-hevc.mkv"])
def test_a_file_that_has_to_be_decoded_in_one_pass(folder: Path, name: str) -> None:
    path = made(next(file for file in FILES if file.name == name), folder)
    expected = read(path, **SMALL)
    with open_stream(path, **SMALL) as source:
        images, _ = joined(list(source))
        assert IN_ONE_PASS in [warning.text for warning in source.warnings]
    assert images is not None
    assert expected.images is not None
    assert abs(len(images) - len(expected.images)) <= 2
    # Nearly all images are the same.
    count = min(len(images), len(expected.images))
    same = [np.array_equal(one, other) for one, other in zip(images[:count], expected.images[:count], strict=True)]
    assert np.mean(same) > 0.8


@pytest.mark.parametrize("speed", [1.0, 2.0])
def test_speed_is_kept_by_the_clock(clips: dict[str, Path], speed: float) -> None:
    timer = FakeTimer()
    with open_stream(clips["mp4"], speed=speed, timer=timer, **SMALL) as source:
        assert source.is_live
        for piece in source:
            end = piece.time + (0 if piece.samples is None else len(piece.samples) / SAMPLE_RATE)
            assert timer.time - 100.0 == pytest.approx(end / speed)
    assert len(timer.waits) > 10


def test_after_a_delay_pieces_come_at_once_until_the_clock_is_reached(clips: dict[str, Path]) -> None:
    timer = FakeTimer()
    with open_stream(clips["mp4"], speed=1.0, timer=timer, **SMALL) as source:
        pieces = iter(source)
        next(pieces)
        timer.time += 2.0
        while next(pieces).time < 1.7:
            assert timer.waits == []
        while next(pieces).time < 3:
            pass
        assert timer.time == pytest.approx(103.0, abs=0.3)


def test_a_stopped_source_ends(clips: dict[str, Path]) -> None:
    source = open_stream(clips["mp4"], speed=1.0, timer=FakeTimer(), **SMALL)
    pieces = iter(source)
    next(pieces)
    source.stop()
    assert list(pieces) == []
    source.close()


# --- pipes ---------------------------------------------------------------------------------------------------------


class Unseekable(io.RawIOBase):
    """A pipe-like object that gives a few bytes at a time."""

    def __init__(self, data: bytes, step: int = 1000) -> None:
        self._data, self._step = io.BytesIO(data), step

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._data.read(min(self._step, len(buffer)))
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("fps", [2.0, 3.0])
def test_a_pipe_gives_what_read_gives_of_the_file(clips: dict[str, Path], name: str, fps: float) -> None:
    expected = read(clips[name], fps=fps, **SMALL)
    pieces = played(open_stream(Unseekable(clips[name].read_bytes()), fps=fps, **SMALL))
    images, samples = joined(pieces)
    np.testing.assert_equal(images, expected.images)
    assert samples is not None
    assert expected.waveform is not None
    # A file may state its own end, to a sample.
    end = len(expected.waveform)
    assert end <= len(samples) <= end + 1
    np.testing.assert_equal(samples[:end], expected.waveform)
    assert_in_order(pieces, fps)


def test_one_track_of_a_pipe(clips: dict[str, Path], tmp_path: Path) -> None:
    content = clips["ts"].read_bytes()
    assert joined(played(open_stream(Unseekable(content), video=False, **SMALL)))[0] is None
    assert joined(played(open_stream(Unseekable(content), audio=False, **SMALL)))[1] is None
    clip_writer.write(tmp_path / "a.wav", video=None, audio="pcm_s16le", seconds=1.3)
    expected = read(tmp_path / "a.wav", **SMALL)
    pieces = played(open_stream(Unseekable((tmp_path / "a.wav").read_bytes()), **SMALL))
    np.testing.assert_equal(joined(pieces), (None, expected.waveform))


def test_standard_input_and_a_named_pipe(
    clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read(clips["ts"], **SMALL)
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        (tmp_path / "pipe").write_bytes(clips["ts"].read_bytes())

    writer = threading.Thread(target=write)
    writer.start()
    source = open_stream(tmp_path / "pipe", **SMALL)
    assert (source.is_live, source.seconds, source.name) == (False, None, str(tmp_path / "pipe"))
    np.testing.assert_equal(joined(played(source)), (expected.images, expected.waveform))
    writer.join()
    with clips["ts"].open("rb") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        np.testing.assert_equal(joined(played(open_stream("-", **SMALL))), (expected.images, expected.waveform))


def test_a_silent_pipe_is_a_timeout(tmp_path: Path, clips: dict[str, Path]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaTimeout, match=r"pipe: no data for 0.05 s; check what sends"):
        open_stream(tmp_path / "pipe", read_timeout=0.05)
    # A writer that stops in the middle.
    with pipe_with(clips["ts"].read_bytes()[:20_000]) as path, pytest.raises(MediaTimeout, match=r"no data for 0.2 s"):
        played(open_stream(path, read_timeout=0.2, **SMALL))


@contextmanager
def pipe_with(data: bytes) -> Iterator[str]:
    """A pipe that holds some bytes and whose writer does not end."""
    reading, writing = os.pipe()
    os.write(writing, data)
    try:
        yield f"/proc/self/fd/{reading}"
    finally:
        os.close(writing)
        os.close(reading)


def test_a_waiting_pipe_can_be_stopped(clips: dict[str, Path]) -> None:
    with pipe_with(clips["ts"].read_bytes()[:60_000]) as path:
        source = open_stream(path, read_timeout=60.0, **SMALL)
        pieces: list[Piece] = []
        first = threading.Event()

        def run() -> None:
            for piece in source:
                pieces.append(piece)
                first.set()

        reader = threading.Thread(target=run)
        reader.start()
        assert first.wait(20)
        source.stop()
        reader.join(20)
        assert not reader.is_alive()
        source.close()
    assert pieces


def test_what_is_no_stream_is_refused(clips: dict[str, Path]) -> None:
    for content in (b"", b"no media at all" * 1000, b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"):
        with pytest.raises(NotMedia, match=r"^<Unseekable>: is not recognised as media .* MPEG-TS"):
            open_stream(Unseekable(content))
    with pytest.raises(NotMedia):  # an index at the end can't be read without seeking
        open_stream(Unseekable(b"\0\0\0\x18ftypmp42" + b"\0" * 12 + b"\0\0\0\x08free"))


@pytest.mark.parametrize("name", ["late-video.mp4", "edit-list.mp4", "screen.mkv", "restart-b.ts", "wrap.ts"])
def test_odd_files_in_one_pass(folder: Path, name: str) -> None:
    """Edit lists, still screens, and clocks that wrap or jump: the images of `read`."""
    found = [file for file in (*CASES, *FILES) if file.name == name]
    path = made(found[0], folder)
    expected = read(path, **SMALL)
    images, samples = joined(played(open_stream(Unseekable(path.read_bytes(), 1 << 15), **SMALL)))
    np.testing.assert_equal(images, expected.images)
    assert samples is not None
    assert expected.waveform is not None
    assert len(samples) == pytest.approx(len(expected.waveform), abs=1200)


# --- clocks, gaps and damage --------------------------------------------------------------------------------------


def test_the_restart_of_an_encoder_is_a_warning(clips: dict[str, Path]) -> None:
    content = clips["ts"].read_bytes()
    with open_stream(Unseekable(content * 3), fps=10.0, **SMALL) as source:
        pieces = list(source)
        clock = [warning for warning in source.warnings if warning.kind == "clock"]
    assert_in_order(pieces, 10.0)
    assert (clock[0].text, clock[0].count) == (JUMPED, 2)
    assert clock[0].time == pytest.approx(clip_writer.SECONDS, abs=0.3)
    images, samples = joined(pieces)
    assert images is not None
    assert samples is not None
    assert len(samples) / SAMPLE_RATE == pytest.approx(3 * clip_writer.SECONDS, abs=0.3)
    # Each part has its flash 3 s after its beginning.
    bright = np.flatnonzero(images.mean((1, 2, 3)) > 180) / 10
    parts = np.arange(3) * clip_writer.SECONDS
    assert [np.abs(bright - part - clip_writer.EVENT).min() < 0.15 for part in parts] == [True] * 3
    assert len(bright) == pytest.approx(6, abs=2)


def test_tracks_that_jump_one_after_the_other_stay_together() -> None:
    log = WarningLog()
    clock = LiveClock(log)
    for number in range(10):
        assert clock.shift(0, number * 0.04) == 0
        assert clock.shift(1, number * 0.04) == 0
    # Both restart at 1000 s; the video a little earlier in the stream than the audio.
    first = clock.shift(0, 1000.0)
    assert 1000.0 + first == pytest.approx(0.4)
    assert clock.shift(1, 0.40) == 0
    assert clock.shift(1, 1000.04) == first
    assert [(warning.kind, warning.count) for warning in log.all()] == [("clock", 1)]
    # One broken time stamp moves nothing after it by more than a packet.
    clock.shift(0, 5e6)
    assert 1000.08 + clock.shift(0, 1000.08) == pytest.approx(0.48, abs=0.05)


def test_broken_packets_are_warnings(clips: dict[str, Path]) -> None:
    content = bytearray(clips["ts"].read_bytes())
    for start in range(len(content) // 2, len(content) // 2 + 188 * 60, 188):
        content[start + 8 : start + 188] = bytes(180)
    with open_stream(Unseekable(bytes(content)), **SMALL) as source:
        pieces = list(source)
        kinds = {warning.kind for warning in source.warnings}
    assert_in_order(pieces, 2.0)
    assert "damaged" in kinds
    assert pieces[-1].time > clip_writer.SECONDS - 0.6


def test_a_stream_that_begins_in_the_middle(clips: dict[str, Path]) -> None:
    content = clips["ts"].read_bytes()
    pieces = played(open_stream(Unseekable(content[len(content) // 2 // 188 * 188 :]), **SMALL))
    assert_in_order(pieces, 2.0)
    images, samples = joined(pieces)
    assert images is not None
    assert samples is not None
    assert len(images) >= 2
    assert 1.0 < len(samples) / SAMPLE_RATE < 3.5


def test_silence_and_the_last_image_stand_for_a_track_that_stops(tmp_path: Path) -> None:
    # 0.5 s of audio for 15 s of video, and the other way round.
    clip_writer.write(tmp_path / "a.ts", container="mpegts", seconds=15.0, fps=5, waveform=noise(0.5))
    with open_stream(Unseekable((tmp_path / "a.ts").read_bytes()), **SMALL) as source:
        pieces = list(source)
        assert [(warning.kind, warning.text) for warning in source.warnings] == [("gap", live_decode.NO_SAMPLES)]
    images, samples = joined(pieces)
    assert images is not None
    assert samples is not None
    assert len(images) == 30
    assert samples[:7000].any()
    assert not samples[10_000:].any()
    clip_writer.write(tmp_path / "b.ts", container="mpegts", fps=5, times=np.arange(10) / 5, waveform=noise(15.0))
    with open_stream(Unseekable((tmp_path / "b.ts").read_bytes()), **SMALL) as source:
        pieces = list(source)
        assert [(warning.kind, warning.text) for warning in source.warnings] == [("gap", live_decode.NO_IMAGES)]
    images, samples = joined(pieces)
    assert images is not None
    assert samples is not None
    assert len(samples) == pytest.approx(15 * SAMPLE_RATE, abs=1600)
    assert len(images) == 30
    # What waits in the decoder comes at the end alone, 10 s before it.
    assert all(np.array_equal(image, images[-1]) for image in images[10:])
    assert not np.array_equal(images[0], images[-1])


def test_a_pause_of_one_track_is_no_jump() -> None:
    log = WarningLog()
    clock = LiveClock(log)
    for number in range(100):
        assert clock.shift(1, number * 0.5) == 0
        assert number % 60 or clock.shift(0, number * 0.5) == 0  # an image every 30 s
    assert log.all() == ()
    # Where a clock can't jump, both may pause.
    clock = LiveClock(log, may_jump=False)
    assert [clock.shift(0, stamp) for stamp in (0.0, 0.5, 600.0)] == [0, 0, 0]
    assert log.all() == ()
    assert clock.shift(0, 1e7) < -9e6
    assert [warning.kind for warning in log.all()] == ["clock"]


@pytest.mark.parametrize("jump", [-0.5, -100.0, 100.0])
def test_a_few_broken_stamps_move_nothing(jump: float) -> None:
    clock = LiveClock(WarningLog())
    for number in range(100):
        stamp = number * 0.04
        broken = 50 <= number < 53
        offset = clock.shift(0, stamp + jump * broken)
        assert stamp + jump * broken + offset == pytest.approx(stamp, abs=0.1)
        assert broken or abs(offset) < 1e-9
        assert clock.shift(1, stamp) == 0


def test_a_track_that_begins_with_a_broken_stamp_follows_the_other() -> None:
    clock = LiveClock(WarningLog())
    assert clock.shift(0, 0.0) == 0
    offset = clock.shift(1, 3600.0)
    assert 3600.0 + offset == pytest.approx(0.0)
    assert clock.shift(0, 3600.04) == offset


def test_another_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = []
    for number, size in enumerate(((64, 48), (96, 80))):
        path = tmp_path / f"{number}.ts"
        clip_writer.write(path, container="mpegts", size=size, seconds=2.0, audio=None)
        parts.append(path.read_bytes())
    with open_stream(Unseekable(b"".join(parts)), **SMALL) as source:
        images = [piece.image for piece in source if piece.image is not None]
        assert any("changes from 64 x 48 to 96 x 80" in warning.text for warning in source.warnings)
    assert {image.shape for image in images} == {images[0].shape}
    assert len(images) >= 7


def test_too_large_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip_writer.write(tmp_path / "a.ts", container="mpegts", seconds=1.0)
    monkeypatch.setattr("omnisift.media.tracks.MAX_CODED_PIXELS", 64 * 47)
    with pytest.raises(TooBig, match=r"^<Unseekable>: video of 64 x 48 is over the limit"):
        open_stream(Unseekable((tmp_path / "a.ts").read_bytes()))


def test_the_memory_of_a_stream_is_bounded(clips: dict[str, Path]) -> None:
    with open_stream(Unseekable(clips["ts"].read_bytes() * 10), fps=5.0, **SMALL) as source:
        feed: Any = source._feed  # what waits in it
        most = 0
        for _ in source:
            most = max(most, feed._images.ready, len(feed._queue._pieces))
    assert most < 60  # about a second of images and of blocks of samples


# --- addresses -----------------------------------------------------------------------------------------------------


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler: BaseHTTPRequestHandler, data: bytes, length: int | None = None) -> None:
    handler.send_response(200)
    if length is not None:
        handler.send_header("Content-Length", str(length))
    handler.send_header("Content-Type", "video/mp2t")
    handler.end_headers()
    for start in range(0, len(data), 3000):
        handler.wfile.write(data[start : start + 3000])


def test_a_stream_over_http(clips: dict[str, Path]) -> None:
    content, requests = clips["ts"].read_bytes(), []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        requests.append((handler.path, handler.headers.get("Authorization")))
        if handler.path == "/old":
            handler.send_response(302)
            handler.send_header("Location", "/live?a=1")
            handler.end_headers()
        elif handler.path.startswith("/live"):
            send(handler, content)
        elif handler.path == "/stored":
            send(handler, content, length=len(content))
        else:
            handler.send_error(404)

    expected = read(clips["ts"], **SMALL)
    with http_server(answer) as url:
        source = open_stream(f"{url}/old", **LIVE, timer=FakeTimer())
        assert (source.is_live, source.seconds) == (True, None)
        np.testing.assert_equal(joined(played(source)), (expected.images, expected.waveform))
        played(open_stream(url.replace("//", "//me:se%20cret@") + "/live", **LIVE, timer=FakeTimer()))
        with pytest.raises(NotFound, match=r"^http://127.0.0.1:\d+/gone: the server answers with status 404"):
            open_stream(f"{url}/gone?password=1", **LIVE, timer=FakeTimer())
        # What has a length is a stored file, and waits; else at most 1.1 seconds pass in one.
        stored = open_stream(f"{url}/stored", **LIVE, timer=FakeTimer())
        assert not stored.is_live
        np.testing.assert_equal(joined(played(stored)), (expected.images, expected.waveform))
        timer = FakeTimer()
        played(open_stream(f"{url}/live", **LIVE, timer=timer))
        assert timer.time - 100 == pytest.approx(clip_writer.SECONDS / 1.1, abs=0.3)
    del requests[4:]
    assert [path for path, _ in requests] == ["/old", "/live?a=1", "/live", "/gone?password=1"]
    assert [secret for _, secret in requests] == [None, None, "Basic bWU6c2UgY3JldA==", None]


def test_addresses_are_opened_only_if_allowed() -> None:
    for url in ("http://127.0.0.1:9/a.ts", "rtsp://u:secret@127.0.0.1:9/a", "tcp://127.0.0.1:9", "udp://127.0.0.1:9"):
        with pytest.raises(Blocked, match=r"addresses are not opened; allow them \(--allow-address") as caught:
            open_stream(url)
        assert "secret" not in str(caught.value)
    for url in ("file:///etc/passwd", "concat://a", "http://", "tcp://127.0.0.1", "http://[::1", "gopher://a:1"):
        with pytest.raises(UsageError, match="no address that can be opened"):
            open_stream(url, **LIVE, timer=FakeTimer())
    assert shown_address("rtsp://u:p@h:1/a/b?key=1") == "rtsp://h:1/a/b"


def test_addresses_that_do_not_answer(clips: dict[str, Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as line:
        port = line.getsockname()[1]
        quick = LIVE | {"read_timeout": 0.2}
        for url in (f"http://127.0.0.1:{port}/", f"tcp://127.0.0.1:{port}", f"rtsp://127.0.0.1:{port}/a"):
            with pytest.raises(MediaTimeout, match=rf"^{url}: no data for 0.2 s"):
                open_stream(url, **quick)
    for url in (f"http://127.0.0.1:{port}/", f"tcp://127.0.0.1:{port}", f"rtsp://127.0.0.1:{port}/a"):
        with pytest.raises(NotReadable, match=rf"^{url}: can't be re(ached|ad) \(Connection refused\)"):
            open_stream(url, **LIVE, timer=FakeTimer())

    def loop(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/passwd" if handler.path == "/file" else handler.path)
        handler.end_headers()

    with http_server(loop) as url:
        with pytest.raises(NotReadable, match="redirects more than 5 times"):
            open_stream(f"{url}/loop", **LIVE, timer=FakeTimer())
        with pytest.raises(MediaError, match=r"file:///etc/passwd"):
            open_stream(f"{url}/file", **LIVE, timer=FakeTimer())


def test_a_stream_over_tcp_and_udp(clips: dict[str, Path]) -> None:
    content = clips["ts"].read_bytes()
    expected = read(clips["ts"], **SMALL)
    with socket.create_server(("127.0.0.1", 0)) as line:

        def serve() -> None:
            connection, _ = line.accept()
            with connection:
                connection.sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        source = open_stream(f"tcp://127.0.0.1:{line.getsockname()[1]}", **LIVE, timer=FakeTimer())
        np.testing.assert_equal(joined(played(source)), (expected.images, expected.waveform))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.bind(("127.0.0.1", 0))
        port = line.getsockname()[1]
    ended = threading.Event()

    def send_datagrams() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.is_set():
                for start in range(0, len(content), 1316):
                    sender.sendto(content[start : start + 1316], ("127.0.0.1", port))
                    if ended.wait(0.001):
                        break

    sender = threading.Thread(target=send_datagrams)
    sender.start()
    try:
        with open_stream(f"udp://127.0.0.1:{port}", **LIVE, timer=FakeTimer()) as source:
            pieces = [piece for piece, _ in zip(source, range(12), strict=False)]
    finally:
        ended.set()
        sender.join()
    assert_in_order(pieces, 2.0)
    assert {piece.image is None for piece in pieces} == {True, False}


def rtsp_server(line: socket.socket, content: bytes) -> None:
    """Play a transport stream to one client, over its own connection."""
    connection, _ = line.accept()
    with connection, connection.makefile("rb") as requests:
        while True:
            lines = []
            while (text := requests.readline().decode().strip()) or not lines:
                if not text:
                    return
                lines.append(text)
            method = lines[0].split()[0]
            number = next(text.split(":")[1].strip() for text in lines if text.lower().startswith("cseq"))
            body = ""
            more = "Session: 1\r\n"
            if method == "OPTIONS":
                more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            if method == "DESCRIBE":
                body = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:t0\r\n"
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            if method == "SETUP":
                more += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            connection.sendall(f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}".encode())
            if method == "PLAY":
                for sequence, start in enumerate(range(0, len(content), 1316)):
                    packet = struct.pack(">BBHII", 0x80, 33, sequence & 0xFFFF, 0, 1) + content[start : start + 1316]
                    connection.sendall(b"$\0" + struct.pack(">H", len(packet)) + packet)
                return


def test_a_stream_over_rtsp(clips: dict[str, Path]) -> None:
    expected = read(clips["ts"], **SMALL)
    with socket.create_server(("127.0.0.1", 0)) as line:
        server = threading.Thread(target=rtsp_server, args=(line, clips["ts"].read_bytes()), daemon=True)
        server.start()
        source = open_stream(f"rtsp://127.0.0.1:{line.getsockname()[1]}/live", **LIVE, timer=FakeTimer())
        images, samples = joined(played(source))
        server.join(20)
    assert images is not None
    assert samples is not None
    assert expected.images is not None
    np.testing.assert_array_equal(images[:7], expected.images[:7])
    assert len(samples) / SAMPLE_RATE == pytest.approx(clip_writer.SECONDS, abs=0.3)


# --- devices -------------------------------------------------------------------------------------------------------


def test_a_camera_and_a_microphone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins of FFmpeg: a test image and a tone, with the clock of a machine that runs for long."""
    filters = {
        "camera": "testsrc=size=64x48:rate=25,setpts=PTS+100000/TB",
        "microphone": "sine=frequency=440,asetpts=PTS+100000/TB",
    }
    for kind, source in filters.items():
        monkeypatch.setitem(live_inputs._DEVICES, (kind, "linux"), lambda name, source=source: Device("lavfi", source))
    monkeypatch.setattr("sys.platform", "linux")
    with open_stream("camera:0", **SMALL, timer=FakeTimer()) as camera:
        assert (camera.has_video, camera.has_audio, camera.is_live) == (True, False, True)
        pieces = [piece for piece, _ in zip(camera, range(20), strict=False)]
    assert_in_order(pieces, 2.0)
    assert pieces[-1].time == 9.5
    with open_stream("microphone:", **SMALL, timer=FakeTimer()) as microphone:
        assert (microphone.has_video, microphone.has_audio) == (False, True)
        _, samples = joined([piece for piece, _ in zip(microphone, range(8), strict=False)])
    assert samples is not None
    assert len(samples) == 2 * SAMPLE_RATE
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) / 2 == pytest.approx(440, abs=1)


@pytest.mark.parametrize(
    ("platform", "kind", "name", "device"),
    [
        ("linux", "camera", "0", Device("v4l2", "/dev/video0")),
        ("linux", "camera", "/dev/video2", Device("v4l2", "/dev/video2")),
        ("linux", "microphone", "default", Device("alsa", "default")),
        ("darwin", "camera", "1", Device("avfoundation", "1:none", (("framerate", "30"),))),
        ("darwin", "microphone", "0", Device("avfoundation", "none:0")),
        ("win32", "camera", "Webcam", Device("dshow", "video=Webcam")),
    ],
)
def test_each_system_has_its_devices(platform: str, kind: str, name: str, device: Device) -> None:
    assert live_inputs._DEVICES[kind, platform](name) == device


def test_devices_that_can_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "plan9")
    with pytest.raises(NotReadable, match=r"^camera:0: this build of PyAV opens no camera \(plan9\); record with"):
        open_stream("camera:0")
    monkeypatch.setitem(live_inputs._DEVICES, ("camera", "plan9"), lambda name: Device("lavfi", "nosuchfilter"))
    with pytest.raises(NotReadable, match=r"^camera:0: can't be opened .*check the camera's name"):
        open_stream("camera:0")
    monkeypatch.setitem(live_inputs._DEVICES, ("camera", "plan9"), lambda name: Device("lavfi", "testsrc"))
    with pytest.raises(UsageError, match=r"camera:0 is live and has its own speed; leave speed out, got 2"):
        open_stream("camera:0", speed=2.0)
    open_stream("camera:0", speed=1.0).close()


def test_wrong_arguments() -> None:
    for options, message in (
        ({"fps": 0}, "fps must be above 0"),
        ({"speed": 0}, "speed must be above 0, or None"),
        ({"speed": "fast"}, "speed must be above 0, or None"),
        ({"read_timeout": 0}, "read_timeout must be above 0"),
        ({"video": False, "audio": False}, "leave nothing to read"),
        ({"max_pixels": 1}, "max_pixels"),
    ):
        with pytest.raises(UsageError, match=message):
            open_stream("clip.mp4", **options)  # type: ignore[arg-type]
    with pytest.raises(MediaError, match=r"nowhere.mp4: can't be found"):
        open_stream("nowhere.mp4")


def test_the_order_of_a_stream() -> None:
    order = StreamOrder(2.0, has_video=True, has_audio=True)
    assert order.is_image_next
    order.image = 1
    assert (order.is_image_next, order.samples_end) == (False, PIECE_SAMPLES)
    order.sample = 2 * PIECE_SAMPLES
    assert order.is_image_next
    thirds = StreamOrder(3.0, has_video=True, has_audio=True)
    thirds.image, thirds.sample = 1, PIECE_SAMPLES
    assert thirds.samples_end == 5334  # the first sample at or after 1/3 s
