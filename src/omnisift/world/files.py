"""Writing of scenes as .mp4 with video (h264) and audio (aac) through PyAV; no ffmpeg program is needed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer

from omnisift.errors import UsageError
from omnisift.utils.atomic_io import atomic_file
from omnisift.world.degradations import LOW_RATE_CRF
from omnisift.world.render import render_audio, render_frames
from omnisift.world.scene import Scene

COMMENT = "omnisift world"
"""Start of the file's comment tag, which marks a generated clip; split and seed follow."""
_SAMPLES_PER_PACKET = 1024


def write_clip(scene: Scene, path: str | Path, *, crf: int = 18, audio_bit_rate: int = 96_000) -> None:
    """Write a scene as .mp4, without an audio track if the scene is silent.

    The video has ``file_fps`` frames per second, for smooth motion; reading it at ``fps`` gives the instants of
    `render_images`. At the default quality, small shapes and short sounds stay intact (tested). The file appears only
    when it is complete.

    Args:
        scene: The scene.
        path: The file.
        crf: Constant rate factor of the video, unless the scene is degraded by a low rate.
        audio_bit_rate: Bits per second of the audio.

    Raises:
        UsageError: The folder of ``path`` does not exist.
    """
    config, path = scene.config, Path(path)
    if not path.parent.is_dir():
        raise UsageError(f"the folder {str(path.parent)!r} does not exist; create it first, or give another one")
    with atomic_file(path) as unfinished, av.open(str(unfinished), "w", format="mp4") as container:
        container.metadata["comment"] = f"{COMMENT} {scene.split} {scene.seed}"
        video = container.add_stream("libx264", rate=config.file_fps)
        video.width = video.height = config.size
        video.pix_fmt = "yuv420p"
        # Without macroblock trees: with AVX-512 they give another file on every run.
        crf = LOW_RATE_CRF if config.degraded == "h264" else crf
        video.options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        audio = _audio_stream(container, scene, audio_bit_rate) if config.sound else None
        for number, image in enumerate(render_frames(scene)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, config.file_fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            _write_audio(container, audio, scene)


def _audio_stream(container: OutputContainer, scene: Scene, bit_rate: int) -> AudioStream:
    """Add the audio track, before the first packet is written."""
    audio = container.add_stream("aac", rate=scene.config.sample_rate, layout="mono")
    audio.bit_rate = bit_rate
    audio.options = {"aac_coder": "fast"}  # half the time of the default, 30 instead of 32 dB above the loss
    return audio


def _write_audio(container: OutputContainer, audio: AudioStream, scene: Scene) -> None:
    wave, rate = render_audio(scene), scene.config.sample_rate
    for first in range(0, len(wave), _SAMPLES_PER_PACKET):
        part = np.ascontiguousarray(wave[None, first : first + _SAMPLES_PER_PACKET])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, first, Fraction(1, rate)
        container.mux(audio.encode(frame))
    container.mux(audio.encode(None))
