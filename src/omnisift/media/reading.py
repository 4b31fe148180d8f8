"""`ClipReader`: index the packets, plan the images, decode once, and report everything unusual."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.errors import Damaged, NoAudio, NotMedia, NoVideo, UsageError
from omnisift.media.audio import AudioCollector
from omnisift.media.clock import PADDING, SKEW, MediaClock, read_clock
from omnisift.media.container import audio_stream, open_container, read_packets, video_stream
from omnisift.media.decoders import AudioDecoder, VideoDecoder
from omnisift.media.image import ImageCollector
from omnisift.media.index import VideoIndex, read_index
from omnisift.media.result import Media
from omnisift.media.sampling import TIME_TOLERANCE, Sampling, SamplingGrid, by_index, by_time
from omnisift.media.source import Source, describe_file
from omnisift.media.units import SAMPLE_RATE
from omnisift.media.work import WorkBudget

LENGTH_TOLERANCE = 0.5
"""Seconds by which a header may overstate a length without a warning."""

NO_FRAMES = "the video track holds no frames"


@dataclass
class ClipReader:
    """Reads one file in four steps: `inspect`, `plan_images`, `decode`, `result`. Times are on the media clock."""

    file: Source
    video: bool
    audio: bool
    start: float
    end: float | None
    max_seconds: float
    budget: WorkBudget
    clock: MediaClock | None = None
    index: VideoIndex | None = None
    """The frames of the video track; None if there is none or it is not wanted."""
    grid: SamplingGrid | None = None
    image_collector: ImageCollector | None = None
    audio_collector: AudioCollector | None = None
    """None if there is no audio track or it is not wanted."""
    lead_in: float = 0.0
    bad_packets: int = 0
    capped: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def until(self) -> float:
        """Seconds: nothing is read from here on."""
        return self.max_seconds if self.end is None else min(self.max_seconds, self.end - self.start)

    @property
    def video_seconds(self) -> float:
        """Length of the video within the part that is read."""
        assert self.clock is not None
        return min(self.clock.video_end, self.until) if self.index is not None else 0.0

    def inspect(self) -> None:
        """Find the tracks, the clock and the times of all frames, without decoding.

        Raises:
            MediaError: the file can't be opened, has neither video nor audio, or takes too long.
        """
        with open_container(self.file) as container:
            video, audio = video_stream(container), audio_stream(container)
            self.tags = {key.lower(): value for key, value in container.metadata.items()}
            if video is None and audio is None:
                raise NotMedia("has neither video nor audio; give a video or audio file")
            # The clock depends on the video even where only the audio is wanted.
            index = read_index(container, video, self.start + self.until, self.budget) if video is not None else None
            if video is not None and index is None:
                self.warnings.append(NO_FRAMES)
            self.clock = read_clock(container, index, video, audio, self.start)
            self.index = index if self.video else None
            self.audio_collector = AudioCollector(self.until) if audio is not None and self.audio else None
            if self.audio_collector is not None and len(container.streams.audio) > 1:
                self.warnings.append(f"{len(container.streams.audio)} audio tracks; the default one was read")

    def plan_images(self, sampling: Sampling, fps: float, max_frames: int) -> None:
        """Choose the moments of the images.

        Raises:
            Damaged: the video has no length.
            UsageError: the requested part has no video.
        """
        if self.index is None or self.clock is None:
            return
        if self.clock.video_end <= 0 and not self.start:
            raise Damaged("its video has no length; get a complete copy of the file")
        if self.clock.video_end <= 0:
            reason = f"start={self.start:g} is after the end of the video"
            raise UsageError(f"{describe_file(self.file)}: {reason}; choose an earlier start")
        self._check_length(self.clock.video_end)
        self._check_stated_length("video", self.clock.stated_video_end, self.clock.video_end)
        if self.clock.first_image_held:
            self.warnings.append(
                f"the video begins {self.clock.first_image_held:.2f} s late; its first image is held until then"
            )
        # Sample by time, or by frame number as published results did.
        if sampling == "time":
            self.grid = by_time(self.video_seconds, fps, max_frames)
        else:
            self.grid = by_index(self._shown_times_in_part(), self.index.frame_rate, fps, max_frames)
        if self.grid.capped:
            self.capped = True
            self.warnings.append(f"over max_frames={max_frames}; sampled at {self.grid.fps:.4g} images per second")

    def _shown_times_in_part(self) -> npt.NDArray[np.float64]:
        """[F]: when the frames within the part that is read are shown."""
        assert self.index is not None
        assert self.clock is not None
        shown_times = self.index.shown_times - self.clock.zero
        inside = shown_times[(shown_times > -TIME_TOLERANCE) & (shown_times < self.until - TIME_TOLERANCE)]
        if not len(inside):
            raise UsageError(f"{describe_file(self.file)}: no frame between start and end; choose a longer part")
        return inside

    def _check_length(self, seconds: float) -> None:
        """Warn once if ``max_seconds`` left something out."""
        if seconds > self.max_seconds + SKEW and self.until == self.max_seconds and not self.capped:
            self.capped = True
            self.warnings.append(f"longer than max_seconds={self.max_seconds:g}; the rest was left out")

    def _check_stated_length(self, track: str, stated: float, actual: float) -> None:
        """Warn if a header states much more than the file holds, as in a truncated file."""
        if math.isfinite(stated) and min(stated, self.until) > actual + LENGTH_TOLERANCE:
            self.warnings.append(f"the header states {stated:.1f} s of {track}; the file has only {actual:.1f} s")

    def decode(self, factor: int, min_pixels: int, max_pixels: int) -> None:
        """Decode both tracks in one pass over the packets; the arguments are those of `smart_size`.

        Raises:
            MediaError: the file can't be opened, its images are too large, or the budget is spent.
        """
        assert self.clock is not None
        decoders: list[VideoDecoder | AudioDecoder] = []
        streams: list[VideoStream | AudioStream] = []
        with open_container(self.file) as container:
            video, audio = video_stream(container), audio_stream(container)
            # Decode only the packets that the sampled images need.
            if video is not None and self.grid is not None and self.index is not None:
                self.image_collector = ImageCollector(self.grid.moments, factor, min_pixels, max_pixels)
                needed = self.index.packets_for(self.grid.moments + TIME_TOLERANCE + self.clock.zero)
                decoders.append(VideoDecoder(video, needed, self.clock, self.image_collector, self.budget))
                streams.append(video)
            if audio is not None and self.audio_collector is not None:
                decoders.append(AudioDecoder(audio, self.clock, self.audio_collector))
                streams.append(audio)
            if streams:
                self._feed(container, streams, {d.index: d for d in decoders})
        self.bad_packets += sum(d.bad_packets for d in decoders)
        self.lead_in = sum(d.lead_in for d in decoders if isinstance(d, AudioDecoder))

    def _feed(
        self,
        container: InputContainer,
        streams: list[VideoStream | AudioStream],
        decoders: dict[int, VideoDecoder | AudioDecoder],
    ) -> None:
        for packet in read_packets(container, streams, self.budget):
            if packet is None:
                self.bad_packets += 1
            elif packet.stream.index in decoders:
                decoders[packet.stream.index].feed(packet)
            if all(d.done for d in decoders.values()):
                break
        for decoder in decoders.values():
            decoder.finish()

    def result(self, require_video: bool, require_audio: bool, strict: bool) -> Media:
        """Return what was decoded.

        Args:
            require_video: whether missing video is an error.
            require_audio: whether missing audio is an error.
            strict: whether any damaged packet is an error.

        Raises:
            MediaError: nothing was decoded, or something that is required is missing.
            UsageError: ``start`` is after the end of the file.
        """
        images = self._images()
        waveform = self._waveform()
        if strict and self.bad_packets:
            raise Damaged(
                f"{self.bad_packets} packets can't be decoded; get a complete copy, or read with strict=False"
            )
        self._check_tracks(images is not None, waveform is not None, require_video, require_audio)
        if self.bad_packets:
            self.warnings.append(f"{self.bad_packets} damaged packet(s) left out")
        times, indices = self._times()
        video_seconds = self.video_seconds if images is not None else 0.0
        audio_seconds = len(waveform) / SAMPLE_RATE if waveform is not None else 0.0
        return Media(
            path=self.file.path,
            images=images,
            times=times,
            indices=indices,
            fps=self.grid.fps if self.grid is not None and images is not None else 0.0,
            waveform=waveform,
            seconds=max(video_seconds, audio_seconds),
            video_seconds=video_seconds,
            capped=self.capped,
            bad_packets=self.bad_packets,
            warnings=tuple(self.warnings),
            tags=self.tags,
        )

    def _images(self) -> npt.NDArray[np.uint8] | None:
        if self.image_collector is None:
            return None
        if self.image_collector.late:
            self.warnings.append(f"{self.image_collector.late} frame(s) with decreasing time stamps left out")
        if self.image_collector.images is None:
            self.warnings.append("no image can be decoded")
        return self.image_collector.images

    def _times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """[N] seconds and [N] frame numbers of the images."""
        if self.image_collector is None or self.index is None or self.clock is None:
            return np.zeros(0), np.zeros(0, np.int64)
        # The frame shown at a time is the last one that starts by then.
        times = np.array(self.image_collector.times, np.float64)
        shown_times = self.index.shown_times - self.clock.zero
        indices = np.searchsorted(shown_times, times + TIME_TOLERANCE, side="right") - 1
        return times, np.maximum(indices, 0).astype(np.int64)

    def _waveform(self) -> npt.NDArray[np.float32] | None:
        """The audio, without the encoder's padding at its end."""
        if self.audio_collector is None or self.clock is None:
            return None
        stated_end = self.clock.stated_audio_end - self.lead_in
        wave = self.audio_collector.finish({self.clock.video_end: PADDING, stated_end: SKEW})
        end = self.audio_collector.end / SAMPLE_RATE
        self._check_length(end)
        self._check_stated_length("audio", stated_end, end)
        self.warnings += self.audio_collector.warnings()
        return wave if len(wave) else None

    def _check_tracks(self, video: bool, audio: bool, require_video: bool, require_audio: bool) -> None:
        """Raise the error that fits a track that is missing."""
        if not (video or audio):
            self._explain_nothing()
            require_video, require_audio = self.video, self.audio
        if not video and require_video:
            raise NoVideo("has no video; give a file with video, or allow one without")
        if not audio and require_audio:
            raise NoAudio("has no audio; give a file with audio, or allow one without")

    def _explain_nothing(self) -> None:
        """Raise the error that fits if nothing was decoded although there was something to decode."""
        tried = self.image_collector is not None or self.audio_collector is not None or NO_FRAMES in self.warnings
        if tried and self.start and not self.bad_packets:
            raise UsageError(f"{describe_file(self.file)}: nothing after start={self.start:g}; choose an earlier start")
        if tried:
            raise Damaged(
                f"nothing in it can be decoded ({self.bad_packets} bad packets); get a complete copy of the file"
            )
