"""`ClipReader`: decode what a plan asks for, and report everything unusual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from omnisift.errors import Damaged, NoAudio, NoVideo, UsageError
from omnisift.media.audio import AudioCollector
from omnisift.media.clock import PADDING, SKEW
from omnisift.media.container import open_container, read_packets
from omnisift.media.decoders import AudioDecoder, VideoDecoder
from omnisift.media.image import ImageCollector
from omnisift.media.lines import within
from omnisift.media.plan import NO_FRAMES, ClipPlan
from omnisift.media.result import Media
from omnisift.media.sampling import TIME_TOLERANCE
from omnisift.media.source import describe_file
from omnisift.media.tracks import open_audio, open_video
from omnisift.media.units import SAMPLE_RATE

MAX_PASSES = 4
"""Times that a video is decoded from further back before it is decoded from its beginning."""


@dataclass
class ClipReader(ClipPlan):
    """Reads one file in four steps: `inspect`, `plan_images`, `decode`, `result`."""

    image_collector: ImageCollector | None = None
    """Receives the images; None if there is no video track or it is not wanted."""
    lead_in: float = 0.0
    unavailable: int = 0
    """Images whose frame could not be decoded."""
    bad_packets: int = 0

    @property
    def contradicted(self) -> bool:
        """Whether an undamaged video gave frames in another order than their times say."""
        return self.image_collector is not None and self.image_collector.late > 0 and not self.bad_packets

    @property
    def audio_ends(self) -> dict[float, float]:
        """Ends of the audio as `AudioCollector.finish` takes them."""
        assert self.clock is not None
        return {self.clock.video_end: PADDING, self.clock.stated_audio_end - self.lead_in: SKEW}

    def decode(self) -> None:
        """Decode both tracks in one pass over the packets.

        Where decoding could not start at a packet that claims to be a key frame, the images that are missing are
        decoded again from further back, in the end from the beginning.

        Raises:
            MediaError: the file can't be opened, its images are too large, or the budget is spent.
        """
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
            self.count_unavailable()
            self.image_collector.fill_missing()

    def count_unavailable(self) -> None:
        """Count the moments whose image is missing, or not the one that the file shows then."""
        assert self.image_collector is not None
        times, expected = self.image_collector.times, self._expected_times()
        with np.errstate(invalid="ignore"):
            # Without damage an earlier image is right: not every packet holds a frame that is shown.
            wrong = np.isnan(times) | (times > expected + TIME_TOLERANCE)
            wrong |= (times < expected - TIME_TOLERANCE) & (self.bad_packets > 0)
        self.unavailable = int(wrong.sum())

    def _expected_times(self) -> npt.NDArray[np.float64]:
        """[N] seconds: when the frames of all moments are shown according to the index."""
        assert self.image_collector is not None
        assert self.index is not None
        assert self.clock is not None
        moments = self.image_collector.moments + TIME_TOLERANCE + self.clock.zero
        return self.index.coded_times[self.index.packets_at(moments)] - self.clock.zero

    def _decode_once(self, with_audio: bool) -> VideoDecoder | None:
        """Decode the images that are missing, and the audio; returns the decoder of the video."""
        with open_container(self.file) as container:
            video = self.video_decoder(container)
            audio = self.audio_decoder(container, self.audio_collector) if with_audio else None
            decoders = [decoder for decoder in (video, audio) if decoder is not None]
            errors = max(self.feed(container, decoders), default=0)
        if with_audio:
            # Packets that are decoded again count once.
            self.bad_packets = errors + sum(decoder.bad_packets for decoder in decoders)
            self.lead_in = audio.lead_in if audio is not None else 0.0
        return video

    def video_decoder(self, container: InputContainer) -> VideoDecoder | None:
        """Return a decoder of the images that are missing; None without video."""
        stream = open_video(container, self.tracks)
        if stream is None or self.image_collector is None or self.grid is None:
            return None
        assert self.index is not None
        assert self.clock is not None
        return VideoDecoder(stream, self.index, self.clock, self.grid.moments, self.image_collector, self.budget)

    def audio_decoder(self, container: InputContainer, collector: AudioCollector | None) -> AudioDecoder | None:
        """Return a decoder that gives the audio to a collector; None without audio."""
        stream = open_audio(container, self.tracks)
        if stream is None or collector is None or self.audio_headers is None:
            return None
        assert self.clock is not None
        return AudioDecoder(stream, self.audio_headers, self.clock, collector)

    def feed(self, container: InputContainer, decoders: Sequence[VideoDecoder | AudioDecoder]) -> Iterator[int]:
        """Hand all packets to their decoders, one per step; yields the number of read errors so far."""
        by_index = {decoder.stream.index: decoder for decoder in decoders}
        if not decoders:
            return
        errors = 0
        for packet in read_packets(container, [d.stream for d in decoders], self.budget):
            if packet is None:
                errors += 1
            elif packet.stream.index in by_index:
                by_index[packet.stream.index].feed(packet)
            if all(d.done for d in decoders):
                break
            yield errors
        for decoder in decoders:
            decoder.finish()
        yield errors

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
        seconds = max(video_seconds, audio_seconds)
        lines, behind = within(self.lines, seconds)
        self.warnings += behind
        return Media(
            path=self.file.path,
            images=images,
            times=times,
            indices=indices,
            fps=self.grid.fps if self.grid is not None and images is not None else 0.0,
            waveform=waveform,
            seconds=seconds,
            video_seconds=video_seconds,
            capped=self.capped,
            bad_packets=self.bad_packets,
            warnings=tuple(self.warnings),
            tags=self.tags,
            lines=lines,
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
        times = self.image_collector.times
        times = np.where(np.isnan(times), self._expected_times(), times)  # not decoded yet
        shown_times = self.index.shown_times - self.clock.zero
        indices = np.searchsorted(shown_times, times + TIME_TOLERANCE, side="right") - 1
        return times, np.maximum(indices, 0).astype(np.int64)

    def _waveform(self) -> npt.NDArray[np.float32] | None:
        """The audio, without the encoder's padding at its end."""
        if self.audio_collector is None or self.clock is None:
            return None
        wave = self.audio_collector.finish(self.audio_ends)
        end = self.audio_collector.end / SAMPLE_RATE
        self._check_length(end)
        self._check_stated_length("audio", self.clock.stated_audio_end - self.lead_in, end)
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
