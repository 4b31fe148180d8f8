"""Clips for the inspector's tests: of natural size and texture, without audio, and without video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(path: Path, seconds: float, *, size: tuple[int, int] = (112, 112), fps: int = 2, audio: bool = True):
    """A window moves over noise of several scales, which compresses like camera images."""
    rng = np.random.default_rng(0)
    wall = np.kron(rng.integers(0, 255, (24, 40, 3)), np.ones((24, 24, 1))) + rng.normal(0, 12, (576, 960, 1))
    wall = np.clip(wall, 0, 255).astype(np.uint8)
    with av.open(str(path), "w") as box:
        video = box.add_stream("libx264", rate=fps)
        (video.width, video.height), video.pix_fmt = size, "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "20"}
        track = box.add_stream("aac", rate=16_000, layout="mono") if audio else None
        for number in range(round(seconds * fps)):
            x, y = 7 * number % (960 - size[0]), 3 * number % (576 - size[1])
            image = np.ascontiguousarray(wall[y : y + size[1], x : x + size[0]])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            box.mux(video.encode(frame))
        box.mux(video.encode(None))
        if track is not None:
            write_tone(box, track, seconds)
    return path


def write_audio(path: Path, seconds: float = 2.0) -> Path:
    with av.open(str(path), "w") as box:
        write_tone(box, box.add_stream("aac", rate=16_000, layout="mono"), seconds)
    return path


def write_tone(box, track, seconds: float) -> None:
    wave = (0.4 * np.sin(0.2 * np.arange(round(16_000 * seconds)))).astype(np.float32)
    for start in range(0, len(wave), 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[None, start : start + 1024]), "fltp", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
        box.mux(track.encode(frame))
    box.mux(track.encode(None))
