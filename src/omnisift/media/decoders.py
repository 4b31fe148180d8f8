"""Decode packets to images and audio. Both decoders survive damaged packets and count them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from omnisift.media.audio import AudioCollector
from omnisift.media.clock import MediaClock
from omnisift.media.container import DECODE_ERRORS
from omnisift.media.image import ImageCollector
from omnisift.media.stuffed import FrameSplitter, is_stuffed
from omnisift.media.work import WorkBudget

LEAD_IN = 1.0
"""Seconds of audio decoded before the requested part: codecs depend on earlier packets."""


class VideoDecoder:
    """Decodes the needed packets of the video track; after each skipped stretch the decoder is reset."""

    def __init__(
        self,
        stream: VideoStream,
        needed: npt.NDArray[np.bool_],
        clock: MediaClock,
        images: ImageCollector,
        budget: WorkBudget,
    ) -> None:
        """Start before the first packet.

        Args:
            stream: the video track.
            needed: [P] bool, the packets to decode.
            clock: the media clock.
            images: receives the decoded frames.
            budget: what reading the file may cost.
        """
        self.index = stream.index
        self.bad_packets = 0
        self._decoder = stream.codec_context
        self._splitter = FrameSplitter(stream)
        self._time_base = float(stream.time_base or 0)
        self._clock = clock
        self._images = images
        self._budget = budget
        self._needed = needed
        budget.check_pixels(int(needed.sum()) * self._decoder.width * self._decoder.height)  # as stated: fails early
        self._last = int(np.flatnonzero(needed)[-1]) if needed.any() else -1
        self._number = 0
        self._running = False

    @property
    def done(self) -> bool:
        """Whether no further packet is needed."""
        return self._number > self._last

    def feed(self, packet: Packet[Any]) -> None:
        """Take the next packet of the track, in file order."""
        number = self._number
        self._number += 1
        if number < len(self._needed) and self._needed[number]:
            self._running = True
            self._decode(packet)
        elif self._running:
            self._drain()

    def finish(self) -> None:
        """Flush the decoder; the last frame stands for all remaining moments."""
        self._drain()
        self._images.finish()

    def _drain(self) -> None:
        """Get the frames that wait in the decoder, and reset it so that it can start anywhere."""
        if self._running:
            self._decode(None)
            self._decoder.flush_buffers()
            self._splitter.reset()
        self._running = False

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            for part in self._splitter.split(packet):
                if part is not None:
                    self._budget.check_time()
                    self._budget.spend(self._decoder.width * self._decoder.height)
                self._take(self._decoder.decode(part))
        except DECODE_ERRORS:
            self.bad_packets += 1

    def _take(self, frames: Iterable[VideoFrame]) -> None:
        for frame in frames:
            # Not frame.time: PyAV loses the time base of frames that come out while draining.
            time = frame.pts * self._time_base - self._clock.zero if frame.pts is not None else math.inf
            # With one broken time stamp all later frames would count as late.
            if time < self._clock.video_end + LEAD_IN:
                self._images.add(time, frame)


class AudioDecoder:
    """Decodes the packets of the audio track."""

    def __init__(self, stream: AudioStream, clock: MediaClock, audio: AudioCollector) -> None:
        """Start before the first packet.

        Args:
            stream: the audio track.
            clock: the media clock.
            audio: receives the decoded frames.
        """
        self.index = stream.index
        self.bad_packets = 0
        self.lead_in = 0.0
        """Seconds by which the clock was moved to the first sample, see `MediaClock.max_lead_in`."""
        self._decoder = stream.codec_context
        self._codec = stream.codec_context.codec.canonical_name
        self._time_base = float(stream.time_base or 0)
        self._zero = clock.zero
        self._audio = audio
        self._latest_end = clock.latest_end
        self._max_lead_in = clock.max_lead_in

    @property
    def done(self) -> bool:
        """Whether all the requested audio is decoded."""
        return self._audio.full

    def feed(self, packet: Packet[Any]) -> None:
        """Take the next packet of the track, in file order."""
        early = packet.pts is not None and packet.pts * self._time_base < self._zero - LEAD_IN
        if self.done or (early and self._max_lead_in == 0):
            return
        if is_stuffed(packet, self._codec):
            self._lose_packet()
        else:
            self._decode(packet)

    def finish(self) -> None:
        """Flush the decoder."""
        if not self.done:
            self._decode(None)

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            for frame in self._decoder.decode(packet):
                self._audio.add(self._time(frame.pts), frame)
        except DECODE_ERRORS:
            self._lose_packet()

    def _lose_packet(self) -> None:
        self.bad_packets += 1
        self._audio.mark_lost_packet()

    def _time(self, pts: int | None) -> float | None:
        """Seconds on the media clock; None for a time stamp that is missing or can't be true."""
        if pts is None:
            return None
        time = pts * self._time_base - self._zero
        if not self._audio.frames and abs(time) < self._max_lead_in:
            self.lead_in = time
            self._zero += time
            return 0.0
        # With one broken time stamp the waveform would get an hour of silence.
        return time if time <= self._latest_end + LEAD_IN else None
