"""Compare the speed of the media reader with a PyAV loop that decodes every frame and discards it.

Prints one JSON line. Without a file it generates a clip: 60 s of 1280 x 720 at 25 frames per second with moving noise,
h264 with a key frame every 250 frames, and stereo audio.

    python benchmarks/speed/read.py [FILE] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np

from omnisift.media import read
from omnisift.utils.provenance import machine_info


def make_clip(path: Path, seconds: int = 60) -> None:
    """Write a clip of drifting noise, so that motion search and residuals cost as much as in real videos."""
    rng = np.random.default_rng(0)
    noise = np.kron(rng.integers(0, 255, (90, 160, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "28"})
        video.width, video.height, video.pix_fmt, video.gop_size = 1280, 720, "yuv420p", 250
        audio = box.add_stream("aac", rate=48_000, layout="stereo")
        for number in range(25 * seconds):
            image = np.roll(noise, (number * 2, number * 3), (0, 1)) // 2 + rng.integers(
                0, 24, (720, 1280, 1), np.uint8
            )
            box.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            frame = av.AudioFrame.from_ndarray(rng.normal(0, 0.1, (2, 1920)).astype(np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts = 48_000, number * 1920
            box.mux(audio.encode(frame))
        box.mux(video.encode(None))
        box.mux(audio.encode(None))


def bare_loop(path: Path) -> None:
    """Decode every frame of video and audio, and discard it."""
    with av.open(str(path)) as box:
        for stream in box.streams.video:
            stream.thread_type = "AUTO"
        for packet in box.demux(video=0, audio=0):
            for _ in packet.decode():
                pass


def cpu_seconds(job: Callable[[], Any], repeat: int) -> float:
    """Return the minimum processor time of ``repeat`` runs, which varies less than wall time under load."""
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        job()
        times.append(time.process_time() - begin)
    return min(times)


def measure(path: Path, repeat: int) -> dict[str, Any]:
    media = read(path)
    bare = cpu_seconds(lambda: bare_loop(path), repeat)
    full = cpu_seconds(lambda: read(path), repeat)
    few = cpu_seconds(lambda: read(path, max_frames=4), repeat)
    heard = cpu_seconds(lambda: read(path, video=False), repeat)
    return {
        "benchmark": "read",
        "media_seconds": round(media.seconds, 2),
        "images": 0 if media.images is None else len(media.images),
        "size": None if media.images is None else list(media.images.shape[1:3]),
        "cpu_s_bare_loop": round(bare, 3),
        "cpu_s_read": round(full, 3),
        "cpu_s_read_4_images": round(few, 3),
        "cpu_s_sound_only": round(heard, 3),
        "ratio_read_to_bare": round(full / bare, 3),
        "times_real_time": round(media.seconds / full, 1),
        "peak_rss_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **machine_info("av", "numpy"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = given.file or Path(folder) / "clip.mp4"
        if given.file is None:
            make_clip(path)
        print(json.dumps(measure(path, given.repeat)))


if __name__ == "__main__":
    main()
