"""One reading: look at the packets, plan the moments, decode once, account for everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.errors import Damaged, NoAudio, NotMedia, NoVideo, UsageError
from omnisift.media import container as door
from omnisift.media.audio import AudioCollector
from omnisift.media.clock import PADDING, SKEW, Clock, set_clock
from omnisift.media.decoders import AudioDecoder, VideoDecoder
from omnisift.media.image import ImageCollector
from omnisift.media.index import VideoIndex, look
from omnisift.media.result import SAMPLE_RATE, Media
from omnisift.media.sampling import SLACK, Plan, by_index, by_time

CLAIM = 0.5
"""Seconds by which a header may overstate a length without a warning."""

Sampling = Literal["time", "qwen"]


@dataclass
class Reading:
    """One file on its way through the reader. All times are seconds on the media clock."""

    file: Path
    video: bool
    audio: bool
    start: float
    end: float | None
    max_seconds: float
    clock: Clock | None = None
    index: VideoIndex | None = None
    """The frames of the film track; None if there is none or it is not wanted."""
    grid: Plan | None = None
    pictures: ImageCollector | None = None
    sound: AudioCollector | None = None
    """None if there is no sound track or it is not wanted."""
    moved: float = 0.0
    bad_packets: int = 0
    capped: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def until(self) -> float:
        """Nothing is read from here on."""
        return self.max_seconds if self.end is None else min(self.max_seconds, self.end - self.start)

    @property
    def film_seconds(self) -> float:
        """Length of the picture within the part that is read."""
        assert self.clock is not None
        return min(self.clock.film_end, self.until) if self.index is not None else 0.0

    def look(self) -> None:
        """Find the tracks, the clock and the times of all frames, without decoding."""
        with door.open_container(self.file) as box:
            film, track = door.picture_stream(box), door.sound_stream(box)
            self.tags = {key.lower(): value for key, value in box.metadata.items()}
            if film is None and track is None:
                raise NotMedia("holds neither film nor sound; give a film or sound file")
            index = look(box, film, self.start + self.until) if film is not None else None
            if film is not None and index is None:
                self.warnings.append("the film track holds no frames")
            self.clock = set_clock(box, index, film, track, self.start)
            self.index = index if self.video else None
            self.sound = AudioCollector(self.until) if track is not None and self.audio else None
            if self.sound is not None and len(box.streams.audio) > 1:
                self.warnings.append(f"{len(box.streams.audio)} sound tracks; the default one was read")

    def plan(self, sampling: Sampling, fps: float, max_frames: int) -> None:
        """Choose the moments of the images."""
        if self.index is None or self.clock is None:
            return
        if self.clock.film_end <= 0:
            where = f"start={self.start:g} is after the end of the picture"
            raise UsageError(f"{door.label(self.file)}: {where}; choose an earlier start")
        self._mind_the_limit(self.clock.film_end)
        self._mind_the_claim("picture", self.clock.film_stated, self.clock.film_end)
        if self.clock.held:
            self.warnings.append(f"the picture begins {self.clock.held:.2f} s late; its first image is held until then")
        if sampling == "time":
            self.grid = by_time(self.film_seconds, fps, max_frames)
        else:
            self.grid = by_index(self._frames_inside(), self.index.rate, fps, max_frames)
        if self.grid.capped:
            self.capped = True
            self.warnings.append(f"over max_frames={max_frames}; sampled at {self.grid.fps:.4g} images per second")

    def _frames_inside(self) -> npt.NDArray[np.float64]:
        """[F]: when the frames within the part that is read are shown."""
        assert self.index is not None
        assert self.clock is not None
        shown = self.index.shown - self.clock.zero
        inside = shown[(shown > -SLACK) & (shown < self.until - SLACK)]
        if not len(inside):
            raise UsageError(f"{door.label(self.file)}: no frame between start and end; choose a longer part")
        return inside

    def _mind_the_limit(self, seconds: float) -> None:
        if seconds > self.max_seconds + SKEW and self.until == self.max_seconds and not self.capped:
            self.capped = True
            self.warnings.append(f"longer than max_seconds={self.max_seconds:g}; the rest was left off")

    def _mind_the_claim(self, what: str, stated: float, there: float) -> None:
        """A header that promises much more than there is tells of a cut file, or lies."""
        if math.isfinite(stated) and min(stated, self.until) > there + CLAIM:
            self.warnings.append(f"the header says {stated:.1f} s of {what}; only {there:.1f} s is there")

    def decode(self, factor: int, min_pixels: int, max_pixels: int) -> None:
        """One pass over the packets of both tracks."""
        assert self.clock is not None
        decoders: list[VideoDecoder | AudioDecoder] = []
        streams: list[VideoStream | AudioStream] = []
        with door.open_container(self.file) as box:
            film, track = door.picture_stream(box), door.sound_stream(box)
            if film is not None and self.grid is not None and self.index is not None:
                self.pictures = ImageCollector(self.grid.moments, factor, min_pixels, max_pixels)
                needed = self.index.needed(self.grid.moments + SLACK + self.clock.zero)
                decoders.append(VideoDecoder(film, needed, self.clock, self.pictures))
                streams.append(film)
            if track is not None and self.sound is not None:
                decoders.append(AudioDecoder(track, self.clock, self.sound))
                streams.append(track)
            if streams:
                self._run(box, streams, {d.index: d for d in decoders})
        self.bad_packets += sum(d.bad_packets for d in decoders)
        self.moved = sum(d.moved for d in decoders if isinstance(d, AudioDecoder))

    def _run(
        self,
        box: InputContainer,
        streams: list[VideoStream | AudioStream],
        decoders: dict[int, VideoDecoder | AudioDecoder],
    ) -> None:
        for packet in door.packets(box, streams):
            if packet is None:
                self.bad_packets += 1
            elif packet.stream.index in decoders:
                decoders[packet.stream.index].feed(packet)
            if all(d.over for d in decoders.values()):
                break
        for decoder in decoders.values():
            decoder.finish()

    def result(self, require_video: bool, require_audio: bool, strict: bool) -> Media:
        """Put it together, or say why there is nothing."""
        images = self._images()
        waveform = self._waveform()
        if strict and self.bad_packets:
            raise Damaged(f"{self.bad_packets} packets can't be decoded; get a whole copy, or read with strict=False")
        self._check(images is not None, waveform is not None, require_video, require_audio)
        if self.bad_packets:
            self.warnings.append(f"{self.bad_packets} damaged packet(s) left out")
        times, indices = self._times()
        film = self.film_seconds if images is not None else 0.0
        heard = len(waveform) / SAMPLE_RATE if waveform is not None else 0.0
        return Media(
            path=self.file,
            images=images,
            times=times,
            indices=indices,
            fps=self.grid.fps if self.grid is not None and images is not None else 0.0,
            waveform=waveform,
            seconds=max(film, heard),
            video_seconds=film,
            capped=self.capped,
            bad_packets=self.bad_packets,
            warnings=tuple(self.warnings),
            tags=self.tags,
        )

    def _images(self) -> npt.NDArray[np.uint8] | None:
        if self.pictures is None:
            return None
        if self.pictures.late:
            self.warnings.append(f"{self.pictures.late} frame(s) run backwards in time, left out")
        if self.pictures.images is None:
            self.warnings.append("nothing of the picture can be decoded")
        return self.pictures.images

    def _times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """[N] seconds and [N] frame numbers of the images."""
        if self.pictures is None or self.index is None or self.clock is None:
            return np.zeros(0), np.zeros(0, np.int64)
        times = np.array(self.pictures.times, np.float64)
        shown = self.index.shown - self.clock.zero
        return times, np.maximum(np.searchsorted(shown, times + SLACK, side="right") - 1, 0).astype(np.int64)

    def _waveform(self) -> npt.NDArray[np.float32] | None:
        """The sound, without the encoder's padding at its end."""
        if self.sound is None or self.clock is None:
            return None
        stated = self.clock.sound_end - self.moved
        wave = self.sound.finish({self.clock.film_end: PADDING, stated: SKEW})
        self._mind_the_limit(self.sound.end / SAMPLE_RATE)
        self._mind_the_claim("sound", stated, self.sound.end / SAMPLE_RATE)
        self.warnings += self.sound.complaints()
        return wave if len(wave) else None

    def _check(self, video: bool, audio: bool, require_video: bool, require_audio: bool) -> None:
        """Raise the error that fits what did not come out."""
        if not (video or audio):
            self._explain_nothing()
            require_video, require_audio = self.video, self.audio
        if not video and require_video:
            raise NoVideo("has no picture; give a film, or allow a file without picture")
        if not audio and require_audio:
            raise NoAudio("has no sound; give a file with sound, or allow one without")

    def _explain_nothing(self) -> None:
        tried = self.pictures is not None or self.sound is not None or "the film track holds no frames" in self.warnings
        if tried and self.start and not self.bad_packets:
            raise UsageError(f"{door.label(self.file)}: nothing after start={self.start:g}; choose an earlier start")
        if tried:
            bad = f"{self.bad_packets} bad packets"
            raise Damaged(f"nothing in it can be decoded ({bad}); get a whole copy of the file")
