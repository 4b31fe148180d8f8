"""Decode packets to images and audio. Both decoders survive damaged packets and count them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from omnisift.media.audio import AudioCollector
from omnisift.media.clock import MediaClock
from omnisift.media.container import DECODE_ERRORS, open_container, read_packets
from omnisift.media.headers import PacketHeaders
from omnisift.media.image import ImageCollector
from omnisift.media.index import VideoIndex, times_in_order
from omnisift.media.sampling import TIME_TOLERANCE
from omnisift.media.source import Source
from omnisift.media.stuffed import FrameSplitter, is_stuffed
from omnisift.media.tracks import TrackChoice, open_video
from omnisift.media.work import WorkBudget

DECODING_TIMES = ("avi", "asf")
"""Formats that store when packets are decoded, and not when their frames are shown."""

LEAD_IN = 1.0
"""Seconds of audio decoded before the requested part: codecs depend on earlier packets."""


class VideoDecoder:
    """Decodes the needed packets of the video track, stretch by stretch; after each stretch the decoder is reset.

    Packets carry their number as time stamp, so that each frame tells which packet it was coded in, whatever the stamps
    of the file are.
    """

    def __init__(
        self,
        stream: VideoStream,
        index: VideoIndex,
        clock: MediaClock,
        moments: npt.NDArray[np.float64],
        images: ImageCollector,
        budget: WorkBudget,
    ) -> None:
        """Start before the first packet.

        Args:
            stream: the video track.
            index: its frames.
            clock: the media clock.
            moments: [N] seconds on the media clock: all of ``images``, of which the missing ones are decoded.
            images: receives the decoded frames.
            budget: what reading the file may cost.
        """
        self.stream = stream
        self.bad_packets = 0
        self.bad_starts: set[int] = set()
        """Packets where the file says that decoding can start, and where it can't."""
        self.good_starts = 0
        self._decoder = stream.codec_context
        self._splitter = FrameSplitter(stream)
        self._times = index.coded_times - clock.zero
        self._latest = clock.video_end + LEAD_IN
        self._images = images
        self._budget = budget
        # Which packets are needed, and the packet with the frame of each missing moment.
        self._missing = images.missing
        wanted = moments[self._missing] + TIME_TOLERANCE + clock.zero
        self._needed = index.packets_for(wanted)
        self._wanted = index.packets_at(wanted)
        self._needed[:1] = True  # the first frame tells the orientation
        budget.check_pixels(int(self._needed.sum()) * self._decoder.width * self._decoder.height)  # fails early
        self._last = int(np.flatnonzero(self._needed)[-1]) if self._needed.any() else -1
        self._number = 0
        self._moments = self._missing[:0]  # those whose frames are in the current stretch
        self._shown_at = self._times[:0]  # when these frames are shown
        self._start: int | None = None  # first packet of the current stretch; None outside a stretch
        self._clean: bool | None = None  # whether decoding could start there; None: not known yet

    @property
    def done(self) -> bool:
        """Whether no further packet is needed."""
        return self._number > self._last

    def feed(self, packet: Packet[Any]) -> None:
        """Take the next packet of the track, in file order."""
        number = self._number
        self._number += 1
        if number < len(self._needed) and self._needed[number]:
            if self._start is None:
                self._begin(number)
            packet.pts = packet.dts = number
            self._decode(packet)
        elif self._start is not None:
            self._drain()

    def finish(self) -> None:
        """Flush the decoder."""
        if self._start is not None:
            self._drain()

    def _begin(self, start: int) -> None:
        """Begin a stretch at a packet, with the moments whose frames are in it."""
        skipped = np.flatnonzero(~self._needed[start:])
        end = start + int(skipped[0]) if len(skipped) else len(self._needed)
        inside = (self._wanted >= start) & (self._wanted < end)
        self._moments, self._shown_at = self._missing[inside], self._times[self._wanted[inside]]
        self._images.begin(self._moments.tolist())
        self._start = start
        self._clean = True if start == 0 else None

    def _drain(self) -> None:
        """Get the frames that wait in the decoder, and reset it so that it can start anywhere."""
        self._decode(None)
        if self._clean:
            self._images.finish()
            # Frames that depend on what is before the start are missing, and later ones stand for them.
            if self._start and self._images.withdraw_later(self._moments, self._shown_at):
                self._reject_start()
        else:
            self._images.drop()
            self._reject_start()
        self._decoder.flush_buffers()
        self._splitter.reset()
        self._start = None

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
            self._images.orient(frame)
            number = frame.pts
            if number is None or not 0 <= number < len(self._times):
                continue
            if self._clean is None:
                self._judge_start(number, frame)
            time = self._times[number]
            # With one broken time stamp all later frames would count as late.
            if self._clean and time < self._latest:
                self._images.add(float(time), frame)

    def _judge_start(self, number: int, frame: VideoFrame) -> None:
        """Check that decoding could start where this stretch starts: its first packet must give an intra image.

        A packet with the mark of a key frame may begin a gradual refresh, or be marked wrongly. Frames that are shown
        before that of the first packet depend on earlier packets; none of them is wanted.
        """
        assert self._start is not None
        if number == self._start:
            self._clean = bool(frame.key_frame) or frame.pict_type == PictureType.I
            self.good_starts += self._clean
        elif not self._times[number] < self._times[self._start]:
            self._clean = False
        if self._clean is False:
            self._reject_start()

    def _reject_start(self) -> None:
        if self._start is not None and len(self._moments):
            self.bad_starts.add(self._start)


class AudioDecoder:
    """Decodes the packets of the audio track."""

    def __init__(self, stream: AudioStream, headers: PacketHeaders, clock: MediaClock, audio: AudioCollector) -> None:
        """Start before the first packet.

        Args:
            stream: the audio track.
            headers: its packets.
            clock: the media clock.
            audio: receives the decoded frames.
        """
        self.stream = stream
        self.bad_packets = 0
        self.lead_in = 0.0
        """Seconds by which the clock was moved to the first sample, see `MediaClock.max_lead_in`."""
        self._decoder = stream.codec_context
        self._codec = stream.codec_context.codec.canonical_name
        self._time_base = float(stream.time_base or 0)
        self._zero = clock.zero
        self._headers = headers
        self._number = 0
        self._audio = audio
        self._latest_end = clock.latest_end
        self._max_lead_in = clock.max_lead_in

    @property
    def done(self) -> bool:
        """Whether all the requested audio is decoded."""
        return self._audio.full

    def feed(self, packet: Packet[Any]) -> None:
        """Take the next packet of the track, in file order."""
        if self._headers.offsets:
            offset = self._headers.offset_at(self._number)
            if offset != self._headers.offset_at(self._number - 1):
                self._audio.follow_next_time()
            if packet.pts is not None:
                packet.pts += round(offset / self._time_base)
        if self._number < len(self._headers.pts) and math.isnan(self._headers.pts[self._number]):
            packet.pts = None  # missing or broken; the samples follow those before them
        self._number += 1
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
        self._audio.follow_next_time()

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


def read_display_order(
    file: Source, tracks: TrackChoice, first: int, until: int, budget: WorkBudget
) -> npt.NDArray[np.int64]:
    """Decode a part of the video track to learn in which order its frames are shown.

    Args:
        file: as `check_source` returned it.
        tracks: which one is the video track.
        first: the packet to start at.
        until: the packet to stop before.
        budget: what reading the file may cost.

    Returns:
        [F] packet numbers; packets that give no frame are left out.
    """
    order: list[int | None] = []
    with open_container(file) as container:
        stream = open_video(container, tracks)
        if stream is None:
            return np.zeros(0, np.int64)
        decoder, splitter = stream.codec_context, FrameSplitter(stream)

        def decode(packet: Packet[Any] | None) -> None:
            try:
                for part in splitter.split(packet):
                    budget.check_time()
                    budget.spend(decoder.width * decoder.height if part is not None else 0)
                    order.extend(frame.pts for frame in decoder.decode(part))
            except DECODE_ERRORS:  # the decoder that makes the images counts them
                return

        packets = (p for p in read_packets(container, [stream], budget) if p is not None)
        for number, packet in enumerate(packets):
            if number >= until:
                break
            if number >= first:
                packet.pts = packet.dts = number
                decode(packet)
        decode(None)
    # A frame without a number (of a packet with two frames) has the first packet that gave none.
    unused = iter(sorted(set(range(first, until)) - {n for n in order if n is not None}))
    numbers = (next(unused, None) if number is None else number for number in order)
    return np.array([n for n in numbers if n is not None], np.int64)


def read_frame_times(
    file: Source,
    tracks: TrackChoice,
    container: InputContainer,
    stream: VideoStream,
    headers: PacketHeaders,
    budget: WorkBudget,
    ask_decoder: bool,
) -> npt.NDArray[np.float64]:
    """Find when each frame is shown; where the file does not state it, the decoder tells the order of the frames.

    Args:
        file: as `check_source` returned it.
        tracks: which one is the video track.
        container: the open file.
        stream: its video track.
        headers: the packets of that track.
        budget: what reading the file may cost.
        ask_decoder: whether the decoder is asked although the file states times.

    Returns:
        [P] seconds on the file's own clock, in decoding order; NaN for packets that show nothing.
    """
    # Where a format stores no times of presentation, those that the demuxer gives are guessed.
    guessed = container.format.name in DECODING_TIMES
    stamps = headers.dts if guessed else headers.pts
    times = np.where(headers.is_hidden, np.nan, stamps)
    reorders = stream.codec_context.codec.reorder and stream.codec_context.has_b_frames > 0
    unknown = np.flatnonzero(np.isnan(times) & ~headers.is_hidden)
    whole = ask_decoder or (guessed and reorders)
    if not whole and not len(unknown):
        return times
    # From the key frame before the first unknown time to the second one after the last.
    keys = np.flatnonzero(headers.is_key)
    first = 0 if whole else int(max([0, *keys[keys <= unknown[0]]]))
    later = [] if whole else keys[keys > unknown[-1]][1:2]
    until = int(later[0]) if len(later) else len(times)
    order = read_display_order(file, tracks, first, until, budget)
    known = np.full(len(order), np.nan) if guessed else times[order]
    rate = float(stream.average_rate or 0)
    times[first:until] = np.nan
    times[order] = times_in_order(order, known, stamps, 1 / rate if rate else headers.step)
    if container.format.name == "avi" and len(order):
        # AVI can't delay its audio either: the first image belongs to the first sample.
        times -= times[order[0]] - stamps[first]
    return times
