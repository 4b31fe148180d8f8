"""From packets to pictures and sound: the two decoders, each of which survives damaged packets and counts them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.packet import Packet
from av.video.stream import VideoStream

from omnisift.media.audio import AudioCollector
from omnisift.media.clock import Clock
from omnisift.media.container import DECODE_ERRORS
from omnisift.media.image import ImageCollector

LEAD_IN = 1.0
"""Seconds of sound decoded before the part that is wanted: codecs lean on what came before."""


class VideoDecoder:
    """Feeds the needed packets of the film track to its decoder, which starts afresh after each skipped stretch."""

    def __init__(
        self, stream: VideoStream, needed: npt.NDArray[np.bool_], clock: Clock, pictures: ImageCollector
    ) -> None:
        """``needed`` [P]: which packets to decode."""
        self.index = stream.index
        self.bad_packets = 0
        self._decoder = stream.codec_context
        self._tick = float(stream.time_base or 0)
        self._clock = clock
        self._pictures = pictures
        self._needed = needed
        self._last = int(np.flatnonzero(needed)[-1]) if needed.any() else -1
        self._number = 0
        self._running = False

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
            self._drain()

    def finish(self) -> None:
        """No more packets: the last frame stands for all moments that are left."""
        self._drain()
        self._pictures.finish()

    def _drain(self) -> None:
        """Get the frames that wait in the decoder, and make it ready to start anywhere."""
        if self._running:
            self._decode(None)
            self._decoder.flush_buffers()
        self._running = False

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            for frame in self._decoder.decode(packet):
                # Not frame.time: PyAV forgets the time base of frames that come out while draining.
                time = frame.pts * self._tick - self._clock.zero if frame.pts is not None else math.inf
                # One broken stamp must not make all later frames come too late.
                if time < self._clock.film_end + LEAD_IN:
                    self._pictures.see(time, frame)
        except DECODE_ERRORS:
            self.bad_packets += 1


class AudioDecoder:
    """Feeds the packets of the sound track to its decoder."""

    def __init__(self, stream: AudioStream, clock: Clock, sound: AudioCollector) -> None:
        self.index = stream.index
        self.bad_packets = 0
        self.moved = 0.0
        """Seconds by which the clock was moved to the first sample, see `Clock.snap`."""
        self._decoder = stream.codec_context
        self._tick = float(stream.time_base or 0)
        self._zero = clock.zero
        self._sound = sound
        self._known_end = clock.known_end
        self._snap = clock.snap

    @property
    def over(self) -> bool:
        """Whether all the sound that is wanted is there."""
        return self._sound.full

    def feed(self, packet: Packet[Any]) -> None:
        """The next packet of the track, in file order."""
        early = packet.pts is not None and packet.pts * self._tick < self._zero - LEAD_IN
        if not (self.over or (early and self._snap == 0)):
            self._decode(packet)

    def finish(self) -> None:
        """No more packets: get what the decoder still holds."""
        if not self.over:
            self._decode(None)

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            for frame in self._decoder.decode(packet):
                self._sound.hear(self._time(frame.pts), frame)
        except DECODE_ERRORS:
            self.bad_packets += 1
            self._sound.miss()

    def _time(self, pts: int | None) -> float | None:
        """Seconds on the media clock; None for a stamp that is missing or can't be true."""
        if pts is None:
            return None
        time = pts * self._tick - self._zero
        if not self._sound.frames and abs(time) < self._snap:
            self.moved = time
            self._zero += time
            return 0.0
        # One broken stamp must not become an hour of silence.
        return time if time <= self._known_end + LEAD_IN else None
