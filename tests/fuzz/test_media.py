"""Mutated media files: each gives a result or one typed error, within bounded memory and time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.media import clip_writer
from tests.media.bombs import write_bomb, write_hidden_frames, write_stuffed

from omnisift.errors import MediaError, UsageError
from omnisift.media import Media
from omnisift.serving import decoder_pool
from omnisift.serving.decoder_pool import DecoderPool

SECONDS = 10.0
"""Limit of one file; the parent kills a child after `decoder_pool.GRACE` more."""
MAX_MEGABYTES = 900
"""Highest resident memory of a child, its libraries included."""


@dataclass(frozen=True)
class Seed:
    """A file that is mutated; ``make`` writes it."""

    name: str
    make: Callable[[Path], Any]


def _clip(**options: Any) -> Callable[[Path], Any]:
    return lambda path: clip_writer.write(path, **{"seconds": 2.0, "flash": 1.0, "waveform": None, **options})


def _seeds() -> list[Seed]:
    """Containers x codecs, short; and files that cost more than their size."""
    h264 = ("mp4", "mov", "mkv", "ts", "avi", "3gp", "m4v")
    sounds = {
        "wav": ("pcm_s16le", "pcm_u8", "pcm_s32le", "pcm_f32le", "pcm_alaw", "adpcm_ima_wav"),
        "mp3": ("libmp3lame",),
    }
    sounds |= {"wma": ("wmav2",), "aiff": ("pcm_s16be",), "caf": ("alac", "pcm_s16be")}
    sounds |= {"aac": ("aac",), "ac3": ("ac3",), "eac3": ("eac3",), "w64": ("pcm_s16le",), "au": ("pcm_s16be",)}
    sounds |= {"wv": ("wavpack",), "rm": ("ac3",)}
    sounds |= {"flac": ("flac",), "ogg": ("libopus", "flac"), "m4a": ("aac", "alac"), "mkv": ("aac", "pcm_s24le")}
    found = [Seed(f"h264.{end}", _clip(audio="aac")) for end in h264]
    found += [Seed(f"bframes-{gop}.mp4", _clip(codec_options={"preset": "medium"}, gop=gop)) for gop in (1, 12, 250)]
    found += [Seed(f"{codec}.{end}", _clip(video=None, audio=codec)) for end in sounds for codec in sounds[end]]
    found += [
        Seed("vp9.webm", _clip(video="libvpx-vp9", audio="libopus", codec_options={"cpu-used": "8"})),
        Seed("vp8.webm", _clip(video="libvpx", audio="libopus", codec_options={"deadline": "realtime"})),
        Seed(
            "hevc.mp4", _clip(video="libx265", codec_options={"preset": "ultrafast", "x265-params": "log-level=none"})
        ),
        Seed("av1.mkv", _clip(video="libsvtav1", codec_options={"preset": "12"})),
        Seed("mpeg4.avi", _clip(video="mpeg4", audio="libmp3lame")),
        Seed("mpeg2.ts", _clip(video="mpeg2video", audio="mp2")),
        Seed("mjpeg.avi", _clip(video="mjpeg", audio="pcm_s16le", pixels="yuvj420p")),
        Seed("ffv1.mkv", _clip(video="ffv1", audio="flac", pixels="yuv420p10le")),
        Seed("png.mov", _clip(video="png", audio=None, pixels="rgb24")),
        Seed("huffyuv.avi", _clip(video="huffyuv", audio=None, pixels="yuv422p")),
        Seed("mpeg2.mpg", _clip(video="mpeg2video", audio="mp2", codec_options={"bf": "2"})),
        Seed("dvd.vob", _clip(video="mpeg2video", audio="ac3", container="vob")),
        Seed("h264.flv", _clip(codec_options={"preset": "medium"})),
        Seed("wmv2.wmv", _clip(video="wmv2", audio="wmav2")),
        Seed("msmpeg4.asf", _clip(video="msmpeg4", audio="libmp3lame")),
        Seed("mpeg2.mxf", _clip(video="mpeg2video", audio="pcm_s16le")),
        Seed("narrow.amr", _clip(video=None, audio="libopencore_amrnb", rate=8000)),
        Seed("tape.dv", _clip(video="dvvideo", audio="pcm_s16le", size=(720, 576), layout="stereo", seconds=0.4)),
        Seed("rv20.rm", _clip(video="rv20", audio="ac3")),
        Seed("vp8.ivf", _clip(video="libvpx", audio=None, codec_options={"deadline": "realtime"})),
        Seed("raw.y4m", _clip(video="wrapped_avframe", container="yuv4mpegpipe", audio=None)),
        Seed("moving.gif", _clip(video="gif", audio=None, pixels="rgb8")),
        Seed("faststart.mp4", _clip(options={"movflags": "faststart"})),
        Seed("fragmented.mp4", _clip(options={"movflags": "frag_keyframe+delay_moov"})),
        Seed("cover.mp4", _clip(cover="before", extra_audio=2, tags={"title": "x" * 500})),
        Seed("surround.mkv", _clip(layout="7.1", audio="flac")),
        Seed("late.mkv", _clip(audio_at=1.5, video_at=3600.0)),
        Seed("odd.mkv", _clip(size=(65, 49), pixels="yuv444p")),
        Seed("variable.mkv", _clip(times=[0.0, 0.02, 0.5, 0.51, 1.9], audio=None)),
        Seed("bomb.mkv", lambda path: write_bomb(path, 400, (2048, 1080))),
        Seed("bomb.mp4", lambda path: write_bomb(path, 400, (2048, 1080), "libx264")),
        Seed("stuffed.mkv", lambda path: write_stuffed(path, 400, "flac", "7.1")),
        Seed("stuffed.mp4", lambda path: write_stuffed(path, 4000, "aac")),
        Seed("hidden.mkv", lambda path: write_hidden_frames(path, 60, (1024, 576))),
        Seed("quiet.flac", _clip(video=None, audio="flac", waveform=np.zeros((1, 48_000 * 600), np.float32))),
    ]
    return found


OPTIONS: list[dict[str, Any]] = [
    {}, {"fps": 0.1}, {"fps": 30.0}, {"fps": 1000.0, "max_frames": 64}, {"max_frames": 2}, {"sampling": "qwen"},
    {"video": False}, {"audio": False}, {"require_audio": True}, {"require_video": True}, {"strict": True},
    {"start": 1.0}, {"start": 0.5, "end": 1.2}, {"max_seconds": 0.5}, {"max_decoded_pixels": 10**7},
]  # fmt: skip


def _flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 4, 16, 64, 400))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _overwrite(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.choice((1, 8, 60))):
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _head(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 20)):
        data[draw.randrange(min(len(data), 600))] = draw.randrange(256)


def _tail(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randint(1, 20)):
        data[-draw.randint(1, min(len(data), 2000))] = draw.randrange(256)


def _number(data: bytearray, draw: random.Random) -> None:
    """A field of a header becomes huge, negative or zero."""
    width = draw.choice((2, 4, 8))
    value = draw.choice((0, 1, 2 ** (8 * width - 1) - 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1))
    at = draw.randrange(max(1, len(data) - width))
    data[at : at + width] = value.to_bytes(width, draw.choice(("big", "little")))


def _box(data: bytearray, draw: random.Random) -> None:
    """Bytes after the name of a box, element or chunk."""
    names = (b"stsz", b"stco", b"stts", b"ctts", b"elst", b"tkhd", b"mdhd", b"stsd", b"avcC", b"trun", b"strf", b"idx1")
    names += (
        b"COMM",
        b"SSND",
        b"desc",
        b"pakt",
        b"kuki",
        b"MDPR",
        b"CONT",
        b"onMetaData",
        b"\xb7\xdc\x07\x91",
        b"wvpk",
    )
    names += (b"fmt ", b"OggS", b"\xae", b"\xe0", b"\x1c\x53\xbb\x6b", b"fLaC", b"GIF8", b"G@")
    found = [at for name in names for at in clip_writer.find_boxes(bytes(data), name)]
    at = draw.choice(found or [0])
    for index in range(at, min(len(data), at + draw.choice((2, 8, 40)))):
        data[index] = draw.randrange(256)


def _cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def _drop(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    del data[at : at + draw.choice((1, 7, 188, 4000))]


def _insert(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = draw.randbytes(draw.choice((1, 7, 188, 4000)))


def _repeat(data: bytearray, draw: random.Random) -> None:
    at = draw.randrange(len(data))
    data[at:at] = data[at : at + draw.choice((16, 500, 5000))] * draw.choice((1, 2, 50))


def _zero(data: bytearray, draw: random.Random) -> None:
    at, size = draw.randrange(len(data)), draw.choice((16, 500, 5000))
    data[at : at + size] = bytes(len(data[at : at + size]))


def _swap(data: bytearray, draw: random.Random) -> None:
    size = draw.choice((4, 188, 2000))
    one, two = sorted(draw.randrange(max(1, len(data) - size)) for _ in range(2))
    data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]


MUTATIONS = (_flip, _overwrite, _head, _tail, _number, _box, _cut, _drop, _insert, _repeat, _zero, _swap)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Content of the seeds that this build of FFmpeg can write."""
    folder = tmp_path_factory.mktemp("seeds")
    contents = {}
    for seed in _seeds():
        try:
            seed.make(folder / seed.name)
        except (ValueError, OSError):  # a missing encoder; PyAV's own errors are among these
            continue
        contents[seed.name] = (folder / seed.name).read_bytes()
    return contents


@pytest.fixture(scope="module")
def pools() -> Iterator[list[DecoderPool]]:
    """One child for each set of options."""
    limits = {"min_pixels": 784, "max_pixels": 16 * 784, "read_timeout": SECONDS}
    made = [DecoderPool({**limits, **options}, max_children=1) for options in OPTIONS]
    yield made
    for pool in made:
        pool.close()


def check(media: Media) -> None:
    """What holds for every result."""
    assert media.has_video or media.has_audio, "nothing"
    for array in (media.images, media.waveform):
        assert array is None or np.isfinite(array).all(), "not finite"
    if media.images is not None:
        assert len(media.images) == len(media.times) == len(media.indices), "counts"
        assert len(media.images) % 2 == 0, "odd"
        assert media.fps > 0, "rate"
        assert (np.diff(media.times) >= 0).all(), "times"
    if media.waveform is not None:
        assert np.abs(media.waveform).max(initial=0) <= 1, "loud"


def peak_megabytes(pool: DecoderPool) -> float:
    """Highest resident memory of the child so far."""
    status = Path(f"/proc/{pool._idle[0]._process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


@pytest.mark.slow
@pytest.mark.fuzz
def test_mutated_files(
    fuzz: Fuzz,
    seeds: dict[str, bytes],
    pools: list[DecoderPool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A crash, a hang or an untyped error ends the child; after a typed error it is there again."""
    monkeypatch.setattr(decoder_pool, "MAX_USES", 10**9)
    assert len(seeds) >= 40, sorted(seeds)
    names = sorted(seeds)
    for seed in fuzz:
        draw = random.Random(seed)
        name, pool, mutations = (
            draw.choice(names),
            draw.choice(pools),
            draw.choices(MUTATIONS, k=draw.choice((1, 1, 2, 4))),
        )
        data = bytearray(seeds[name])
        for mutate in mutations:
            if len(data) > 8:
                mutate(data, draw)
        path = tmp_path / name
        path.write_bytes(data)
        what = (
            f"seed {seed}: {name}, {', '.join(m.__name__.strip('_') for m in mutations)}, {OPTIONS[pools.index(pool)]}"
        )
        with fuzz.case(what):
            begin = time.monotonic()
            with suppress(MediaError, UsageError):
                check(pool.read(path))
            assert pool._idle, "the child ended: a crash, a hang, or an error without a type"
            assert time.monotonic() - begin < SECONDS + decoder_pool.GRACE, "too long"
            assert peak_megabytes(pool) < MAX_MEGABYTES, f"{peak_megabytes(pool):.0f} MB"
