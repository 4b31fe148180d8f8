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
from omnisift.media.clock import (
    LENGTH_TOLERANCE,
    PADDING,
    SKEW,
    MediaClock,
    find_video_end,
    may_last_longer,
    read_clock,
)
from omnisift.media.container import open_container, read_packets
from omnisift.media.decoders import AudioDecoder, VideoDecoder, read_frame_times
from omnisift.media.headers import PacketHeaders, clock_may_jump, read_headers
from omnisift.media.image import ImageCollector
from omnisift.media.index import VideoIndex, build_index
from omnisift.media.joins import carry_clock
from omnisift.media.result import Media
from omnisift.media.sampling import TIME_TOLERANCE, Sampling, SamplingGrid, by_index, by_time
from omnisift.media.source import Source, describe_file
from omnisift.media.tracks import TrackChoice, choose_tracks, open_audio, open_video
from omnisift.media.units import SAMPLE_RATE
from omnisift.media.work import WorkBudget

MAX_PASSES = 4
"""Times that a video is decoded from further back before it is decoded from its beginning."""

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
    tracks: TrackChoice = field(default_factory=lambda: TrackChoice(None, None))
    clock: MediaClock | None = None
    index: VideoIndex | None = None
    """The frames of the video track; None if there is none or it is not wanted."""
    grid: SamplingGrid | None = None
    image_collector: ImageCollector | None = None
    audio_collector: AudioCollector | None = None
    """None if there is no audio track or it is not wanted."""
    audio_headers: PacketHeaders | None = None
    lead_in: float = 0.0
    unavailable: int = 0
    """Images whose frame could not be decoded."""
    bad_packets: int = 0
    capped: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def contradicted(self) -> bool:
        """Whether an undamaged video gave frames in another order than their times say."""
        return self.image_collector is not None and self.image_collector.late > 0 and not self.bad_packets

    @property
    def until(self) -> float:
        """Seconds: nothing is read from here on."""
        return self.max_seconds if self.end is None else min(self.max_seconds, self.end - self.start)

    @property
    def video_seconds(self) -> float:
        """Length of the video within the part that is read."""
        assert self.clock is not None
        return min(self.clock.video_end, self.until) if self.index is not None else 0.0

    def inspect(self, ask_decoder: bool = False) -> None:
        """Find the tracks, the clock and the times of all frames, without decoding if the file states them.

        Args:
            ask_decoder: whether the order of the frames is taken from the decoder although the file states times.

        Raises:
            MediaError: the file can't be opened, has neither video nor audio, or takes too long.
        """
        headers = self._read_headers(ask_decoder, [])
        encrypted = [
            number
            for number, track in zip((self.tracks.video, self.tracks.audio), headers, strict=True)
            if number is not None and track is not None and track.is_encrypted
        ]
        if encrypted:
            self._read_headers(ask_decoder, encrypted)

    def _read_headers(
        self, ask_decoder: bool, encrypted: list[int]
    ) -> tuple[PacketHeaders | None, PacketHeaders | None]:
        """Choose the tracks, read their packet headers, and set the clock and the index; returns the headers."""
        with open_container(self.file) as container:
            self.tracks = choose_tracks(self.file, container, self.budget, encrypted)
            self.warnings = list(self.tracks.warnings)
            video, audio = open_video(container, self.tracks), open_audio(container, self.tracks)
            self.tags = {key.lower(): value for key, value in container.metadata.items()}
            if video is None and audio is None:
                reason = self.tracks.reason("")
                raise NotMedia(reason or "has neither video nor audio; give a video or audio file")
            # The clock depends on both tracks even where only one is wanted.
            seconds = self.start + self.until
            may_jump = clock_may_jump(container)
            headers = read_headers(container, video, audio, seconds, self.budget, whole_audio=may_jump)
            if any(track is not None and track.is_encrypted for track in headers):
                return headers
            jumps = carry_clock([track for track in headers if track is not None], may_jump)
            if jumps:
                self.warnings.append(f"the file's clock jumps {jumps} time(s); its parts were joined without a gap")
            self.audio_headers = headers[1]
            audio_end = headers[1].end if headers[1] is not None and may_jump else -math.inf
            index = None
            if video is not None and headers[0] is not None:
                index = self._index(container, video, headers[0], audio_end, ask_decoder)
            if video is not None and index is None:
                self.warnings.append(NO_FRAMES)
            self.clock = read_clock(container, index, video, audio, self.start, headers[1], jumps)
            self.index = index if self.video else None
            self.audio_collector = AudioCollector(self.until) if audio is not None and self.audio else None
        return headers

    def _index(
        self,
        container: InputContainer,
        stream: VideoStream,
        headers: PacketHeaders,
        audio_end: float,
        ask_decoder: bool,
    ) -> VideoIndex | None:
        """Index the frames of the video track; None if it shows none."""
        times = read_frame_times(self.file, self.tracks, container, stream, headers, self.budget, ask_decoder)
        shown_times = np.unique(times[~np.isnan(times)])
        if not len(shown_times):
            return None
        if audio_end == -math.inf and may_last_longer(container, stream, headers, shown_times):
            audio_end = self._read_audio_end()
        end, held = find_video_end(container, stream, headers, shown_times, audio_end)
        if held and shown_times[-1] - shown_times[0] < self.start + self.until:
            self.warnings.append(f"the last image is held for {end - shown_times[-1]:.1f} s, to the end of the audio")
        return build_index(headers, times, float(stream.average_rate or 0), end)

    def _read_audio_end(self) -> float:
        """File time at which the audio ends; -inf without audio."""
        with open_container(self.file) as container:
            audio = open_audio(container, self.tracks)
            _, headers = read_headers(container, None, audio, self.start + self.until, self.budget, whole_audio=True)
        return -math.inf if headers is None else headers.end

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

    def decode(self, factor: int, min_pixels: int, max_pixels: int, total_pixels: int | None = None) -> None:
        """Decode both tracks in one pass over the packets; the arguments are those of `omnisift.media.read`.

        Where decoding could not start at a packet that claims to be a key frame, the images that are missing are
        decoded again from further back, in the end from the beginning.

        Raises:
            MediaError: the file can't be opened, its images are too large, or the budget is spent.
        """
        if self.grid is not None:
            if total_pixels is not None:
                max_pixels = min(max_pixels, max(factor * factor, total_pixels // max(1, len(self.grid.moments))))
                min_pixels = min(min_pixels, max_pixels)
            self.image_collector = ImageCollector(self.grid.moments, factor, min_pixels, max_pixels)
        video = self._decode_once(with_audio=True)
        for attempt in range(MAX_PASSES):
            if video is None or self.index is None or not video.bad_starts:
                break
            # If no start held, or too many did not, only the beginning of the track is left.
            hopeless = not video.good_starts or attempt == MAX_PASSES - 1
            starts = set(np.flatnonzero(self.index.is_key).tolist()) if hopeless else video.bad_starts
            self.index = self.index.without_starts(starts - {0})
            video = self._decode_once(with_audio=False)
        if self.image_collector is not None:
            self.unavailable = self._count_unavailable()
            self.image_collector.fill_missing()

    def _count_unavailable(self) -> int:
        """Count the moments whose image is missing, or not the one that the file shows then."""
        assert self.image_collector is not None
        assert self.index is not None
        assert self.clock is not None
        moments = self.image_collector.moments + TIME_TOLERANCE + self.clock.zero
        expected = self.index.coded_times[self.index.packets_at(moments)] - self.clock.zero
        times = self.image_collector.times
        with np.errstate(invalid="ignore"):
            # Without damage an earlier image is right: not every packet holds a frame that is shown.
            wrong = np.isnan(times) | (times > expected + TIME_TOLERANCE)
            wrong |= (times < expected - TIME_TOLERANCE) & (self.bad_packets > 0)
        return int(wrong.sum())

    def _decode_once(self, with_audio: bool) -> VideoDecoder | None:
        """Decode the images that are missing, and the audio; returns the decoder of the video."""
        assert self.clock is not None
        decoders: list[VideoDecoder | AudioDecoder] = []
        streams: list[VideoStream | AudioStream] = []
        with open_container(self.file) as container:
            video, audio = open_video(container, self.tracks), open_audio(container, self.tracks)
            if video is not None and self.image_collector and self.grid is not None and self.index is not None:
                decoders.append(
                    VideoDecoder(video, self.index, self.clock, self.grid.moments, self.image_collector, self.budget)
                )
                streams.append(video)
            if with_audio and audio is not None and self.audio_collector and self.audio_headers is not None:
                decoders.append(AudioDecoder(audio, self.audio_headers, self.clock, self.audio_collector))
                streams.append(audio)
            bad_packets = self._feed(container, streams, {d.index: d for d in decoders}) if streams else 0
        if with_audio:
            # Packets that are decoded again count once.
            self.bad_packets = bad_packets + sum(d.bad_packets for d in decoders)
            self.lead_in = sum(d.lead_in for d in decoders if isinstance(d, AudioDecoder))
        return next((d for d in decoders if isinstance(d, VideoDecoder)), None)

    def _feed(
        self,
        container: InputContainer,
        streams: list[VideoStream | AudioStream],
        decoders: dict[int, VideoDecoder | AudioDecoder],
    ) -> int:
        """Hand all packets to the decoders; returns the number of read errors."""
        errors = 0
        for packet in read_packets(container, streams, self.budget):
            if packet is None:
                errors += 1
            elif packet.stream.index in decoders:
                decoders[packet.stream.index].feed(packet)
            if all(d.done for d in decoders.values()):
                break
        for decoder in decoders.values():
            decoder.finish()
        return errors

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
        self.warnings += self.image_collector.warnings()
        if self.image_collector.images is None:
            self.warnings.append("no image can be decoded")
        elif self.unavailable:
            self.warnings.append(
                f"{self.unavailable} of {len(self.image_collector.times)} images can't be decoded; their neighbours "
                "stand for them"
            )
        return self.image_collector.images

    def _times(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """[N] seconds and [N] frame numbers of the images."""
        if (
            self.image_collector is None
            or self.index is None
            or self.clock is None
            or self.image_collector.images is None
        ):
            return np.zeros(0), np.zeros(0, np.int64)
        # The frame shown at a time is the last one that starts by then.
        times = np.nan_to_num(self.image_collector.times)
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
            reason = self.tracks.reason("video") or "give a file with video, or allow one without"
            raise NoVideo(f"has no video; {reason}")
        if not audio and require_audio:
            reason = self.tracks.reason("audio") or "give a file with audio, or allow one without"
            raise NoAudio(f"has no audio; {reason}")

    def _explain_nothing(self) -> None:
        """Raise the error that fits if nothing was decoded although there was something to decode."""
        tried = self.image_collector is not None or self.audio_collector is not None or NO_FRAMES in self.warnings
        if tried and self.start and not self.bad_packets:
            raise UsageError(f"{describe_file(self.file)}: nothing after start={self.start:g}; choose an earlier start")
        if tried:
            raise Damaged(
                f"nothing in it can be decoded ({self.bad_packets} bad packets); get a complete copy of the file"
            )
