"""The corpus: good and bad files, made when the tests run, each with its expected result. One table, `CASES`."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import clip_writer
import numpy as np
from clip_writer import beep, find_boxes, patch, wav, write

from omnisift import errors


@dataclass(frozen=True)
class Expected:
    """The expected result; None: not checked."""

    images: int | None = None
    audio: float | None = None
    """Seconds of audio within 1 ms; 0: no audio."""
    flash: float | None = None
    """The first white image stands for this moment (grid time)."""
    beep: float | None = None
    """The beep starts at this moment, within 30 ms."""
    fps: float = 2.0
    size: tuple[int, int] | None = None
    bad: bool = False
    """Whether damaged packets must be reported."""
    capped: bool = False
    warns: str = ""
    """Part of a warning that must be there."""
    error: type[errors.OmniSiftError] | tuple[type[errors.OmniSiftError], ...] | None = None
    like: str = ""
    """Name of another case: pixels and samples must be equal to its."""


@dataclass(frozen=True)
class Case:
    category: str
    name: str
    make: Callable[[Path], Any]
    expected: Expected
    read: dict[str, Any] = field(default_factory=dict)


def made(file: Any, folder: Path) -> Path:
    """Make a file of a table (`CASES`, `odd_files.FILES`) unless it is there."""
    folder.mkdir(exist_ok=True)
    path = folder / file.name
    if "\0" in file.name or not (path.exists() or path.is_symlink()):
        file.make(path)
    return path


CASES: list[Case] = []
GOOD = {"images": 8, "audio": 4.0, "flash": 3.0, "beep": 3.0}
AUDIO_ONLY = {"images": 0, "audio": 4.0, "beep": 3.0, "fps": 0.0}
VIDEO_ONLY = {"images": 8, "audio": 0.0, "flash": 3.0}


def add(
    category: str, name: str, make: Callable[[Path], Any], read: dict[str, Any] | None = None, **expected: Any
) -> None:
    CASES.append(Case(category, name, make, Expected(**expected), read or {}))


def fails(
    category: str, name: str, make: Callable[[Path], Any], *error: type, read: dict[str, Any] | None = None
) -> None:
    CASES.append(Case(category, name, make, Expected(error=error), read or {}))


def clip(**options: Any) -> Callable[[Path], None]:
    return lambda path: write(path, **options)


def text(content: str | bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def changed(make: Callable[[Path], Any], change: Callable[[bytearray], Any]) -> Callable[[Path], None]:
    """Make a file, then change its bytes: ``change`` edits in place or returns the new bytes."""

    def run(path: Path) -> None:
        make(path)
        data = bytearray(path.read_bytes())
        new = change(data)
        path.write_bytes(bytes(data if new is None else new))

    return run


def copied(case: Case) -> Callable[[Path], None]:
    """The same file under another name: PyAV chooses the format by the suffix."""

    def run(path: Path) -> None:
        case.make(path.with_name(case.name))
        path.write_bytes(path.with_name(case.name).read_bytes())

    return run


def cut(share: float) -> Callable[[bytearray], bytes]:
    return lambda data: bytes(data[: int(len(data) * share)])


def scribble(start: float, stop: float, every: int) -> Callable[[bytearray], None]:
    """Overwrite every n-th byte between two shares of the file."""

    def run(data: bytearray) -> None:
        for offset in range(int(len(data) * start), int(len(data) * stop), every):
            data[offset] = (data[offset] * 7 + 91) % 256

    return run


def hole(start: float, stop: float) -> Callable[[bytearray], None]:
    """Zeros between two shares of the file."""

    def run(data: bytearray) -> None:
        begin, end = int(len(data) * start), int(len(data) * stop)
        data[begin:end] = bytes(end - begin)

    return run


FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+delay_moov"}
FAST_VP8 = {"deadline": "realtime", "cpu-used": "8"}
SILENT = {"audio": None}
MUTE = {"video": None}

# --- good references -------------------------------------------------------------------------------------------------
add("good", "plain.mp4", clip(), **GOOD)
add("good", "faststart.mp4", clip(options=FASTSTART), like="plain.mp4", **GOOD)
add("good", "bframes.mp4", clip(codec_options={"preset": "medium"}), **GOOD)
add("good", "plain.mov", clip(), **GOOD)
add("good", "plain.mkv", clip(), **GOOD)
add(
    "good",
    "vp8-opus.webm",
    clip(video="libvpx", audio="libopus", codec_options=FAST_VP8),
    **GOOD,
)
add("good", "vp9-opus.webm", clip(video="libvpx-vp9", audio="libopus", codec_options={"cpu-used": "8"}), **GOOD)
add("good", "broadcast.ts", clip(), **GOOD)
add("good", "mjpeg-pcm.avi", clip(video="mjpeg", audio="pcm_s16le", pixels="yuvj420p"), **GOOD)
add("good", "sound.mp3", clip(video=None, audio="libmp3lame"), **AUDIO_ONLY)
add("good", "sound.flac", clip(video=None, audio="flac"), **AUDIO_ONLY)
add("good", "opus.ogg", clip(video=None, audio="libopus"), **AUDIO_ONLY)
add("good", "sound.m4a", clip(**MUTE), **AUDIO_ONLY)
add("good", "sound.wav", clip(video=None, audio="pcm_s16le"), **AUDIO_ONLY)
add("good", "fragmented.mp4", clip(options=FRAGMENTED), **GOOD)
add("good", "moving.gif", clip(video="gif", pixels="rgb8", **SILENT), **VIDEO_ONLY)

# --- formats that are rarer ------------------------------------------------------------------------------------------
AMR = {"audio": "libopencore_amrnb", "rate": 8000, "waveform": beep(rate=8000)}
DELAYED = {"images": 0, "beep": 3.02, "fps": 0.0}
"""Bare frames do not tell how many samples the encoder put in front."""

add("formats", "mpeg2.mpg", clip(video="mpeg2video", audio="mp2"), **{**GOOD, "audio": None})
add("formats", "mpeg1.mpeg", clip(video="mpeg1video", audio="mp2"), **{**GOOD, "audio": None})
add(
    "formats",
    "dvd.vob",
    clip(video="mpeg2video", audio="ac3", container="vob", codec_options={"bf": "2"}),
    **{**GOOD, "audio": 3.995},
)
add("formats", "bare.aac", clip(**MUTE), **DELAYED, audio=4.032)
add("formats", "bare.ac3", clip(video=None, audio="ac3"), **AUDIO_ONLY)
add("formats", "bare.eac3", clip(video=None, audio="eac3"), **AUDIO_ONLY)
add("formats", "narrow.amr", clip(video=None, **AMR), **DELAYED, audio=4.02)
add("formats", "avc.flv", clip(codec_options={"preset": "medium"}), **GOOD)
add("formats", "old.flv", clip(video="flv", audio="libmp3lame", rate=44_100, waveform=beep(rate=44_100)), **GOOD)
add("formats", "windows.wmv", clip(video="wmv2", audio="wmav2"), **GOOD)
add("formats", "windows.asf", clip(video="msmpeg4", audio="libmp3lame"), **GOOD)
add("formats", "windows.wma", clip(video=None, audio="wmav2"), images=0, fps=0.0, beep=2.96)
add("formats", "pcm.aiff", clip(video=None, audio="pcm_s16be"), **AUDIO_ONLY)
add("formats", "pcm-24.aif", clip(video=None, audio="pcm_s24be", container="aiff"), **AUDIO_ONLY)
add("formats", "pcm.caf", clip(video=None, audio="pcm_s16be"), **AUDIO_ONLY)
add("formats", "alac.caf", clip(video=None, audio="alac"), **{**AUDIO_ONLY, "audio": None})
add("formats", "pcm.w64", clip(video=None, audio="pcm_s16le"), **AUDIO_ONLY)
add("formats", "pcm.au", clip(video=None, audio="pcm_s16be"), **AUDIO_ONLY)
add("formats", "pack.wv", clip(video=None, audio="wavpack"), **AUDIO_ONLY)
add("formats", "camera.mxf", clip(video="mpeg2video", audio="pcm_s16le"), **GOOD)
add(
    "formats",
    "tape.dv",
    clip(video="dvvideo", audio="pcm_s16le", size=(720, 576), layout="stereo"),
    **GOOD,
)
add("formats", "real.rm", clip(video="rv20", audio="ac3"), **GOOD)
add("formats", "vp8.ivf", clip(video="libvpx", codec_options=FAST_VP8, **SILENT), **VIDEO_ONLY)
add("formats", "raw.y4m", clip(video="wrapped_avframe", container="yuv4mpegpipe", **SILENT), **VIDEO_ONLY)
for suffix in ("mpg", "flv", "wmv", "aiff", "caf", "amr", "mxf", "rm"):
    good = next(c for c in CASES if c.category == "formats" and c.name.endswith(suffix))
    CASES.append(
        replace(good, name=f"{suffix}-as.mp4", make=copied(good), expected=replace(good.expected, like=good.name))
    )
    if suffix != "amr":  # any bytes are frames of AMR
        fails("formats", f"head-of.{suffix}", changed(good.make, lambda data: data[:24]), errors.Damaged)
# Without time stamps: the frames of B pictures can't be placed.
fails("formats", "bare.m2v", clip(video="mpeg2video", **SILENT), errors.NotMedia)
fails("formats", "bare.h264", clip(**SILENT), errors.NotMedia)

# --- empty, cut, no index --------------------------------------------------------------------------------------------
fails("cut", "zero.mp4", text(b""), errors.NotMedia)
fails("cut", "before-moov.mp4", changed(clip(), cut(0.5)), errors.Damaged)
fails("cut", "mdat-only.mp4", text(struct.pack(">I4s", 2000, b"mdat") + bytes(1992)), errors.Damaged)
add("cut", "after-moov.mp4", changed(clip(options=FASTSTART), cut(0.7)), warns="the file has only", images=6, fps=2.0)
add("cut", "half.mkv", changed(clip(), cut(0.5)), fps=2.0)
add("cut", "half.ts", changed(clip(), cut(0.5)), fps=2.0)
add("cut", "half.mp3", changed(clip(video=None, audio="libmp3lame"), cut(0.5)), images=0, fps=0.0)


def _huge_table(data: bytearray) -> None:
    for place in find_boxes(bytes(data), b"stsz"):
        data[place + 8 : place + 12] = b"\x7f\xff\xff\xff"


fails("cut", "huge-table.mp4", changed(clip(), _huge_table), errors.Damaged, errors.NotMedia)

# --- missing modality ------------------------------------------------------------------------------------------------
fails("missing", "no-video.m4a", clip(**MUTE), errors.NoVideo, read={"require_video": True})
fails("missing", "no-video-at-all.m4a", clip(**MUTE), errors.NoVideo, read={"audio": False})
fails("missing", "no-audio.mp4", clip(**SILENT), errors.NoAudio, read={"require_audio": True})
fails("missing", "no-audio-at-all.mp4", clip(**SILENT), errors.NoAudio, read={"video": False})
add("missing", "video-only.mp4", clip(**SILENT), **VIDEO_ONLY)
add("missing", "video-unread.mp4", clip(), read={"video": False}, **AUDIO_ONLY)
add("missing", "audio-unread.mp4", clip(), read={"audio": False}, **VIDEO_ONLY)
add("missing", "cover.mp3", clip(video=None, audio="libmp3lame", cover="after"), **AUDIO_ONLY)
add("missing", "cover-first.mp4", clip(cover="before"), **GOOD)
add("missing", "two-tracks.mkv", clip(extra_audio=1), warns="2 audio tracks", **GOOD)

# --- time offsets and lengths: the flash and the beep stay at 3.0 s ---------------------------------------------------
LATE = 1.52


def _late_audio(**options: Any) -> Callable[[Path], None]:
    return clip(waveform=beep(2.5, event=1.5), audio_at=1.5, **options)


def _late_video(**options: Any) -> Callable[[Path], None]:
    return clip(seconds=2.48, flash=1.48, waveform=beep(), video_at=LATE, **options)


add("offset", "late-audio.mp4", _late_audio(), **GOOD)
add("offset", "late-audio.mkv", _late_audio(), **GOOD)
add("offset", "late-audio.ts", _late_audio(), **GOOD)
add("offset", "late-video.mp4", _late_video(), warns="s late; its first image is held", **GOOD)
add("offset", "late-video.mkv", _late_video(audio="pcm_s16le"), warns="s late; its first image is held", **GOOD)
add("offset", "hour-late.mkv", clip(video_at=3600, audio_at=3600), **GOOD)
add("offset", "hour-late.ts", clip(video_at=3600, audio_at=3600), **GOOD)
add("offset", "long-audio.mp4", clip(waveform=beep(6.0)), images=8, audio=6.0, flash=3.0, beep=3.0)
add("offset", "short-audio.mp4", clip(waveform=beep(3.5)), images=8, audio=3.5, flash=3.0, beep=3.0)


def _edit_list(data: bytearray) -> None:
    """The video starts 1 s into its track (12800 ticks a second)."""
    place = find_boxes(bytes(data), b"elst")[0]
    length, start = struct.unpack(">ii", data[place + 8 : place + 16])
    data[place + 8 : place + 16] = struct.pack(">ii", length - 1000, start + 12800)


add("offset", "edit-list.mp4", changed(clip(), _edit_list), images=6, audio=4.0, flash=2.0, beep=3.0)
add("offset", "part.mp4", clip(), read={"start": 2.0, "end": 3.5}, images=4, audio=1.5, flash=1.0, beep=1.0)
add("offset", "part.mkv", clip(), read={"start": 2.5}, images=4, audio=1.5, flash=0.5, beep=0.5)
fails("offset", "part-after-end.mp4", clip(), errors.UsageError, read={"start": 20.0})
fails("offset", "part-after-end.wav", clip(video=None, audio="pcm_s16le"), errors.UsageError, read={"start": 20.0})

# --- very short ------------------------------------------------------------------------------------------------------
add("short", "one-frame.mp4", clip(seconds=0.04, flash=None, **SILENT), images=2, audio=0.0)
add("short", "three-frames.mp4", clip(seconds=0.12, flash=None, **SILENT), images=2, audio=0.0)
add("short", "tenth.wav", clip(video=None, audio="pcm_s16le", waveform=beep(0.1)), images=0, audio=0.1, fps=0.0)
add("short", "tenth.mp4", clip(seconds=0.12, flash=None, waveform=beep(0.12)), images=2, audio=0.12)

# --- rates -----------------------------------------------------------------------------------------------------------
_steps = np.cumsum(np.tile([0.02, 0.04, 0.14, 0.1, 0.1], 10))
VARIABLE = [float(t) for t in np.concatenate([[0.0], _steps[_steps < 4.0]])]  # 3.0 s is one of them

add("rates", "variable.mkv", clip(times=VARIABLE, waveform=beep()), images=8, flash=3.0, beep=3.0)
add("rates", "variable.mp4", clip(times=VARIABLE, waveform=beep()), images=8, flash=3.0, beep=3.0)
add("rates", "thousand.mkv", clip(fps=1000, seconds=1.0, flash=0.5, **SILENT), images=2, flash=0.5)
add("rates", "tenth-fps.mp4", clip(times=[0.0, 10.0, 20.0], flash=10.0, **SILENT), flash=10.0)
add("rates", "8k.wav", clip(video=None, audio="pcm_s16le", rate=8000, waveform=beep(rate=8000)), **AUDIO_ONLY)
add("rates", "192k.wav", clip(video=None, audio="pcm_s32le", rate=192_000, waveform=beep(rate=192_000)), **AUDIO_ONLY)
add("rates", "u8.wav", clip(video=None, audio="pcm_u8"), **AUDIO_ONLY)
add("rates", "surround.mp4", clip(layout="5.1"), **GOOD)
add("rates", "stereo.mp4", clip(layout="stereo"), **GOOD)


# --- geometry --------------------------------------------------------------------------------------------------------
def _rotated(degrees: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, size=(112, 56))
        clip_writer.rotate(path, degrees)

    return make


def _lossless(width: int, height: int, frames: int = 2) -> Callable[[Path], None]:
    return clip(video="ffv1", size=(width, height), seconds=frames / 25, flash=None, **SILENT)


add("geometry", "wide.mp4", clip(size=(112, 56)), size=(56, 112), **GOOD)
add("geometry", "rotated-90.mp4", _rotated(90), size=(112, 56), **GOOD)
add("geometry", "rotated-180.mp4", _rotated(180), size=(56, 112), **GOOD)
add("geometry", "rotated-270.mp4", _rotated(270), size=(112, 56), **GOOD)
add("geometry", "odd-444.mkv", clip(size=(65, 49), pixels="yuv444p"), **GOOD)
add("geometry", "ten-bit.mkv", clip(pixels="yuv420p10le", video="ffv1"), **GOOD)
add("geometry", "one-pixel.mkv", _lossless(1, 1), images=2, size=(28, 28))
add("geometry", "longest.mkv", _lossless(2000, 10), images=2, size=(28, 1568))
fails("geometry", "too-long.mkv", _lossless(2010, 10), errors.TooBig)
fails(
    "geometry",
    "too-large.avi",
    clip(video="mjpeg", pixels="yuvj420p", size=(8400, 4400), seconds=0.04, **SILENT),
    errors.TooBig,
)


def _declare(data: bytearray) -> None:
    """The header of an AVI says 65535 x 65535; the images are as before."""
    place = data.find(b"strf") + 8
    data[place + 4 : place + 12] = struct.pack("<ii", 65535, 65535)


add("geometry", "declared.avi", changed(clip(video="mjpeg", pixels="yuvj420p", **SILENT), _declare), **VIDEO_ONLY)


# --- bombs and lies --------------------------------------------------------------------------------------------------
def _state_hours(data: bytearray) -> None:
    """All the headers of an mp4 state a length of 100 hours."""
    for name, at in ((b"mvhd", 12), (b"mdhd", 12), (b"tkhd", 20)):
        for place in find_boxes(bytes(data), name):
            scale = 1000 if name == b"tkhd" else struct.unpack(">I", data[place + at : place + at + 4])[0]
            where = place + 20 if name == b"tkhd" else place + at + 4
            data[where : where + 4] = struct.pack(">I", min(360_000 * scale, 2**32 - 1))


def _ten_hours(path: Path) -> None:
    write(path, times=[float(t) for t in range(0, 36_000, 60)], flash=None, **SILENT)


def _quiet_bomb(path: Path) -> None:
    write(path, video=None, audio="flac", rate=8000, waveform=np.zeros((1, 8000 * 600), np.float32))


add("lies", "hundred-hours.mp4", changed(clip(), _state_hours), **GOOD)
add("lies", "ten-hours.mkv", _ten_hours, images=256, audio=0.0, fps=256 / 7200, capped=True, warns="max_seconds")
add("lies", "bomb.flac", _quiet_bomb, read={"max_seconds": 60.0}, images=0, audio=60.0, fps=0.0, capped=True)
add("lies", "four-gib.wav", text(wav(beep(rate=16_000)[0], size=2**32 - 1)), **AUDIO_ONLY)
add("lies", "cap.mp4", clip(), read={"max_frames": 4}, images=4, fps=1.0, capped=True, flash=3.0, beep=3.0, audio=4.0)

# --- damage ----------------------------------------------------------------------------------------------------------
add("damage", "scribbled.mp4", changed(clip(options=FASTSTART), scribble(0.5, 0.6, 3)), images=8, bad=True, beep=3.0)
add("damage", "scribbled.ts", changed(clip(), scribble(0.2, 0.4, 50)), images=8, bad=True)
add("damage", "holes.ts", changed(clip(), hole(0.3, 0.5)), images=8, beep=3.0)
add("damage", "hole.mkv", changed(clip(), hole(0.4, 0.5)), images=8, beep=3.0)
add("damage", "fragment-lost.mp4", changed(clip(options=FRAGMENTED), hole(0.4, 0.5)), images=4, bad=True)
add("damage", "scribbled.mkv", changed(clip(), scribble(0.3, 0.4, 20)), beep=3.0)
fails(
    "damage",
    "strict.mp4",
    changed(clip(options=FASTSTART), scribble(0.5, 0.6, 3)),
    errors.Damaged,
    read={"strict": True},
)

# --- wrong type ------------------------------------------------------------------------------------------------------
add("type", "no-extension", clip(container="mp4"), like="plain.mp4", **GOOD)
add("type", "video.mp3", clip(container="mp4"), like="plain.mp4", **GOOD)
fails("type", "notes.txt", text("a few words\n" * 40), errors.NotMedia)
fails("type", "login.mp4", text("<!DOCTYPE html><html><body>Please log in</body></html>"), errors.NotMedia)
fails("type", "noise.mp4", text(np.random.default_rng(1).integers(0, 256, 20_000, np.uint8).tobytes()), errors.NotMedia)
fails("type", "titles.srt", text("1\n00:00:00,000 --> 00:00:01,000\nHello\n"), errors.NotMedia)


def _still(kind: str) -> Callable[[Path], None]:
    from PIL import Image

    return lambda path: Image.new("RGB", (40, 30), (200, 10, 10)).save(path, kind)


fails("type", "still.png", _still("PNG"), errors.NotMedia)
fails("type", "still.jpg", _still("JPEG"), errors.NotMedia)
fails("type", "still.webp", _still("WEBP"), errors.NotMedia)
fails("type", "still.mp4", _still("PNG"), errors.NotMedia)

# --- degenerate content ----------------------------------------------------------------------------------------------
add("content", "silence.mp4", clip(waveform=beep(event=None)), images=8, audio=4.0, flash=3.0)
add("content", "black.mkv", clip(flash=None), images=8, audio=4.0, beep=3.0)
add(
    "content",
    "silence.wav",
    clip(video=None, audio="pcm_s16le", waveform=beep(event=None)),
    images=0,
    audio=4.0,
    fps=0.0,
)


# --- bad samples -----------------------------------------------------------------------------------------------------
def _bad(value: float, start: float = 1.0, stop: float = 1.5) -> bytes:
    samples = beep(rate=16_000)[0]
    samples[int(start * 16_000) : int(stop * 16_000)] = value
    return wav(samples)


add("samples", "nan.wav", text(_bad(np.nan)), warns="not valid numbers", **AUDIO_ONLY)
add("samples", "inf.wav", text(_bad(-np.inf)), warns="not valid numbers", **AUDIO_ONLY)
add("samples", "huge.wav", text(_bad(1e30)), warns="not valid numbers", **AUDIO_ONLY)
add("samples", "loud.wav", text(_bad(3.0, 3.5, 3.6)), warns="clipped", **AUDIO_ONLY)
add("samples", "all-nan.wav", text(_bad(np.nan, 0, 4)), warns="not valid", images=0, audio=4.0, fps=0.0)
fails("samples", "empty.wav", text(wav(np.zeros(0))), errors.Damaged, errors.NoAudio)
fails("samples", "zero-hertz.wav", text(wav(np.zeros(1600), real_rate=0)), errors.Damaged, errors.NotMedia)

# --- names -----------------------------------------------------------------------------------------------------------
for odd in (
    "ümläut 名前 🎬.mp4",
    'it\'s "quoted".mp4',
    "-i.mp4",
    "100%25 %d %s.mp4",
    "concat:a|b.mp4",
    "two\nlines.mp4",
):
    add("names", odd, clip(), like="plain.mp4", **GOOD)


def _folder(path: Path) -> None:
    path.mkdir()


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _link_outside(path: Path) -> None:
    outside = path.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    write(outside / "real.mp4")
    path.symlink_to(outside / "real.mp4")


fails("names", "missing.mp4", lambda path: None, errors.NotFound)
fails("names", "null\0.mp4", lambda path: None, errors.NotFound)
fails("names", "folder.mp4", _folder, errors.NotAFile)
fails("names", "pipe.mp4", lambda path: os.mkfifo(path), errors.NotAFile)
fails("names", "dangling.mp4", _link("nowhere.mp4"), errors.NotFound)
fails("names", "loop.mp4", _link("loop.mp4"), errors.NotFound)
add("names", "link.mp4", _link_outside, like="plain.mp4", **GOOD)

__all__ = ["CASES", "Case", "Expected", "av", "made", "patch"]
