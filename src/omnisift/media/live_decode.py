"""`LiveFeed`: images and samples of a stream that is read once, packet by packet, and may never end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from omnisift.errors import Damaged, NotMedia
from omnisift.media.clock import LENGTH_TOLERANCE, PADDING, SKEW, STATES_TRACK_LENGTHS
from omnisift.media.container import DECODE_ERRORS, MAX_READ_ERRORS
from omnisift.media.headers import NORMAL_GAP, clock_may_jump
from omnisift.media.image import FrameScaler
from omnisift.media.live_clock import LiveClock
from omnisift.media.live_images import LiveImages
from omnisift.media.live_inputs import LiveInput
from omnisift.media.live_order import StreamOrder
from omnisift.media.live_warnings import WarningLog
from omnisift.media.passes import HELD, SampleQueue
from omnisift.media.pieces import Piece
from omnisift.media.stuffed import FrameSplitter, is_stuffed
from omnisift.media.tracks import TrackChoice, open_audio, open_video
from omnisift.media.units import SAMPLE_RATE

MAX_HELD_PACKETS = 2000
"""Packets that wait at the beginning until each track has one, which sets the clock."""
BLOCK = 0.1
"""Seconds of audio that are resampled at once."""
_FOREVER = 1e9

DAMAGED = "packets that can't be decoded were left out"
NO_IMAGES = "images did not come in time; the last one stands for them"
NO_SAMPLES = "audio did not come in time; silence stands for it"
LATE = "frames with decreasing time stamps were left out"


class LiveFeed:
    """The pieces of a stream as its packets come, in order of time; memory holds a few seconds of them at most.

    An image needs the frame after it, and a piece waits for the other track to reach its time, for at most
    ``source.patience`` seconds of the stream. Then the last image, or silence, stands for what is missing.
    """

    seconds: float | None = None

    def __init__(
        self, source: LiveInput, fps: float, video: bool, audio: bool, scaler: FrameScaler, log: WarningLog
    ) -> None:
        """Choose the tracks of an open stream; nothing is decoded.

        Args:
            source: the open input.
            fps: images per second.
            video: whether images are wanted.
            audio: whether samples are wanted.
            scaler: makes the images.
            log: receives the warnings.

        Raises:
            NotMedia: it has no track that is wanted and can be decoded.
            TooBig: its images are too large.
        """
        self._source, self._log, self._scaler = source, log, scaler
        self._video, self._audio = _open_tracks(source.container, video, audio, log)
        self.is_live = source.is_live
        self.tags: Mapping[str, str] = {key.lower(): value for key, value in source.container.metadata.items()}
        self.has_video, self.has_audio = self._video is not None, self._audio is not None
        self.order = StreamOrder(fps, self.has_video, self.has_audio)
        self._clock = LiveClock(log, may_jump=clock_may_jump(source.container))
        self._images = LiveImages(fps, scaler)
        self._queue = SampleQueue(_FOREVER, block=BLOCK)
        self._splitter = FrameSplitter(self._video) if self._video is not None else None
        self._period = 1 / fps
        self._video_end = self._frame_seconds = 0.0
        self._decoded_video = False
        self._zero = 0.0  # of the audio; differs from the clock's by the lead-in of an encoder

    def pieces(self) -> Iterator[Piece]:
        """Yield the pieces in order of time.

        Raises:
            MediaTimeout: no data come for ``read_timeout`` seconds.
            MediaError: the stream ended with an error.
        """
        for packet in self._packets_with_clock():
            self._feed(packet)
            yield from self._complete_pieces()
        self._finish()
        yield from self._last_pieces()
        for text in self._scaler.warnings() + (self._queue.warnings() if self.has_audio else []):
            self._log.add("clip", text)

    def stop(self) -> None:
        """End the stream soon, from any thread."""
        self._source.stop()

    def close(self) -> None:
        """Close the stream; `pieces` has ended, or is not going to be used."""
        self._source.close()

    def _packets(self) -> Iterator[Packet[Any]]:
        """The packets of both tracks; read errors are counted."""
        streams = [stream for stream in (self._video, self._audio) if stream is not None]
        errors = 0
        while errors < MAX_READ_ERRORS:
            try:
                for packet in self._source.container.demux(streams):
                    if self._source.is_stopped:
                        return
                    if packet.size and packet.stream is not None:
                        errors = 0
                        yield packet
            except EOFError:
                pass
            except DECODE_ERRORS as error:
                if self._source.is_stopped:
                    return
                self._source.check(error)
                errors += 1
                self._log.add("damaged", DAMAGED, self._clock.now)
                continue
            self._source.check(None)
            return
        raise Damaged(f"{MAX_READ_ERRORS} read errors in a row; check what sends the stream")

    def _packets_with_clock(self) -> Iterator[Packet[Any]]:
        """The packets, after the first ones of each track have set the clock."""
        waiting = {stream.index for stream in (self._video, self._audio) if stream is not None}
        held: list[Packet[Any]] = []
        for packet in self._packets():
            if not waiting:
                yield packet
                continue
            held.append(packet)
            if packet.is_keyframe and not packet.is_discard:
                waiting.discard(packet.stream.index)
            if not waiting or len(held) >= MAX_HELD_PACKETS or _span(held) > self._source.patience:
                waiting.clear()
                self._set_clock(held)
                yield from held
                held = []
        if held:
            self._set_clock(held)
            yield from held

    def _set_clock(self, held: list[Packet[Any]]) -> None:
        """0 is the first image, or the first audio if that is more than `SKEW` earlier."""
        first: dict[int, float] = {}
        for packet in held:
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is not None and packet.is_keyframe and not packet.is_discard:
                first.setdefault(packet.stream.index, stamp * _time_base(packet))
        video = first.get(self._video.index) if self._video is not None else None
        audio = first.get(self._audio.index) if self._audio is not None else None
        if audio is not None and self._audio is not None and self._audio.start_time is not None:
            stated = self._audio.start_time * float(self._audio.time_base or 0)
            audio = stated if abs(stated - audio) < NORMAL_GAP else audio  # without the packets that prime a decoder
        zero = video if audio is None or (video is not None and audio >= video - SKEW) else audio
        self._clock.zero = self._zero = zero or 0.0

    def _feed(self, packet: Packet[Any]) -> None:
        """Put the stamps of a packet on one clock, and decode it."""
        stamp, time_base = packet.dts if packet.dts is not None else packet.pts, _time_base(packet)
        if stamp is not None:
            offset = self._clock.shift(packet.stream.index, stamp * time_base, is_shown=packet.dts is None)
            offset = round(offset / time_base)
            packet.dts = None if packet.dts is None else packet.dts + offset
            packet.pts = None if packet.pts is None else packet.pts + offset
        try:
            if self._video is not None and packet.stream.index == self._video.index:
                self._frame_seconds = (packet.duration or 0) * time_base
                self._decode_video(packet)
            elif self._audio is not None and is_stuffed(packet, self._audio.codec_context.codec.canonical_name):
                self._count_damage()
            else:
                self._decode_audio(packet)
        except DECODE_ERRORS:
            self._count_damage()

    def _decode_video(self, packet: Packet[Any] | None) -> None:
        assert self._video is not None
        assert self._splitter is not None
        for part in self._splitter.split(packet):
            for frame in self._video.codec_context.decode(part):
                self._decoded_video = True
                self._show(frame)

    def _show(self, frame: VideoFrame) -> None:
        assert self._video is not None
        seconds = self._frame_seconds or 1 / float(self._video.average_rate or 25)
        # A frame without a time stamp follows the one before it.
        time = (
            self._video_end if frame.pts is None else frame.pts * float(self._video.time_base or 0) - self._clock.zero
        )
        if time > self._clock.now + NORMAL_GAP:
            self._count_damage()
            return
        late = self._images.late
        self._images.add(time, frame)
        if self._images.late > late:
            self._log.add("order", LATE, time)
        self._video_end = max(self._video_end, time + seconds)

    def _decode_audio(self, packet: Packet[Any] | None) -> None:
        assert self._audio is not None
        for frame in self._audio.codec_context.decode(packet):
            self._queue.add(self._audio_time(frame), frame)

    def _audio_time(self, frame: AudioFrame) -> float | None:
        """Seconds of the stream; None for a time stamp that is missing or can't be true."""
        assert self._audio is not None
        if frame.pts is None:
            return None
        time = frame.pts * float(self._audio.time_base or 0) - self._zero
        if self._video is None and not self._queue.frames and abs(time) < SKEW:
            self._zero += time  # the lead-in of an encoder
            return 0.0
        return time if time <= self._clock.now + NORMAL_GAP else None

    def _count_damage(self) -> None:
        """Count a damaged packet; before the first frame, a decoder may only lack what came before the stream."""
        self._queue.follow_next_time()
        if self._decoded_video or self._video is None:
            self._log.add("damaged", DAMAGED, self._clock.now)

    def _complete_pieces(self) -> Iterator[Piece]:
        """The pieces whose order no later packet changes."""
        order, patience = self.order, self._source.patience
        while True:
            if order.is_image_next:
                if self._images.ready:
                    yield self._take_image()
                elif order.has_audio and self._heard - order.image_time > patience:
                    self._log.add("gap", NO_IMAGES, order.image_time)
                    if not self._images.hold():
                        order.image += 1
                else:
                    return
            elif self._queue.ready >= order.samples_end - order.sample:
                yield self._take_samples(order.samples_end)
            elif order.has_video and self._shown - order.sample_time > patience:
                self._log.add("gap", NO_SAMPLES, order.sample_time)
                self._queue.fill(order.samples_end + HELD)
            else:
                return

    @property
    def _heard(self) -> float:
        """Seconds of audio that are decoded."""
        return (self.order.sample + self._queue.ready) / SAMPLE_RATE

    @property
    def _shown(self) -> float:
        """Seconds of images that are decoded."""
        return self.order.image_time + self._images.ready * self._period

    def _finish(self) -> None:
        """Get what waits in the decoders."""
        if self._video is not None:
            self._flush(self._decode_video)
        if self._audio is not None:
            self._flush(self._decode_audio)
        # As in `find_video_end`: the last image is held to the end of the audio where the format states no lengths.
        end, heard = self._video_end, self._queue.end / SAMPLE_RATE
        stated = self._source.container.format.name.startswith(STATES_TRACK_LENGTHS)
        self._images.finish(heard if heard > end + LENGTH_TOLERANCE and not stated else end)
        self._queue.finish({self._video_end: PADDING} if self.has_video else {})

    def _flush(self, decode: Callable[[None], None]) -> None:
        try:
            decode(None)
        except DECODE_ERRORS:
            self._count_damage()

    def _last_pieces(self) -> Iterator[Piece]:
        order = self.order
        while self._images.ready or self._queue.ready:
            order.has_video, order.has_audio = self._images.ready > 0, self._queue.ready > 0
            if order.is_image_next:
                yield self._take_image()
            else:
                yield self._take_samples(min(order.samples_end, order.sample + self._queue.ready))

    def _take_image(self) -> Piece:
        piece = Piece(self.order.image_time, image=self._images.take())
        self.order.image += 1
        return piece

    def _take_samples(self, end: int) -> Piece:
        piece = Piece(self.order.sample_time, samples=self._queue.take(end - self.order.sample))
        self.order.sample = end
        return piece


def _open_tracks(
    container: InputContainer, video: bool, audio: bool, log: WarningLog
) -> tuple[VideoStream | None, AudioStream | None]:
    """The default track of each kind that is wanted, else the first that can be decoded."""
    chosen: dict[str, int | None] = {"video": None, "audio": None}
    wanted: list[VideoStream | AudioStream] = []
    wanted += container.streams.video if video else []
    wanted += container.streams.audio if audio else []
    # Defaults first.
    for stream in sorted(wanted, key=lambda one: not one.disposition & Disposition.default):
        if stream.disposition & Disposition.attached_pic:
            continue
        if getattr(stream, "codec_context", None) is None or stream.time_base is None:
            log.add("track", f"{stream.type} track {stream.index} can't be decoded (unknown codec) and is left out")
        elif chosen[stream.type] is None:
            chosen[stream.type] = stream.index
        else:
            log.add("track", f"several {stream.type} tracks; track {chosen[stream.type]} is read")
    if chosen == {"video": None, "audio": None}:
        raise NotMedia("has no video or audio that can be decoded; check what sends the stream")
    choice = TrackChoice(chosen["video"], chosen["audio"])
    stream_video, stream_audio = open_video(container, choice), open_audio(container, choice)
    if stream_video is not None:
        stream_video.codec_context.thread_type = "SLICE"  # threads for frames would delay each image
    return stream_video, stream_audio


def _time_base(packet: Packet[Any]) -> float:
    return float(packet.stream.time_base or 0)


def _span(packets: list[Packet[Any]]) -> float:
    """Seconds between the first and the last packet of any track."""
    stamps = [packet.dts * _time_base(packet) for packet in packets if packet.dts is not None]
    return max(stamps) - min(stamps) if stamps else 0.0
