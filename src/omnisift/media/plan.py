"""`ClipPlan`: index the packets of a file, set the media clock, and choose the moments of the images."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.errors import Damaged, NotMedia, UsageError
from omnisift.media.audio import AudioCollector
from omnisift.media.clock import LENGTH_TOLERANCE, SKEW, MediaClock, find_video_end, may_last_longer, read_clock
from omnisift.media.container import open_container
from omnisift.media.decoders import read_frame_times
from omnisift.media.headers import PacketHeaders, clock_may_jump, read_headers
from omnisift.media.index import VideoIndex, build_index
from omnisift.media.joins import carry_clock
from omnisift.media.lines import Line
from omnisift.media.sampling import TIME_TOLERANCE, Sampling, SamplingGrid, by_index, by_time
from omnisift.media.source import Source, describe_file
from omnisift.media.subtitles import read_subtitles
from omnisift.media.tracks import TrackChoice, choose_tracks, open_audio, open_video
from omnisift.media.work import WorkBudget

NO_FRAMES = "the video track holds no frames"


@dataclass
class ClipPlan:
    """What is known of one file before it is decoded, in two steps: `inspect`, `plan_images`.

    Times are on the media clock.
    """

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
    audio_collector: AudioCollector | None = None
    """None if there is no audio track or it is not wanted."""
    audio_headers: PacketHeaders | None = None
    capped: bool = False
    warnings: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    """Lines of text that begin before `until`; empty before `read_text`."""

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

    def read_text(self, strict: bool = False) -> None:
        """Read the subtitles, after `inspect`.

        Args:
            strict: whether a damaged packet of a subtitle track is an error.

        Raises:
            MediaError: subtitles are there and can't be read, or are over a limit.
        """
        assert self.clock is not None
        self.lines, warnings = read_subtitles(
            self.file, self.budget, zero=self.clock.zero, start=self.start, until=self.until, strict=strict
        )
        self.warnings += warnings

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
