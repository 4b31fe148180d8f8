"""`read`: look at the packets, plan the moments, decode once, account for everything."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from omnisift.errors import Damaged, MediaError, NoAudio, NotMedia, NoVideo, TooBig, UsageError
from omnisift.media import container as door
from omnisift.media.index import PictureIndex, look
from omnisift.media.picture import PictureTaker, smart_size
from omnisift.media.result import SAMPLE_RATE, Media
from omnisift.media.sampling import QWEN_MAX_FRAMES, SLACK, Plan, by_index, by_time, check_numbers
from omnisift.media.sound import SoundTaker

MAX_FRAMES = 256
SKEW = 0.1
"""Seconds by which sound may begin before the picture, or end after it, as mere packing of the encoder."""

Sampling = Literal["time", "qwen"]


def read(
    path: str | os.PathLike[str],
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    min_pixels: int = 128 * 784,
    max_pixels: int = 320 * 784,
    factor: int = 28,
    sampling: Sampling = "time",
    video: bool = True,
    audio: bool = True,
    require_video: bool = False,
    require_audio: bool = False,
    start: float = 0.0,
    end: float | None = None,
    max_seconds: float = 7200.0,
    strict: bool = False,
) -> Media:
    """Pictures and sound of a file, at the sizes and rates the model wants, on one clock.

    Args:
        path: a local file. Addresses are not fetched.
        fps: images per second.
        max_frames: most images; over it the rate is lowered for the whole film. None: 256, or 768 with "qwen".
        min_pixels, max_pixels, factor: size of one image, see `smart_size`.
        sampling: "time": image k is what is shown at ``k / fps``. "qwen": the frame numbers of ``qwen-omni-utils``.
        video, audio: whether to read picture and sound where there is one.
        require_video, require_audio: whether a file without it is an error.
        start, end: seconds; read only this part. The result's clock starts at ``start``.
        max_seconds: longest part that is read; more is left off, with ``capped`` and a warning.
        strict: any damaged packet is an error.

    Raises:
        MediaError: one of its kinds, with the file's name, the reason and what to do. UsageError: wrong arguments.
    """
    if sampling not in ("time", "qwen"):
        raise UsageError(f'sampling must be "time" or "qwen", got {sampling!r}')
    if not (video or audio):
        raise UsageError("video=False and audio=False leave nothing to read; allow one of them")
    if max_frames is None:
        max_frames = QWEN_MAX_FRAMES if sampling == "qwen" else MAX_FRAMES
    check_numbers(fps, max_frames, start, end, max_seconds)
    smart_size(factor, factor, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    file = door.check_path(path)
    job = _Reading(file, video, audio, start, end, max_seconds)
    try:
        job.look()
        job.plan(sampling, fps, max_frames)
        job.decode(factor, min_pixels, max_pixels)
        return job.result(require_video, require_audio, strict)
    except MediaError as error:
        raise door.named(error, file) from None
    except MemoryError:
        raise TooBig(f"{file}: not enough memory to decode it; scale it down or read a part of it") from None
    except door.DECODE_ERRORS as error:
        raise Damaged(f"{file}: can't be decoded ({type(error).__name__}); get a whole copy of the file") from None


@dataclass
class _Reading:
    """One file on its way through the reader. All times here are on the media clock unless they say ``file``."""

    file: Path
    video: bool
    audio: bool
    start: float
    end: float | None
    max_seconds: float
    zero: float = 0.0
    """File time of the result's 0."""
    until: float = 0.0
    """Seconds after which nothing is read."""
    index: PictureIndex | None = None
    grid: Plan | None = None
    sound: SoundTaker | None = None
    sound_end: float | None = None
    """Seconds: where the track's header says that the sound ends."""
    sound_only: bool = False
    pictures: PictureTaker | None = None
    bad_packets: int = 0
    capped: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def look(self) -> None:
        """Find the tracks, the clock and the times of all frames, without decoding."""
        self.until = min(self.max_seconds, (self.end - self.start) if self.end is not None else self.max_seconds)
        with door.open_container(self.file) as box:
            film, track = door.picture_stream(box), door.sound_stream(box)
            self.tags = {key.lower(): value for key, value in box.metadata.items()}
            if film is None and track is None:
                raise NotMedia("holds neither film nor sound; give a film or sound file")
            self.index = look(box, film, self.start + self.until) if film is not None else None
            if film is not None and self.index is None and track is None:
                raise Damaged("its film track holds no frames; get a whole copy of the file")
            self._set_clock(track)
            if len(box.streams.audio) > 1 and self.audio:
                self.warnings.append(f"{len(box.streams.audio)} sound tracks; the default one was read")
            if self.index is not None and not self.video:
                self.index = None
            if track is not None and self.audio:
                self.sound = SoundTaker(self.until)

    def _set_clock(self, track: AudioStream | None) -> None:
        """0 is the first picture; if sound begins clearly earlier, 0 is the first sound and the first image is held."""
        heard = None
        if track is not None:
            tick = float(track.time_base or 0)
            heard = (track.start_time or 0) * tick
            if track.duration:
                self.sound_end = heard + track.duration * tick
        seen = float(self.index.shown[0]) if self.index is not None else None
        self.sound_only = seen is None
        begin = seen if seen is not None else heard or 0.0
        if seen is not None and heard is not None and heard < seen - SKEW:
            begin = heard
            if self.video and self.start < seen - heard:
                self.warnings.append(f"picture begins {seen - heard:.2f} s after sound; its first image is held")
        self.zero = begin + self.start
        if self.sound_end is not None:
            self.sound_end -= self.zero

    def plan(self, sampling: Sampling, fps: float, max_frames: int) -> None:
        """Choose the moments of the images."""
        if self.index is None:
            return
        shown, length = self.index.shown - self.zero, self.index.end - self.zero
        if length <= 0:
            raise UsageError(
                f"{self.file}: start={self.start} is after the end of the picture; choose an earlier start"
            )
        if length > self.max_seconds + SLACK and self.until == self.max_seconds:
            self.capped = True
            self.warnings.append(f"longer than max_seconds={self.max_seconds:g}; the rest was left off")
        if sampling == "qwen":
            inside = (
                shown[(shown > -SLACK) & (shown < self.until - SLACK)] if self.start or length > self.until else shown
            )
            if not len(inside):
                raise UsageError(f"{self.file}: no frame between start and end; choose a longer part")
            self.grid = by_index(inside, self.index.rate, fps, max_frames)
        else:
            self.grid = by_time(min(length, self.until), fps, max_frames)
        if self.grid.capped:
            self.capped = True
            self.warnings.append(f"over max_frames={max_frames}; sampled at {self.grid.fps:.4g} images per second")

    def decode(self, factor: int, min_pixels: int, max_pixels: int) -> None:
        """One pass over the packets of both tracks."""
        with door.open_container(self.file) as box:
            film = door.picture_stream(box) if self.grid is not None else None
            track = door.sound_stream(box) if self.sound is not None else None
            streams: list[VideoStream | AudioStream] = [s for s in (film, track) if s is not None]
            film_decoder = None
            if film is not None and self.grid is not None and self.index is not None:
                self.pictures = PictureTaker(self.grid.moments, factor, min_pixels, max_pixels)
                film_decoder = _FilmDecoder(self, film, self.index.needed(self.grid.moments + SLACK + self.zero))
            if streams:
                self._run(box, streams, film_decoder, track)
            if film_decoder is not None:
                film_decoder.drain()
            if self.pictures is not None:
                self.pictures.finish()

    def _run(
        self,
        box: InputContainer,
        streams: list[VideoStream | AudioStream],
        film: _FilmDecoder | None,
        track: AudioStream | None,
    ) -> None:
        for packet in door.packets(box, streams):
            if packet is None:
                self.bad_packets += 1
            elif film is not None and packet.stream.index == film.stream.index:
                film.feed(packet)
            elif track is not None and packet.stream.index == track.index:
                self._hear(track, packet)
            if (film is None or film.over) and (self.sound is None or self.sound.full):
                return
        if track is not None:
            self._hear(track, None)

    def _hear(self, track: AudioStream, packet: Packet[Any] | None) -> None:
        """Decode one packet of sound (None: the decoder's rest)."""
        assert self.sound is not None
        tick = float(track.time_base or 0)
        stamp = packet.pts if packet is not None else None
        # The second before the part is decoded too: codecs lean on what came before.
        if self.sound.full or (stamp is not None and stamp * tick < self.zero - 1.0 and self.start):
            return
        try:
            for frame in track.codec_context.decode(packet):
                time = frame.pts * tick - self.zero if frame.pts is not None else None
                if self.sound_only and not self.sound.frames and not self.start and time is not None and time < SKEW:
                    # Without a picture to agree with, the encoder's lead-in is not part of the clock.
                    self.zero += time
                    time = 0.0
                self.sound.hear(time, frame)
        except door.DECODE_ERRORS:
            self.bad_packets += 1
            self.sound.miss()

    def result(self, require_video: bool, require_audio: bool, strict: bool) -> Media:
        """Put it together, or say why there is nothing."""
        images = self._images()
        waveform = self._waveform()
        if strict and self.bad_packets:
            raise Damaged(f"{self.bad_packets} packets can't be decoded; get a whole copy, or read with strict=False")
        if images is None and waveform is None:
            self._nothing()
        if images is None and require_video:
            raise NoVideo("has no picture; give a film, or allow a file without picture")
        if waveform is None and require_audio:
            raise NoAudio("has no sound; give a film with sound, or allow a file without sound")
        if self.bad_packets:
            self.warnings.append(f"{self.bad_packets} damaged packets were left out")
        times = np.array(self.pictures.times if self.pictures is not None and images is not None else [], np.float64)
        shown = self.index.shown - self.zero if self.index is not None else np.zeros(0)
        indices = np.maximum(np.searchsorted(shown, times + SLACK, side="right") - 1, 0)
        film = min(self.index.end - self.zero, self.until) if self.index is not None and images is not None else 0.0
        heard = len(waveform) / SAMPLE_RATE if waveform is not None else 0.0
        fps = self.grid.fps if self.grid is not None and images is not None else 0.0
        return Media(
            path=self.file,
            images=images,
            times=times,
            indices=indices.astype(np.int64),
            fps=fps,
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
            self.warnings.append(f"{self.pictures.late} frames run backwards in time and were left out")
        if not self.pictures.images:
            self.warnings.append("nothing of the picture can be decoded")
            return None
        return np.stack(self.pictures.images)

    def _waveform(self) -> npt.NDArray[np.float32] | None:
        """The sound, without the encoder's padding at its end."""
        if self.sound is None:
            return None
        ends = [] if self.index is None else [self.index.end - self.zero]
        ends += [] if self.sound_end is None else [self.sound_end]
        heard = self.sound.end / SAMPLE_RATE
        cut = min((e for e in ends if e < heard <= e + SKEW), default=None)
        wave = self.sound.finish(cut)
        if self.sound.full and self.until == self.max_seconds and not self.capped:
            self.capped = True
            self.warnings.append(f"longer than max_seconds={self.max_seconds:g}; the rest was left off")
        if self.sound.gaps:
            self.warnings.append(f"{self.sound.gaps} gaps in the sound were filled with silence")
        if self.sound.broken_samples:
            self.warnings.append(f"{self.sound.broken_samples} sound samples that are no sane numbers were set to 0")
        if self.sound.peak > 1.1:
            self.warnings.append(f"sound reaches {self.sound.peak:.1f} and was clipped to 1")
        if not len(wave):
            self.warnings.append("the sound track holds nothing that can be decoded")
            return None
        return wave

    def _nothing(self) -> None:
        """Raise the error that fits a file of which nothing came out."""
        if self.video and not self.audio and self.index is None:
            raise NoVideo("has no picture; give a film")
        if self.audio and not self.video and self.sound is None:
            raise NoAudio("has no sound; give a file with sound")
        raise Damaged(f"nothing in it can be decoded ({self.bad_packets} bad packets); get a whole copy of the file")


class _FilmDecoder:
    """Feeds the needed packets of the film track to its decoder, which starts afresh after each skipped stretch."""

    def __init__(self, job: _Reading, stream: VideoStream, needed: npt.NDArray[np.bool_]) -> None:
        self.stream = stream
        self._job = job
        self._needed = needed
        self._last = int(np.flatnonzero(needed)[-1]) if needed.any() else -1
        self._number = 0
        self._running = False
        self._tick = float(stream.time_base or 0)

    @property
    def over(self) -> bool:
        """Whether no packet is needed any more."""
        return self._number > self._last

    def feed(self, packet: Packet[Any]) -> None:
        """The next packet of the track, in file order."""
        number = self._number
        self._number += 1
        if number < len(self._needed) and self._needed[number]:
            self._running = True
            self._decode(packet)
        elif self._running:
            self.drain()

    def drain(self) -> None:
        """Get the frames that wait in the decoder, and make it ready to start anywhere."""
        if self._running:
            self._decode(None)
            self.stream.codec_context.flush_buffers()
        self._running = False

    def _decode(self, packet: Packet[Any] | None) -> None:
        pictures = self._job.pictures
        assert pictures is not None
        try:
            for frame in self.stream.codec_context.decode(packet):
                # Not frame.time: PyAV forgets the time base of frames that come out while draining.
                if frame.pts is not None:
                    pictures.see(frame.pts * self._tick - self._job.zero, frame)
        except door.DECODE_ERRORS:
            self._job.bad_packets += 1
