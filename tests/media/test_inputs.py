"""What `read` takes: paths, file objects and arrays give the same clip; anything else is one typed error."""

from __future__ import annotations

import io
import os
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import clip_writer
import numpy as np
import pytest
from corpus import CASES

from omnisift.errors import MediaError, MediaTimeout, NotAFile, NotMedia, NotReadable, OmniSiftError, TooBig, UsageError
from omnisift.media import Media, read

SMALL = {"min_pixels": 784, "max_pixels": 16 * 784}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without loss, so that its frames are those of `clip_writer.image`."""
    path = tmp_path_factory.mktemp("inputs") / "clip.mkv"
    clip_writer.write(path, video="ffv1", pixels="bgr0", audio="pcm_s16le")
    return path


def assert_same(one: Media, other: Media) -> None:
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.waveform, other.waveform)
    np.testing.assert_array_equal(one.times, other.times)
    assert (one.fps, one.seconds, one.warnings) == (other.fps, other.seconds, other.warnings)


def fails(error: type[OmniSiftError], *words: str) -> Any:
    return pytest.raises(error, match=r"\A[^\n]*" + "[^\n]*".join(words) + r"[^\n]*\Z")


# --- file objects ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name", [case.name for case in CASES if case.category in ("good", "formats", "offset") and not case.expected.error]
)
def test_a_file_object_gives_what_the_file_gives(name: str, tmp_path: Path) -> None:
    case = next(case for case in CASES if case.name == name)
    case.make(tmp_path / name)
    expected = read(tmp_path / name, **SMALL, **case.read)
    assert_same(expected, read(io.BytesIO((tmp_path / name).read_bytes()), **SMALL, **case.read))
    with (tmp_path / name).open("rb") as file:
        assert_same(expected, read(file, **SMALL, **case.read))


def test_a_file_object_keeps_its_position_and_stays_open(clip: Path) -> None:
    file = io.BytesIO(clip.read_bytes())
    file.seek(77)
    media = read(file, **SMALL)
    assert (file.tell(), file.closed, str(media.path)) == (77, False, "<BytesIO>")
    with pytest.raises(MediaError):
        read(file, **SMALL, max_decoded_pixels=1)
    assert (file.tell(), file.closed) == (77, False)


def test_the_name_of_a_file_object(clip: Path) -> None:
    content = clip.read_bytes()
    with tempfile.NamedTemporaryFile(suffix=".mkv") as file:
        file.write(content)
        assert str(read(file, **SMALL).path) == file.name
    with tempfile.TemporaryFile() as file:  # its name is a number
        file.write(content)
        assert str(read(file, **SMALL).path).startswith("<")
    with tempfile.SpooledTemporaryFile() as file:
        file.write(content)
        assert str(read(file, **SMALL).path) == "<SpooledTemporaryFile>"


def test_a_member_of_an_archive(clip: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "clips.zip", "w") as archive:
        archive.write(clip, "a.mkv")
    with zipfile.ZipFile(tmp_path / "clips.zip") as archive, archive.open("a.mkv") as file:
        assert_same(read(clip, **SMALL), read(file, **SMALL))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "NoneType"),
        (5, "int"),
        (2.5, "float"),
        ({"path": "a.mp4"}, "dict"),
        (["a.mp4"], "list"),
        (b"a.mp4", "BytesIO"),
        (bytearray(b"a"), "BytesIO"),
        (object(), "object"),
        (read, "function"),
        (np.zeros(3), "from_arrays"),
        (io.StringIO("words"), "for text"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_one_typed_error(source: Any, words: str) -> None:
    with fails(UsageError, words):
        read(source)


def test_a_decoded_clip_is_not_read_again() -> None:
    with fails(UsageError, "decoded already"):
        read(Media.from_arrays(waveform=WAVE, sample_rate=48_000))


def test_files_that_are_open_in_another_way(clip: Path) -> None:
    with clip.open("rb") as file:
        pass
    with fails(UsageError, "clip.mkv: the file object is closed"):
        read(file)
    with clip.open(encoding="latin-1") as file, fails(UsageError, "for text; open it with 'rb'"):
        read(file)
    with clip.open("ab") as file, fails(UsageError, "not opened for reading"):
        read(file)
    with fails(NotMedia, "<BytesIO> is empty"):
        read(io.BytesIO())


def test_pipes_and_devices(clip: Path) -> None:
    process = subprocess.Popen(["cat", str(clip)], stdout=subprocess.PIPE)
    with fails(UsageError, "can't seek"):
        read(process.stdout)
    process.stdout.close()
    process.wait()
    with Path(os.devnull).open("rb") as file, fails(NotAFile, "device"):
        read(file)


class Odd(io.BytesIO):
    """A file object that answers wrongly from some position on."""

    def __init__(self, content: bytes, answer: Callable[[int], Any], after: int = 0) -> None:
        super().__init__(content)
        self.answer, self.after = answer, after

    def read(self, size: int | None = -1) -> Any:
        return self.answer(size or 0) if self.tell() >= self.after else super().read(size)


def _raise(error: BaseException) -> Callable[[int], Any]:
    def run(_size: int) -> Any:
        raise error

    return run


@pytest.mark.parametrize("after", [0, 1000, 100_000])
@pytest.mark.parametrize(
    "answer",
    [
        lambda size: "words",
        lambda size: b"",
        lambda size: None,
        lambda size: 7,
        lambda size: bytearray(size),
        lambda size: bytes(size + 1),  # PyAV would write it over other memory
        lambda size: bytes(100 << 20),
        _raise(RuntimeError("first line\nsecond line")),
        _raise(OSError(5, "no disk")),
        _raise(StopIteration()),
        _raise(MemoryError()),
    ],
)
def test_a_file_object_that_answers_wrongly(clip: Path, answer: Callable[[int], Any], after: int) -> None:
    with fails(NotReadable, "<Odd>: the file object can't be read"):
        read(Odd(clip.read_bytes(), answer, after), **SMALL)


def test_a_file_object_that_is_interrupted(clip: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        read(Odd(clip.read_bytes(), _raise(KeyboardInterrupt())), **SMALL)


def test_the_time_limit_holds_for_a_slow_file_object(clip: Path) -> None:
    with fails(MediaTimeout, "<Odd>: can't be read within"):
        read(Odd(clip.read_bytes(), lambda size: b"", after=1 << 40), **SMALL, read_timeout=1e-6)


# --- arrays ----------------------------------------------------------------------------------------------------------
FRAMES = np.stack([clip_writer.image(number, number / 25) for number in range(100)])
WAVE = clip_writer.beep()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fps": 5.0},
        {"fps": 30.0},
        {"fps": 0.3},
        {"max_frames": 6},
        {"max_seconds": 2.0},
        {"sampling": "qwen"},
        {"sampling": "qwen", "max_frames": 4},
        {"min_pixels": 784, "max_pixels": 4 * 784},
        {"factor": 32, "max_pixels": 128 * 1024},
    ],
    ids=str,
)
def test_arrays_give_what_a_file_gives(clip: Path, options: dict[str, Any]) -> None:
    expected = read(clip, **options)
    renamed = {"sampling_fps" if name == "fps" else name: value for name, value in options.items()}
    media = Media.from_arrays(FRAMES, 25, WAVE, 48_000, **renamed)
    np.testing.assert_array_equal(media.images, expected.images)
    np.testing.assert_array_equal(media.indices, expected.indices)
    np.testing.assert_allclose(media.times, expected.times, atol=1e-3)
    np.testing.assert_allclose(media.waveform, expected.waveform, atol=1e-4)
    assert (media.fps, media.seconds, media.capped) == (expected.fps, expected.seconds, expected.capped)
    assert media.warnings == expected.warnings
    assert str(media.path) == "<arrays>"


def test_frames_or_a_waveform_alone() -> None:
    video = Media.from_arrays(FRAMES, fps=25)
    audio = Media.from_arrays(waveform=WAVE, sample_rate=48_000)
    assert (len(video.images), video.waveform, video.fps, video.seconds) == (8, None, 2.0, 4.0)
    assert (audio.images, len(audio.waveform), audio.fps, audio.seconds) == (None, 64_000, 0.0, 4.0)
    assert len(Media.from_arrays(FRAMES[:1], fps=25).images) == 2, "an even number"


@pytest.mark.parametrize("dtype", ["int16", "int32", "uint8", "float16", "float64", ">f4", ">i2"])
def test_kinds_of_samples(dtype: str) -> None:
    full = {"i": 2 ** (8 * np.dtype(dtype).itemsize - 1) - 1, "u": 127, "f": 1}[np.dtype(dtype).kind]
    samples = (WAVE * full + (128 if dtype == "uint8" else 0)).astype(dtype)
    stereo = np.concatenate([samples, samples])
    media = Media.from_arrays(waveform=stereo, sample_rate=48_000)
    expected = Media.from_arrays(waveform=WAVE, sample_rate=48_000)
    np.testing.assert_allclose(media.waveform, expected.waveform, atol=0.01)
    assert media.warnings == ()


def test_arrays_of_other_kinds() -> None:
    import torch

    expected = Media.from_arrays(FRAMES, 25, WAVE[0], 48_000)
    for frames in (torch.from_numpy(FRAMES), np.asfortranarray(FRAMES), FRAMES[::-1][::-1]):
        assert_same(expected, Media.from_arrays(frames, 25, torch.from_numpy(WAVE[0]).requires_grad_(), 48_000))


BAD_FRAMES = [
    (None, 25, "both"),
    (FRAMES, None, "fps"),
    (FRAMES, 0, "fps"),
    (FRAMES, -1, "fps"),
    (FRAMES, float("nan"), "fps"),
    (FRAMES, float("inf"), "fps"),
    (FRAMES, "25", "fps"),
    (FRAMES, True, "fps"),
    (FRAMES.astype(np.float32), 25, "uint8"),
    (FRAMES.astype(object), 25, "uint8"),
    (FRAMES[0], 25, "shape"),
    (FRAMES[..., 0], 25, "shape"),
    (FRAMES[..., :1], 25, "shape"),
    (FRAMES.transpose(0, 3, 1, 2), 25, "channels to the end"),
    (FRAMES[:0], 25, "empty"),
    (FRAMES[:, :0], 25, "empty"),
    (list(FRAMES), 25, "list"),
    ("clip.mp4", 25, "str"),
]
BAD_WAVES = [
    (WAVE, None, "sample_rate"),
    (WAVE, 0, "sample_rate"),
    (WAVE, -16_000, "sample_rate"),
    (WAVE, 16_000.5, "sample_rate"),
    (WAVE, float("nan"), "sample_rate"),
    (WAVE, 10**12, "sample_rate"),
    (WAVE, "16000", "sample_rate"),
    (WAVE.T, 48_000, "transpose"),
    (WAVE[None], 48_000, "shape"),
    (np.float32(1), 48_000, "shape"),
    (WAVE[:, :0], 48_000, "empty"),
    (WAVE[0, :1], 48_000, "short"),
    (WAVE.astype(np.int64), 48_000, "int64"),
    (WAVE.astype(complex), 48_000, "complex"),
    (WAVE.astype(object), 48_000, "object"),
    (WAVE * np.nan, 48_000, "NaN"),
    (np.where(WAVE > 0.4, np.inf, WAVE), 48_000, "infinite"),
    (WAVE * 32_767, 48_000, "full scale"),
    ([0.0, 0.1], 48_000, "list"),
]


@pytest.mark.parametrize("total", [0, -1, float("nan"), float("inf"), "1000"])
def test_a_wrong_area_of_all_images_is_one_typed_error(clip: Path, total: Any) -> None:
    with fails(UsageError, "total_pixels"):
        read(clip, total_pixels=total)


@pytest.mark.parametrize(("frames", "fps", "words"), BAD_FRAMES, ids=[f"{n}-{b[2]}" for n, b in enumerate(BAD_FRAMES)])
def test_wrong_frames_are_one_typed_error(frames: Any, fps: Any, words: str) -> None:
    with fails(UsageError, words):
        Media.from_arrays(frames, fps)


@pytest.mark.parametrize(("wave", "rate", "words"), BAD_WAVES, ids=[f"{n}-{b[2]}" for n, b in enumerate(BAD_WAVES)])
def test_wrong_waveforms_are_one_typed_error(wave: Any, rate: Any, words: str) -> None:
    with fails(UsageError, words):
        Media.from_arrays(FRAMES[:2], 25, wave, rate)


def test_images_that_are_too_large() -> None:
    with fails(TooBig, "300 x 1"):
        Media.from_arrays(np.zeros((1, 1, 300, 3), np.uint8), 25)
    with fails(TooBig, "9000 x 9000"):
        Media.from_arrays(np.broadcast_to(np.zeros(1, np.uint8), (1, 9000, 9000, 3)), 25)


@pytest.mark.parametrize(
    "options",
    [{"sampling_fps": 0}, {"max_frames": 1}, {"sampling": "other"}, {"max_pixels": 1}, {"max_seconds": 0}],
    ids=str,
)
def test_wrong_options_are_one_typed_error(options: dict[str, Any]) -> None:
    with fails(UsageError):
        Media.from_arrays(FRAMES, 25, **options)
