"""Packet headers of the tracks of a file: time stamps, key flags and parameter sets, read without decoding."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from omnisift.media.container import read_packets
from omnisift.media.work import WorkBudget

MAX_PACKETS = 8_000_000
"""Packets read at most, of both tracks together: 15 hours at 60 frames per second, and a bound on memory (25 bytes
each)."""

PARAMETER_SETS = {"h264": frozenset({7, 8}), "hevc": frozenset({32, 33, 34})}
"""Codecs whose decoders need sets of parameters that came with an earlier packet: the types of their NAL units."""
HEAD = 4096
"""Bytes of a packet that are searched for parameter sets, which precede the image."""

ENCRYPTION_STEP = 64
"""Every so many packets are asked whether they are encrypted: protected films may start with a minute in clear."""

NORMAL_GAP = 10.0
"""Seconds between two packets of a track that are no jump of its clock."""
ENOUGH = 8
"""Packets in a row that are later than the requested part before reading ends: one broken time stamp ends nothing."""


def has_side_data(packet: Packet[Any], name: str) -> bool:
    """Whether a packet brings side data of this name; False with PyAV 15, which does not tell."""
    ask = getattr(packet, "has_sidedata", None)
    return ask is not None and bool(ask(name))


@dataclass
class PacketHeaders:
    """The packets of one track in file order, which for video is the decoding order. Times are seconds, NaN unknown."""

    step: float = 0.0
    """The usual distance of two packets; set by `finish`."""
    last_duration: float = 0.0
    """Stated duration of the last packet; 0 if unknown."""
    pts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """[P] when the content is shown or heard."""
    dts: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    """[P] when it is decoded; equal to ``pts`` where the file states none."""
    is_key: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[P] where the file says that decoding can start."""
    is_hidden: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[P] decoded but not shown, such as frames cut off by an edit list."""
    changes_decoder: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[P] packets with new parameter sets, without which later ones are decoded wrongly."""
    is_encrypted: bool = False
    """Whether a packet says that its content is encrypted."""
    positions: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P] number among the packets of both tracks."""
    offsets: list[tuple[int, float]] = field(default_factory=list)
    """(packet, seconds): what is added to the stamps from this packet on, see `carry_clock`."""

    @property
    def start(self) -> float:
        """Seconds: when the first packet that has a time begins; inf without any."""
        times = self.pts[~np.isnan(self.pts)]
        return float(times[0]) if len(times) else math.inf

    @property
    def end(self) -> float:
        """Seconds: when the last packet ends; -inf without packets that have a time."""
        times = self.pts[~np.isnan(self.pts)]
        return float(times.max()) + max(self.last_duration, self.step) if len(times) else -np.inf

    def offset_at(self, packet: int) -> float:
        """Seconds to add to the time stamps of a packet."""
        place = bisect_right(self.offsets, packet, key=lambda offset: offset[0])
        return self.offsets[place - 1][1] if place else 0.0


class ParameterSetFinder:
    """Finds the packets of H.264 and H.265 tracks whose parameter sets differ from the earlier ones."""

    def __init__(self, stream: VideoStream) -> None:
        """Start before the first packet of ``stream``."""
        context = stream.codec_context
        self._types = PARAMETER_SETS.get(context.codec.canonical_name, frozenset())
        self._is_hevc = context.codec.canonical_name == "hevc"
        # A configuration record begins with 1 and states the bytes of each length; else start codes divide the units.
        record = context.extradata or b""
        at = 21 if self._is_hevc else 4
        self._length_bytes = (record[at] & 3) + 1 if len(record) > at and record[0] == 1 else 0
        self._last = b""

    def is_new(self, packet: Packet[Any]) -> bool:
        """Whether the decoder needs this packet for the ones after it, whatever they show."""
        if packet.is_keyframe and has_side_data(packet, "new_extradata"):
            return True
        if not self._types:
            return False
        units = self._units(bytes(memoryview(packet)[:HEAD]))
        sets = b"".join(unit for unit in units if self._unit_type(unit) in self._types)
        changed = bool(sets) and sets != self._last
        self._last = sets or self._last
        return changed

    def _unit_type(self, unit: bytes) -> int:
        if not unit:
            return -1
        return (unit[0] >> 1) & 63 if self._is_hevc else unit[0] & 31

    def _units(self, head: bytes) -> list[bytes]:
        """The NAL units in the first bytes of a packet."""
        if not self._length_bytes:
            return head.split(b"\0\0\1")[1:]
        units, at = [], 0
        while at + self._length_bytes < len(head):
            size = int.from_bytes(head[at : at + self._length_bytes], "big")
            at += self._length_bytes
            units.append(head[at : at + size])
            at += size
        return units


class _TrackReader:
    """Collects the packet headers of one track."""

    def __init__(self, stream: VideoStream | AudioStream, jumps: bool) -> None:
        self._time_base = float(stream.time_base or 0)
        self._jumps = jumps
        self._sets = ParameterSetFinder(stream) if isinstance(stream, VideoStream) else None
        self._pts, self._dts, self._positions = array("d"), array("d"), array("q")
        self._flags = bytearray()
        self._duration = 0.0
        self._is_encrypted = False
        self._elapsed, self._late = 0.0, 0

    def add(self, packet: Packet[Any], position: int) -> None:
        pts = math.nan if packet.pts is None else packet.pts * self._time_base
        dts = math.nan if packet.dts is None else packet.dts * self._time_base
        self._pts.append(pts if packet.pts is not None else dts)
        self._dts.append(dts if packet.dts is not None else pts)
        self._positions.append(position)
        if position % ENCRYPTION_STEP == 0 or len(self._pts) < ENOUGH:
            self._is_encrypted |= has_side_data(packet, "encryption_info")
        changes = self._sets is not None and self._sets.is_new(packet)
        self._flags.append(packet.is_keyframe + 2 * packet.is_discard + 4 * changes)
        self._duration = (packet.duration or 0) * self._time_base

    def is_past(self, seconds: float) -> bool:
        """Whether the last `ENOUGH` packets are all later than so many seconds after the first one."""
        if len(self._dts) < 2 or math.isnan(self._dts[-1]):
            return False
        # Where clocks may jump, only steps of normal size count as time that passes.
        step = self._dts[-1] - self._dts[-2]
        if self._jumps:
            self._elapsed += step if 0 < step <= NORMAL_GAP else 0.0
        else:
            self._elapsed = self._dts[-1] - self._dts[0]
        self._late = self._late + 1 if self._elapsed > seconds else 0
        return self._late >= ENOUGH

    def finish(self) -> PacketHeaders | None:
        if not len(self._pts):
            return None
        flags = np.frombuffer(self._flags, np.uint8)
        dts = np.frombuffer(self._dts, np.float64)
        # Packets without a time stamp count as well.
        known = np.flatnonzero(np.isfinite(dts))
        steps = np.abs(np.diff(dts[known])) / np.diff(known)
        return PacketHeaders(
            step=float(np.median(steps)) if len(steps) else 0.0,
            last_duration=self._duration,
            pts=np.frombuffer(self._pts, np.float64),
            dts=dts,
            is_key=(flags & 1).astype(bool),
            is_hidden=(flags & 2).astype(bool),
            changes_decoder=(flags & 4).astype(bool),
            is_encrypted=self._is_encrypted,
            positions=np.frombuffer(self._positions, np.int64),
        )


def read_headers(
    container: InputContainer,
    video: VideoStream | None,
    audio: AudioStream | None,
    seconds: float,
    budget: WorkBudget,
    *,
    whole_audio: bool,
) -> tuple[PacketHeaders | None, PacketHeaders | None]:
    """Read the packet headers of the video and the audio track; None for one that has no packets.

    Args:
        container: the open file.
        video: its video track; None without one.
        audio: its audio track; None without one.
        seconds: how much is read, from the start of the tracks.
        budget: what reading the file may cost.
        whole_audio: whether all headers of the audio are read, or the first ones alone, which costs less.
    """
    jumps = clock_may_jump(container)
    readers = {s.index: _TrackReader(s, jumps) for s in (video, audio) if s is not None}
    leading = video if video is not None else audio
    if leading is None:
        return None, None

    def packets() -> Iterator[Packet[Any]]:
        streams = [s for s in (video, audio) if s is not None]
        heard = 0
        for packet in read_packets(container, streams, budget):
            if packet is not None and packet.stream.index in readers:
                yield packet
                heard += audio is not None and packet.stream.index == audio.index
            if heard >= ENOUGH and not whole_audio:
                break
        # Reading continues where the first loop stopped.
        if heard >= ENOUGH and not whole_audio and video is not None:
            yield from (p for p in read_packets(container, [video], budget) if p is not None)

    for position, packet in enumerate(packets()):
        reader = readers[packet.stream.index]
        reader.add(packet, position)
        if position >= MAX_PACKETS or (packet.stream.index == leading.index and reader.is_past(seconds + NORMAL_GAP)):
            break
    return tuple(readers[s.index].finish() if s is not None else None for s in (video, audio))  # type: ignore[return-value]


def clock_may_jump(container: InputContainer) -> bool:
    """Whether time stamps of the format may jump: MPEG streams and FLV can be recorded on and joined byte by byte."""
    return bool(container.format.flags & 0x200) or container.format.name == "flv"  # AVFMT_TS_DISCONT
