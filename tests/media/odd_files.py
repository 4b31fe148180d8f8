"""Files of kinds that people have and that are easily read wrongly, with what a player shows.

As a program it reads them all and prints a table of those that were read wrongly:

    python tests/media/odd_files.py
"""

from __future__ import annotations

import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numbered
import numpy as np
from av.bitstream import BitStreamFilterContext
from clip_writer import find_boxes
from corpus import changed

from omnisift.errors import OmniSiftError
from omnisift.media import read


@dataclass(frozen=True)
class OddFile:
    kind: str
    name: str
    make: Callable[[Path], Any]
    images: list[int]
    """The number of each image at 2 per second."""
    beeps: list[float] | None
    """Seconds at which beeps begin; None: not checked."""
    warns: tuple[str, ...] = ()
    """Parts of the warnings; no other warnings may come."""
    read: dict[str, Any] = field(default_factory=dict)
    corners: list[str] | None = None
    """Instead of all that: the colours of the corners of each image, see `corners`."""


FILES: list[OddFile] = []


def shown(seconds: float, fps: int = 25, first: int = 0, count: int | None = None) -> list[int]:
    """Numbers of the images that are shown at k / 2 seconds, of a clip of ``count`` images."""
    last = first + (round(seconds * fps) if count is None else count) - 1
    return [min(first + int(k / 2 * fps + 1e-6), last) for k in range(round(seconds * 2))]


FOUR = shown(4.0)
BEEPS = [0.5, 1.5, 2.5, 3.5]


def add(
    kind: str,
    name: str,
    make: Callable[[Path], Any],
    images: list[int],
    beeps: list[float] | None = None,
    *warns: str,
    **read: Any,
) -> None:
    FILES.append(OddFile(kind, name, make, images, beeps, warns, read))


def clip(**options: Any) -> Callable[[Path], None]:
    return lambda path: numbered.write(path, **options)


def joined(*parts: Callable[[Path], Any]) -> Callable[[Path], None]:
    """The bytes of several files one after the other."""

    def run(path: Path) -> None:
        data = b""
        for part in parts:
            part(path)
            data += path.read_bytes()
        path.write_bytes(data)

    return run


# --- starts: packets that claim to be key frames ---------------------------------------------------------------------
STARTS = "key packets that are no clean start"
LONG = {"count": 400, "audio": None}
SIXTEEN = shown(16.0)


def refresh(interval: int) -> dict[str, Any]:
    return {"codec_options": {"x264-params": f"intra-refresh=1:keyint={interval}:bframes=0"}, "gop": interval}


def without_index(data: bytearray) -> bytes:
    """An AVI without its index, as of a recording that was cut off."""
    at = data.find(b"idx1", data.find(b"movi"))
    data[4:8] = struct.pack("<I", at - 8)
    return bytes(data[:at])


def all_key(packets: list) -> None:
    for packet in packets:
        packet.is_keyframe = True


def some_key(packets: list) -> None:
    for number, packet in enumerate(packets):
        packet.is_keyframe |= number % 9 == 0


def without_sync_table(data: bytearray) -> None:
    """An mp4 that does not say which samples are key frames: all count as such."""
    for at in find_boxes(bytes(data), b"stss"):
        data[at - 4 : at] = b"free"


def wrong_sync_table(data: bytearray) -> None:
    """An mp4 whose table of key frames is off by three samples, except for the first one."""
    for at in find_boxes(bytes(data), b"stss"):
        count = struct.unpack(">I", data[at + 4 : at + 8])[0]
        for place in range(at + 12, at + 8 + 4 * count, 4):
            data[place : place + 4] = struct.pack(">I", struct.unpack(">I", data[place : place + 4])[0] + 3)


for container in ("mp4", "mkv", "ts"):
    for interval in (25, 50):
        add(STARTS, f"refresh-{interval}.{container}", clip(**LONG, **refresh(interval)), SIXTEEN)
for codec, suffix in (("wmv2", "wmv2"), ("mpeg4", "mpeg4"), ("msmpeg4", "msmpeg4"), ("flv", "flv1")):
    make = clip(**LONG, video=codec, gop=100, codec_options={"b": "4000000"})
    add(STARTS, f"no-index-{suffix}.avi", changed(make, without_index), SIXTEEN)
add(STARTS, "no-index-h264.avi", changed(clip(**LONG, gop=100), without_index), SIXTEEN)
add(
    STARTS,
    "no-index-mjpeg.avi",
    changed(clip(**LONG, video="mjpeg", pixels="yuvj420p"), without_index),
    SIXTEEN,
)
for codec, pixels in (("libx264", "yuv420p"), ("mpeg4", "yuv420p"), ("mpeg2video", "yuv420p"), ("libvpx", "yuv420p")):
    options = {"codec_options": {"b": "4000000"}} if codec != "libx264" else {}
    make = clip(**LONG, video=codec, pixels=pixels, gop=100, change=all_key, **options)
    add(STARTS, f"all-key-{codec}.mkv", make, SIXTEEN)
add(STARTS, "no-sync-table.mp4", changed(clip(**LONG, gop=100), without_sync_table), SIXTEEN)
add(STARTS, "wrong-sync-table.mp4", changed(clip(**LONG, gop=20), wrong_sync_table), SIXTEEN)
add(
    STARTS,
    "wrong-sync-table-b.mp4",
    changed(clip(**LONG, gop=20, codec_options={"bf": "3"}), wrong_sync_table),
    SIXTEEN,
)
OPEN_GOP = {"x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0:bframes=3"}
add(STARTS, "open-group.mp4", clip(**LONG, codec_options=OPEN_GOP), SIXTEEN)
add(STARTS, "open-group.ts", clip(**LONG, codec_options=OPEN_GOP), SIXTEEN)
HEVC = {
    "preset": "ultrafast",
    "x265-params": "log-level=none:keyint=20:min-keyint=20:bframes=3:pools=1:frame-threads=1",
}
add(STARTS, "open-group-hevc.mp4", clip(**LONG, video="libx265", codec_options=HEVC), SIXTEEN)
# Where decoding starts at the first packet of an open group, the images before it are left out.
for name, change in (("all", all_key), ("some", some_key)):
    make = clip(**LONG, video="libx265", codec_options=HEVC, change=change)
    add(STARTS, f"{name}-key-open-group-hevc.mkv", make, SIXTEEN)
add(STARTS, "open-group-mpeg2.ts", clip(**LONG, video="mpeg2video", codec_options={"bf": "2", "b": "4000000"}), SIXTEEN)
add(STARTS, "intra.mp4", clip(**LONG, gop=1), SIXTEEN)
add(
    STARTS,
    "from-the-middle.mp4",
    clip(**LONG, **refresh(50)),
    shown(16.0)[12:],
    start=6.0,
)


def _annexb(options: dict[str, str], first: int, count: int) -> list[tuple[bytes, int, int, bool]]:
    """(data, pts, dts, key) of an H.264 stream with start codes whose parameter sets come once, at its beginning."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = numbered.WIDTH, numbered.HEIGHT, "yuv420p"
    context.framerate, context.gop_size, context.thread_count = 25, 20, 1
    context.time_base = 1 / context.framerate
    context.options = {"preset": "veryfast", "bf": "0", "crf": "18", **options}
    packets = []
    for n in range(count):
        frame = av.VideoFrame.from_ndarray(numbered.image(first + n), format="rgb24")
        frame.pts, frame.time_base = n, context.time_base
        packets += context.encode(frame)
    packets += context.encode(None)
    coded = []
    for number, packet in enumerate(packets):
        units = bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
        kept = [unit for unit in units if number == 0 or unit[0] & 31 not in (7, 8)]
        coded.append((b"".join(b"\0\0\0\1" + unit for unit in kept), packet.pts, packet.dts, packet.is_keyframe))
    return coded


def changing_parameters(first: dict[str, str], then: dict[str, str]) -> Callable[[Path], None]:
    """A second half with other parameter sets, which come once where it begins."""

    def make(path: Path) -> None:
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = numbered.WIDTH, numbered.HEIGHT, "yuv420p"
            stream.codec_context.time_base = 1 / stream.codec_context.framerate
            output.start_encoding()
            for start, options in ((0, first), (100, then)):
                for data, pts, dts, key in _annexb(options, start, 100):
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.is_keyframe = pts + start, dts + start, key
                    packet.time_base, packet.stream = stream.codec_context.time_base, stream
                    output.mux(packet)

    return make


EIGHT = shown(8.0)
CABAC, CAVLC = {"coder": "cabac"}, {"x264-params": "cabac=0:ref=1:8x8dct=0:weightp=0"}
add(STARTS, "parameters.ts", changing_parameters(CABAC, CAVLC), EIGHT)
add(STARTS, "parameters-back.ts", changing_parameters(CAVLC, CABAC), EIGHT)
add(STARTS, "parameters.mkv", changing_parameters(CABAC, CAVLC), EIGHT)

# --- no times of presentation ----------------------------------------------------------------------------------------
STAMPS = "no presentation times"
B3 = {"codec_options": {"bf": "3"}}
for b in (1, 3, 5):
    add(STAMPS, f"b{b}.avi", clip(codec_options={"bf": str(b)}, gop=25, audio="libmp3lame"), FOUR, BEEPS)
add(STAMPS, "pyramid.avi", clip(codec_options={"bf": "3", "b-pyramid": "2"}, count=400, audio=None), SIXTEEN)
add(
    STAMPS,
    "mpeg4-b.avi",
    clip(video="mpeg4", codec_options={"bf": "2", "b": "4000000"}, audio="libmp3lame"),
    FOUR,
    BEEPS,
)
# Here the writer puts an empty image after the first one: all others are shown one step later.
add(STAMPS, "no-b.avi", clip(audio="libmp3lame"), [0, *(n - 1 for n in FOUR[1:])], BEEPS)
add(
    STAMPS,
    "b3-no-index.avi",
    changed(clip(**B3, gop=100, count=400, audio=None), without_index),
    SIXTEEN,
)
for keep in (4, 16, 1000):
    for b in (0, 2):
        make = clip(codec_options={"bf": str(b)}, audio="mp2", count=200)
        add(
            STAMPS,
            f"stamps-{keep}-b{b}.ts",
            changed(make, lambda data, keep=keep: numbered.forget_stamps(data, keep)),
            EIGHT,
            [n + 0.5 for n in range(8)],
        )
add(
    STAMPS,
    "mpeg2-b.mpg",
    clip(video="mpeg2video", codec_options={"bf": "2", "b": "4000000"}, audio="mp2", count=200, container="mpeg"),
    EIGHT,
    [n + 0.5 for n in range(8)],
)

# --- clocks that jump ------------------------------------------------------------------------------------------------
JUMPS = "clocks that jump"
MOVING = [n / 10 for n in range(41)]
JOINED = "joined without a gap"
B2 = {"codec_options": {"bf": "2"}}


def parts(*shifts: float, **options: Any) -> Callable[[Path], None]:
    """Recordings of four seconds after each other; each has its own clock and its own hundred images."""
    return joined(*(clip(first=100 * k, shift=shift, container="mpegts", **options) for k, shift in enumerate(shifts)))


def beeps_of(count: int) -> list[float]:
    return [4 * k + b for k in range(count) for b in BEEPS]


def images_of(count: int) -> list[int]:
    return [n for k in range(count) for n in shown(4.0, first=100 * k)]


for name, shifts in {
    "restart": (0, 0),
    "restart-three": (0, 0, 0),
    "hour-later": (0, 3600),
    "hour-earlier": (3600, 0),
    "back-and-forth": (100, 3700, 50),
    "gap-20": (0, 24),
    "slightly-back": (100, 101),
}.items():
    add(JUMPS, f"{name}.ts", parts(*shifts), images_of(len(shifts)), beeps_of(len(shifts)), JOINED)
add(JUMPS, "restart-b.ts", parts(0, 0, **B2), images_of(2), beeps_of(2), JOINED)
add(JUMPS, "restart-video.ts", parts(0, 0, audio=None), images_of(2), [], JOINED)
add(JUMPS, "restart-audio.ts", parts(0, 0, video=None), [], beeps_of(2), JOINED)
add(JUMPS, "hour-later-audio.ts", parts(0, 3600, video=None), [], beeps_of(2), JOINED)
add(JUMPS, "no-jump.ts", parts(10, 14), images_of(2), None)
add(
    JUMPS,
    "short-pause.ts",
    parts(10, 19),
    [*shown(4.0), *[99] * 10, *shown(4.0, first=100)],
    [*BEEPS, 9.5, 10.5, 11.5, 12.5],
    "gap",
)
MPG = {"video": "mpeg2video", "audio": "mp2", "codec_options": {"b": "4000000"}}
add(
    JUMPS,
    "restart.mpg",
    joined(clip(**MPG, container="mpeg"), clip(**MPG, first=100, container="mpeg")),
    images_of(2),
    beeps_of(2),
    JOINED,
)
add(
    JUMPS,
    "restart-h264.mpg",
    joined(*(clip(audio="mp2", container="mpeg", first=first) for first in (0, 100))),
    images_of(2),
    beeps_of(2),
    JOINED,
)
# Less than a second back, by different amounts.
for seconds in (0.12, 0.32, 0.68):
    add(JUMPS, f"back-{seconds}.ts", parts(10, 14 - seconds), images_of(2), beeps_of(2), JOINED)
add(
    JUMPS,
    "back-early.ts",
    joined(
        clip(count=12, shift=11, container="mpegts", audio=None),
        clip(count=25, first=12, shift=10.6, container="mpegts", audio=None),
    ),
    [0, 12, 25, 36],
    [],
    JOINED,
)
WRAP = 2**33 / 90_000
add(
    JUMPS,
    "wrap-and-restart.ts",
    joined(clip(shift=WRAP - 2.5, container="mpegts"), clip(first=100, shift=1.0, container="mpegts")),
    images_of(2),
    beeps_of(2),
    JOINED,
)


def broken(which: list[int], seconds: float, track: int, b: int) -> Callable[[Path], None]:
    make = clip(container="mpegts", audio="mp2", codec_options={"bf": str(b)})
    return changed(make, lambda data: numbered.move_stamps(data, which, seconds, track))


for track, kind in ((0xE0, "image"), (0xC0, "sound")):
    for seconds in (3600, 30, -1, -0.5):
        for place, which in (("first", [0]), ("middle", [20]), ("two", [20, 21]), ("last", [-1])):
            if place == "first" and seconds < 0:  # then the track may begin earlier
                continue
            for b in (0, 2):
                warns = [JOINED] if place == "last" and seconds < 0 else []
                add(
                    JUMPS,
                    f"{kind}-{place}-{seconds}-b{b}.ts",
                    broken(which, seconds, track, b),
                    FOUR,
                    BEEPS,
                    *warns,
                )
PAUSE = [*MOVING, *(20 + n / 10 for n in range(40))]
for suffix in ("ts", "flv"):
    add(
        JUMPS,
        f"pause-with-sound.{suffix}",
        clip(times=PAUSE, fps=10, seconds=24.0),
        [*range(0, 41, 5), *[40] * 31, *range(41, 81, 5)],
        [n + 0.5 for n in range(24)],
    )
add(JUMPS, "part-of-restart.ts", parts(0, 0), images_of(2)[6:12], [0.5, 1.5, 2.5], JOINED, start=3.0, end=6.0)
add(JUMPS, "wrap.ts", clip(shift=2**33 / 90_000 - 2, container="mpegts"), FOUR, BEEPS)

# --- still ends ------------------------------------------------------------------------------------------------------
STILL = "still ends"
SCREEN = [min(5 * k, 40) for k in range(60)]
THIRTY = [n + 0.5 for n in range(30)]
screen = {"times": MOVING, "fps": 10, "seconds": 30.0}
for suffix in ("mp4", "mov", "mkv"):
    add(STILL, f"screen.{suffix}", clip(**screen, last_duration=26.0), SCREEN, THIRTY)
    quiet = {**screen, "audio": None}
    add(STILL, f"screen-quiet.{suffix}", clip(**quiet, last_duration=26.0), SCREEN, [])
HELD = "to the end of the audio"
add(STILL, "screen-unstated.mkv", clip(**screen), SCREEN, THIRTY, HELD)
add(STILL, "screen-unstated.ts", clip(**screen, audio="mp2"), SCREEN, THIRTY, HELD)
add(
    STILL,
    "screen.webm",
    clip(**screen, video="libvpx", codec_options={"b": "4000000", "deadline": "realtime"}, audio="libopus"),
    SCREEN,
    THIRTY,
    HELD,
)
add(
    STILL,
    "slides.mp4",
    clip(times=[0.0, 5.0, 12.0], fps=10, seconds=30.0, last_duration=18.0),
    [0] * 10 + [1] * 14 + [2] * 36,
    THIRTY,
)
add(STILL, "slides.mkv", clip(times=[0.0, 5.0, 12.0], fps=10, seconds=30.0), [0] * 10 + [1] * 14 + [2] * 36, THIRTY)
add(STILL, "one-image.mp4", clip(times=[0.0], fps=10, seconds=30.0, last_duration=30.0), [0] * 60, THIRTY)
add(STILL, "one-image.mkv", clip(times=[0.0], fps=10, seconds=30.0), [0] * 60, THIRTY)

# --- tracks ----------------------------------------------------------------------------------------------------------
TRACKS = "tracks"
TWO = {"extra_video": "mjpeg"}


AVI_B = {"audio": "libmp3lame", "codec_options": {"bf": "2"}}
for name, make, pair, images, beeps, codec in (
    ("unknown-video.mp4", clip(), (b"avc1\0\0\0\0", b"xyz1\0\0\0\0"), [], BEEPS, "video track 0 (xyz1, unknown codec)"),
    (
        "unknown-video.mkv",
        clip(),
        (b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/XYZ"),
        [],
        BEEPS,
        "video track 0 (V_MPEG9/ISO/XYZ",
    ),
    ("unknown-audio.mkv", clip(), (b"A_AAC", b"A_XYZ"), FOUR, [], "audio track 1 (A_XYZ"),
    ("unknown-video.avi", clip(**AVI_B), (b"H264", b"XYZ3"), [], BEEPS, "video track 0 (XYZ3"),
    (
        "unknown-audio.avi",
        clip(**AVI_B),
        (b"\x55\0\1\0\x80\xbb", b"\x55\x7a\1\0\x80\xbb"),
        FOUR,
        [],
        "audio track 1 (0x7A55, unknown codec)",
    ),
):
    add(TRACKS, name, changed(make, lambda data, pair=pair: bytes(data).replace(*pair)), images, beeps, codec)
for suffix in ("mp4", "mkv"):
    add(TRACKS, f"still-first.{suffix}", clip(**TWO), FOUR, BEEPS, "2 video tracks; track 1 was read")


CENC = {
    "encryption_scheme": "cenc-aes-ctr",
    "encryption_key": "00112233445566778899aabbccddeeff",
    "encryption_kid": "ffeeddccbbaa99887766554433221100",
}


def two_films(path: Path) -> None:
    with av.open(str(path), "w") as output:
        packets = []
        for first in (0, 200):
            packets += numbered.encode(output, "libx264", list(range(first, first + 100)), [n / 25 for n in range(100)])
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            output.mux(packet)


add(TRACKS, "two-films.mp4", two_films, FOUR, [], "2 video tracks; the default one was read")
SIZES = {"container": "mpegts", "audio": None}
add(
    TRACKS,
    "two-sizes.ts",
    joined(clip(**SIZES, shift=10), clip(**SIZES, shift=14, first=100, size=(144, 128))),
    images_of(2),
    [],
    "the size or shape of the images changes from 288 x 128 to 144 x 128",
)

# --- orientation: the corners of an image are white, red, green and blue ---------------------------------------------
ORIENTATION = "orientation"
CORNERS = {"white": (255, 255, 255), "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


def corners(pixels: np.ndarray) -> list[str]:
    """Names of the colours of an image [H, W, 3], clockwise from the upper left."""
    h, w = pixels.shape[:2]
    places = [(h // 4, w // 4), (h // 4, 3 * w // 4), (3 * h // 4, 3 * w // 4), (3 * h // 4, w // 4)]
    return [min(CORNERS, key=lambda name: np.abs(pixels[y, x].astype(int) - CORNERS[name]).sum()) for y, x in places]


MATRICES: dict[str, tuple[tuple[int, int, int, int], list[str]]] = {
    # (a, b, c, d): a point (x, y) is shown at (a x + c y, b x + d y)
    "as-coded": ((1, 0, 0, 1), ["white", "red", "green", "blue"]),
    "mirrored": ((-1, 0, 0, 1), ["red", "white", "blue", "green"]),
    "upside-down": ((1, 0, 0, -1), ["blue", "green", "red", "white"]),
    "half-turn": ((-1, 0, 0, -1), ["green", "blue", "white", "red"]),
    "quarter-turn": ((0, 1, -1, 0), ["blue", "white", "red", "green"]),
    "three-quarters": ((0, -1, 1, 0), ["red", "green", "blue", "white"]),
    "transposed": ((0, 1, 1, 0), ["white", "blue", "green", "red"]),
    "transverse": ((0, -1, -1, 0), ["green", "red", "white", "blue"]),
}


def oriented(name: str, *, inside: str = "") -> Callable[[Path], None]:
    """A clip with a display matrix in its header, or told inside the H.264 stream (options of FFmpeg's filter)."""

    def make(path: Path) -> None:
        pixels = np.zeros((128, 256, 3), np.uint8)
        for colour, (rows, columns) in zip(CORNERS.values(), ((0, 0), (0, 1), (1, 1), (1, 0)), strict=True):
            pixels[rows * 64 : rows * 64 + 64, columns * 128 : columns * 128 + 128] = colour
        with av.open(str(path), "w") as output:
            stream = output.add_stream("libx264", rate=10, options={"preset": "veryfast", "crf": "10"})
            stream.width, stream.height, stream.pix_fmt, stream.gop_size = 256, 128, "yuv444p", 10
            packets = []
            for n in range(20):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = n
                packets += stream.encode(frame)
            packets += stream.encode(None)
            if inside:
                tell = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{inside}", stream)
                packets = [told for packet in packets for told in tell.filter(packet)]
            for packet in packets:
                packet.stream = stream
                output.mux(packet)
        if not inside:
            a, b, c, d = (n << 16 for n in MATRICES[name][0])
            data = bytearray(path.read_bytes())
            at = find_boxes(bytes(data), b"tkhd")[0] + 40
            data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
            path.write_bytes(bytes(data))

    return make


FILES += [
    OddFile(ORIENTATION, f"{name}.{suffix}", oriented(name), [], None, corners=colours)
    for name, (_, colours) in MATRICES.items()
    for suffix in ("mp4", "mov")
]
for told, shown_as in {
    "rotate=90": "three-quarters",
    "flip=horizontal": "mirrored",
    "rotate=90:flip=horizontal": "transposed",
}.items():
    for start in (0.0, 1.0):  # only the first frame carries it; a part read from the middle needs it as well
        name = f"told-{shown_as}-{start:g}.ts"
        colours = MATRICES[shown_as][1]
        make = oriented("as-coded", inside=told)
        FILES.append(OddFile(ORIENTATION, name, make, [], None, read={"start": start}, corners=colours))


def find_faults(file: OddFile, path: Path) -> list[str]:
    """Read a file, also sparsely; returns what differs from what a player shows."""
    small = {"min_pixels": 28 * 28, "max_pixels": 64 * 28 * 28, **file.read}
    media = read(path, **small)
    images = [] if media.images is None else list(media.images)
    if file.corners is not None:
        return [f"{corners(image)}" for image in images if corners(image) != file.corners]
    faults = []
    if [numbered.number(image) for image in images] != file.images:
        faults.append(f"images {[numbered.number(image) for image in images]} instead of {file.images}")
    beeps = numbered.beeps(media.waveform)
    # A lossy codec delays by up to 30 ms, and so does the padding of each joined part.
    if file.beeps is not None and not (
        len(beeps) == len(file.beeps) and np.allclose(beeps, file.beeps, rtol=0, atol=0.06)
    ):
        faults.append(f"beeps {beeps} instead of {file.beeps}")
    if len(media.warnings) != len(file.warns) or not all(w in " | ".join(media.warnings) for w in file.warns):
        faults.append(f"warnings {media.warnings} instead of {file.warns}")
    for fps in (0.5, 0.2) if len(file.images) > 8 else ():
        sparse = [numbered.number(image) for image in read(path, **{**small, "fps": fps}).images]
        expected = file.images[:: round(2 / fps)]  # the number of images is even, so one may be more or less
        if sparse[: len(expected)] != expected[: len(sparse)] or len(sparse) < len(expected) - 1:
            faults.append(f"images {sparse} instead of {expected} at {fps} per second")
    return faults


def main() -> None:
    files, wrong = Counter(file.kind for file in FILES), Counter()
    with tempfile.TemporaryDirectory() as folder:
        for file in FILES:
            file.make(Path(folder, file.name))
            try:
                faults = find_faults(file, Path(folder, file.name))
            except OmniSiftError as error:
                faults = [str(error)]
            wrong[file.kind] += bool(faults)
            if faults:
                print(file.name, *faults, sep="\n    ")
    print("| kind | files | wrong |\n| --- | ---: | ---: |")
    for kind in files:
        print(f"| {kind} | {files[kind]} | {wrong[kind]} |")


if __name__ == "__main__":
    main()
