"""Reading in windows gives what `read` gives, bit for bit, or says that the file has to be read as a whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import clip_writer
import numbered
import numpy as np
import odd_files
import pytest
from corpus import CASES, FASTSTART, Case, changed, made, scribble
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_files import FILES, OddFile

from omnisift.errors import Damaged, MediaTimeout, NotReadable, OmniSiftError, TooBig, UsageError
from omnisift.media import SAMPLE_RATE, Media, container, read, reading, work
from omnisift.media.windows import PIECE, ClipWindows, WindowsUnavailable, open_windows

SMALL: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}

AS_A_WHOLE = {
    *(f"refresh-{interval}.{suffix}" for interval in (25, 50) for suffix in ("mp4", "mkv", "ts")),
    *(f"no-index-{codec}.avi" for codec in ("wmv2", "msmpeg4", "flv1")),
    "all-key-open-group-hevc.mkv",
    "some-key-open-group-hevc.mkv",
    "from-the-middle.mp4",
}
"""Odd files where decoding can't start at a packet that claims to be a key frame."""


def joined(windows: ClipWindows, images: int, samples: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """All images and samples of a clip, in windows of so many."""
    media = windows.media
    count = 0 if media.images is None else len(media.images)
    pixels = [windows.images(stop) for stop in range(images, count + images, images)]
    count = 0 if media.waveform is None else len(media.waveform)
    waves = [windows.samples(stop) for stop in range(samples, count + samples, samples)]
    return (np.concatenate(pixels) if pixels else None), (np.concatenate(waves) if waves else None)


def assert_same(windows: ClipWindows, pieces: list[np.ndarray], expected: Media) -> None:
    """Check the outlines, all images and samples, and what is known at the end."""
    outline = windows.media
    np.testing.assert_equal(joined(windows, images=3, samples=7001), (expected.images, expected.waveform))
    final = windows.finish()
    assert final is windows.media
    np.testing.assert_equal((final.times, final.indices), (expected.times, expected.indices))
    assert (final.warnings, final.bad_packets) == (expected.warnings, expected.bad_packets)
    for name in ("path", "fps", "seconds", "video_seconds", "capped", "tags", "lines"):
        assert getattr(outline, name) == getattr(final, name) == getattr(expected, name)
    for media in (outline, final):
        for shown, array in ((media.images, expected.images), (media.waveform, expected.waveform)):
            assert (shown is None) == (array is None)
            if shown is not None:
                assert (shown.shape, shown.dtype, shown.strides) == (array.shape, array.dtype, (0,) * array.ndim)
                assert not shown.flags.writeable
    assert all(len(piece) == PIECE for piece in pieces[:-1])
    np.testing.assert_array_equal(np.concatenate([*pieces, np.zeros(0)]), [] if not pieces else expected.waveform)
    assert bool(pieces) == (expected.waveform is not None)


def check(path: Path | io.BytesIO, **options: Any) -> None:
    pieces: list[np.ndarray] = []
    with open_windows(path, on_samples=pieces.append, **options) as windows:
        assert_same(windows, pieces, read(path, **options))


def is_open(path: Path) -> bool:
    """Whether this process has a file open."""
    return any(link.is_symlink() and link.readlink() == path for link in Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds of numbered images at uneven times, several groups of pictures, B frames, and audio."""
    path = tmp_path_factory.mktemp("windows") / "clip.mkv"
    times = [n * 0.05 + 0.01 * (n % 3) for n in range(120)]
    numbered.write(path, times=times, gop=25, codec_options={"bf": "2"}, seconds=6.0)
    return path


@pytest.fixture(scope="module")
def expected(clip: Path) -> Media:
    return read(clip, **SMALL)


# --- the same as `read` ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", [c for c in CASES if not c.expected.error], ids=lambda c: ascii(c.name))
def test_the_corpus(case: Case, folder: Path) -> None:
    check(made(case, folder), **SMALL, **case.read)


@pytest.mark.parametrize("case", [c for c in CASES if c.expected.error], ids=lambda c: ascii(c.name))
def test_bad_files_give_the_errors_of_read(case: Case, folder: Path) -> None:
    path = made(case, folder)
    with pytest.raises(OmniSiftError) as error, open_windows(path, **SMALL, **case.read):
        pytest.fail("opened")
    with pytest.raises(OmniSiftError) as expected:
        read(path, **SMALL, **case.read)
    assert (type(error.value), str(error.value)) == (type(expected.value), str(expected.value))


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in FILES if f.name not in AS_A_WHOLE], ids=lambda f: f.name)
def test_odd_files(file: OddFile, folder: Path) -> None:
    check(made(file, folder), **SMALL, **file.read)


@pytest.mark.parametrize("file", [f for f in FILES if f.name in AS_A_WHOLE], ids=lambda f: f.name)
def test_files_that_have_to_be_read_as_a_whole(file: OddFile, folder: Path) -> None:
    with (
        pytest.raises(WindowsUnavailable, match="claims to be a key frame"),
        open_windows(made(file, folder), **SMALL, **file.read) as windows,
    ):
        joined(windows, images=1, samples=16_000)


@pytest.mark.parametrize(
    "options",
    [
        {"sampling": "qwen"},
        {"max_frames": 6},
        {"total_pixels": 24 * 28 * 28, "fps": 5.0},
        {"start": 1.3, "end": 4.1},
        {"fps": 20.0},
        {"max_seconds": 3.0},
        {"audio": False},
        {"video": False},
    ],
    ids=str,
)
def test_options(clip: Path, options: dict[str, Any]) -> None:
    check(clip, **SMALL, **options)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_windows(clip: Path, expected: Media, data: st.DataObject) -> None:
    """In any order of images and samples; a stop that is past or beyond the end gives nothing or what is left."""
    stops = st.lists(st.tuples(st.booleans(), st.integers(-1, 110)), max_size=12)
    images = samples = 0
    with open_windows(clip, **SMALL) as windows:
        for is_image, percent in [*data.draw(stops), (True, 110), (False, 110)]:
            if is_image:
                stop = percent * len(expected.images) // 100
                np.testing.assert_array_equal(windows.images(stop), expected.images[images : max(stop, images)])
                images = max(images, min(stop, len(expected.images)))
            else:
                stop = percent * len(expected.waveform) // 100
                np.testing.assert_array_equal(windows.samples(stop), expected.waveform[samples : max(stop, samples)])
                samples = max(samples, min(stop, len(expected.waveform)))


def test_a_file_object_keeps_its_position_and_stays_open(clip: Path) -> None:
    file = io.BytesIO(clip.read_bytes())
    file.seek(7)
    with open_windows(file, **SMALL) as windows:
        assert file.tell() == 7
        file.seek(11)  # the caller may use it between the windows
        windows.images(4)
        assert file.tell() == 11
    assert not file.closed
    check(file, **SMALL)


@pytest.mark.parametrize("audio_at", [0.0, 65.0])
def test_more_audio_than_a_piece(tmp_path: Path, audio_at: float) -> None:
    """Also where silence before it is longer than a piece."""
    path = tmp_path / "a.mp4"
    waveform = np.tile(clip_writer.beep(1.0, event=0.5), 70)
    clip_writer.write(path, fps=5, seconds=70.0, waveform=waveform, audio_at=audio_at, flash=None)
    assert read(path, **SMALL).audio_seconds > 2 * PIECE / SAMPLE_RATE
    check(path, **SMALL)


# --- files that have to be read as a whole ---------------------------------------------------------------------------
def test_frames_in_another_order_than_their_times_say(tmp_path: Path) -> None:
    def wrong(packets: list) -> None:
        for packet in packets:
            packet.pts = packet.dts

    numbered.write(tmp_path / "a.mkv", codec_options={"bf": "3"}, change=wrong)
    with (
        pytest.raises(WindowsUnavailable, match="another order"),
        open_windows(tmp_path / "a.mkv", **SMALL) as windows,
    ):
        joined(windows, images=2, samples=16_000)


def test_images_that_others_stand_for(tmp_path: Path) -> None:
    """A broadcast that begins in the middle of a group: nothing is shown until the next key frame."""
    numbered.write(tmp_path / "a.ts", gop=50, count=200, audio=None, codec_options={"sc_threshold": "0"})
    data = (tmp_path / "a.ts").read_bytes()
    starts = [at for at, pid, _ in numbered.ts_packets(bytearray(data)) if pid == 256 and data[at + 1] & 0x40]
    (tmp_path / "b.ts").write_bytes(data[: 188 * 3] + data[starts[10] :])
    with (
        pytest.raises(WindowsUnavailable, match="missing"),
        open_windows(tmp_path / "b.ts", **SMALL) as windows,
    ):
        joined(windows, images=2, samples=16_000)


def test_a_file_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    clip_writer.write(path, video=None, audio="pcm_s16le")
    with open_windows(path) as windows:
        clip_writer.write(path, video=None, audio="pcm_s16le", seconds=2.0, waveform=clip_writer.beep(2.0))
        with pytest.raises(WindowsUnavailable, match="the audio is shorter"):
            windows.samples(64_000)


# --- damage ----------------------------------------------------------------------------------------------------------
def test_damaged_packets_are_an_error_at_the_first_of_them_if_strict(tmp_path: Path) -> None:
    """The message has the number of all, as that of `read`."""
    path = tmp_path / "a.mp4"
    make = changed(lambda path: clip_writer.write(path, seconds=20.0, options=FASTSTART), scribble(0.4, 0.45, 3))
    changed(make, scribble(0.8, 0.85, 3))(path)
    with pytest.raises(Damaged) as expected:
        read(path, strict=True, audio=False, **SMALL)
    with open_windows(path, strict=True, audio=False, **SMALL) as windows:
        windows.images(8)
        with pytest.raises(Damaged) as error:
            joined(windows, images=1, samples=1)
    assert str(error.value) == str(expected.value)


def test_packets_that_can_not_be_read_count_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both passes over the file meet them."""

    def failing(*arguments: Any) -> Iterator[Any]:
        for number, packet in enumerate(container.read_packets(*arguments)):
            if number in (5, 9):
                yield None
            yield packet

    monkeypatch.setattr(reading, "read_packets", failing)
    assert read(clip, **SMALL).bad_packets == 2
    check(clip, **SMALL)


def test_audio_that_begins_with_a_damaged_packet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is moved to the first sample, and so is the stated end, after which all is padding."""
    path = tmp_path / "a.mp4"
    clip_writer.write(path, video=None, audio="flac")
    with av.open(str(path)) as file:
        first = next(file.demux(audio=0))
    clip_writer.patch(path, first.pos, bytes(first.size))
    monkeypatch.setattr(reading.ClipReader, "audio_ends", property(lambda reader: {3.9 - reader.lead_in: 0.2}))
    assert read(path).audio_seconds == pytest.approx(3.9 - 0.096)
    check(path)


# --- bounds on work --------------------------------------------------------------------------------------------------
class Clock:
    """A clock that moves by a second at each look."""

    now = 0.0

    def look(self) -> float:
        self.now += 1
        return self.now

    def wait(self, _: object = None) -> None:
        self.now += 1_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(work.time, "monotonic", clock.look)
    return clock


def test_only_the_time_of_reading_counts(clip: Path, clock: Clock) -> None:
    with open_windows(clip, read_timeout=10_000.0, on_samples=clock.wait, **SMALL) as windows:
        for stop in range(1, 14):
            clock.wait()
            windows.images(stop)
            windows.samples(stop * 8000)
        windows.finish()
    assert clock.now > 14_000_000


def test_the_time_of_all_windows_counts(clip: Path, clock: Clock) -> None:
    with open_windows(clip, **SMALL) as windows:
        opened = clock.now
        windows.images(100)
    enough_for_half = (opened + clock.now) / 2
    with open_windows(clip, read_timeout=enough_for_half, **SMALL) as windows:
        windows.images(2)
        with pytest.raises(MediaTimeout, match=r"clip\.mkv: can't be read within read_timeout="):
            joined(windows, images=1, samples=8000)


def test_the_pixels_of_all_windows_count(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "clip.mp4", gop=200)
    pixels = 88 * 64 * 48  # up to the last sampled frame
    with open_windows(tmp_path / "clip.mp4", max_decoded_pixels=pixels, **SMALL) as windows:
        assert len(windows.images(100)) == 8
    with (
        pytest.raises(TooBig, match=r"clip\.mp4: "),
        open_windows(tmp_path / "clip.mp4", max_decoded_pixels=pixels - 1, **SMALL),
    ):
        pytest.fail("opened")


# --- the end of the block --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["on_samples", "images"])
def test_the_file_is_closed_at_the_end(clip: Path, error: type[BaseException] | None, place: str) -> None:
    """An error of the caller stays what it is."""

    def fail(_: object = None) -> None:
        assert is_open(clip)
        if error is not None:
            raise error("mine")

    def use() -> None:
        with open_windows(clip, on_samples=fail if place == "on_samples" else None, **SMALL) as windows:
            windows.images(2)
            windows.samples(2)
            fail()

    if error is None:
        use()
    else:
        with pytest.raises(error, match="mine"):
            use()
    assert not is_open(clip)


def test_the_last_images_are_checked_at_once(clip: Path) -> None:
    """The decoder is drained, and the file closed, before they are returned."""
    with open_windows(clip, audio=False, **SMALL) as windows:
        windows.images(100)
        assert not is_open(clip)


def test_closed_windows_can_not_be_read(clip: Path) -> None:
    with open_windows(clip, **SMALL) as windows:
        pass
    with pytest.raises(UsageError, match="within the block of open_windows"):
        windows.images(1)


def test_threads_wait_for_each_other(clip: Path, expected: Media) -> None:
    with open_windows(clip, **SMALL) as windows, ThreadPoolExecutor(2) as pool:
        images = [pool.submit(windows.images, 100)]
        samples = [pool.submit(windows.samples, stop) for stop in range(8000, len(expected.waveform) + 8000, 8000)]
        np.testing.assert_array_equal(images[0].result(), expected.images)
        np.testing.assert_array_equal(np.concatenate([part.result() for part in samples]), expected.waveform)


def test_images_that_are_not_taken_are_checked_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    numbered.write(path, container="mp4", count=400, audio=None, **odd_files.refresh(50))
    with open_windows(path, **SMALL) as windows, pytest.raises(WindowsUnavailable):
        windows.finish()


# --- arguments -------------------------------------------------------------------------------------------------------
def test_arguments_are_those_of_read(clip: Path) -> None:
    with pytest.raises(TypeError, match="frames"), open_windows(clip, frames=2):
        pytest.fail("opened")
    with pytest.raises(UsageError, match="fps must be above 0"), open_windows(clip, fps=0):
        pytest.fail("opened")


def test_a_file_object_that_fails_later(clip: Path) -> None:
    class Failing(io.BytesIO):
        broken = False

        def read(self, size: int | None = -1) -> bytes:
            if self.broken:
                raise OSError("gone")
            return super().read(size)

    file = Failing(clip.read_bytes())
    with open_windows(file, **SMALL) as windows:
        file.broken = True
        with pytest.raises(NotReadable, match="gone"):
            windows.samples(64_000)
