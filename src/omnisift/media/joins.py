"""Clocks that jump, as in joined recordings: continue the time of the first part in the parts after it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omnisift.media.headers import NORMAL_GAP, PacketHeaders

BACKWARD = 0.1
"""Seconds by which decoding times may decrease, as rounding of the container; by more only if the clock jumps."""
RARE = 0.1
"""Share of the packets of a track at which its clock may jump; where times go back more often, this is their order."""
ROUNDING = 0.02
"""Seconds by which decoding times may decrease where the other track's clock does not jump."""
EXCURSION = 8
"""Packets in a row that may have broken time stamps, as those of two or three units of a transport stream."""
MAX_JUMPS = 10_000
"""Jumps of a file's clock that are followed; where there are more, its times mean nothing."""
NEAR = 100
"""Packets by which the two tracks of a file may be apart."""
OVERLAP = 0.5
"""Seconds by which the audio of a part may outlast its video before the next part waits for it."""


def remove_spikes(stamps: npt.NDArray[np.float64], step: float) -> npt.NDArray[np.float64]:
    """NaN for a time stamp far from both neighbours, as one flipped bit causes: it would stretch the track.

    Args:
        stamps: [P] seconds in file order.
        step: seconds, the usual distance of two stamps.
    """
    if len(stamps) < 3:
        return stamps
    # A spike is far from the median of itself and its neighbours; decoding order alone strays by a few frames.
    around = np.stack([stamps[:-2], stamps[1:-1], stamps[2:]])
    far = np.zeros(len(stamps), dtype=bool)
    with np.errstate(invalid="ignore"):
        far[1:-1] = np.abs(around[1] - np.median(around, axis=0)) > max(NORMAL_GAP, 10 * step)
    cleaned: npt.NDArray[np.float64] = np.where(far, np.nan, stamps)
    return cleaned


def find_excursions(track: PacketHeaders, other: PacketHeaders | None) -> npt.NDArray[np.int64]:
    """Find packets whose clock jumps and is back after at most `EXCURSION` packets: their time stamps are broken.

    At the beginning or the end of a track nothing tells whether it would be back; there the other track tells whether
    the clock really was at that time.

    Args:
        track: the packets of one track.
        other: those of the other one; None without one.
    """
    known = np.flatnonzero(np.isfinite(track.dts))
    stamps = track.dts[known]
    elsewhere = np.empty(0) if other is None else other.dts[np.isfinite(other.dts)]
    broken: set[int] = set()
    for packet in [packet for packet, size in _find_jumps(track) if abs(size) > BACKWARD]:
        place = int(np.searchsorted(known, packet))
        for length in range(1, EXCURSION + 1):
            # The packets before the jump, or those after it.
            for first in (place - length, place):
                last = first + length  # the first packet that is back
                if first < 0 or last > len(known):
                    continue
                if first > 0 and last < len(known):
                    # The time of so many packets has passed; some may be lost, and times are rounded.
                    count = known[last] - known[first - 1]
                    elapsed = (stamps[last] - stamps[first - 1]) / track.step if track.step else math.inf
                    normal = count / 2 - 1 <= elapsed <= count + 2
                else:
                    normal = len(elsewhere) > 0 and np.abs(elsewhere - stamps[first]).min() > NORMAL_GAP
                if normal:
                    broken.update(range(first, last))
    return known[sorted(broken)]


def carry_clock(tracks: Sequence[PacketHeaders], may_jump: bool) -> int:
    """Add an offset to all time stamps after each jump of the clock, the same one for all tracks.

    A clock jumps if it goes back, or forward by more than `NORMAL_GAP`; in formats that don't allow jumps the latter is
    a pause, and decoding times, which the demuxer guesses for some of them, are not looked at.

    Args:
        tracks: the packets of the video and the audio track, the video first; their times are corrected in place.
        may_jump: whether the format allows jumps.

    Returns:
        Number of jumps.
    """
    for track in tracks:
        track.pts, track.dts = remove_spikes(track.pts, track.step), remove_spikes(track.dts, track.step)
    if not may_jump:
        return 0
    if sum(len(_find_jumps(track)) for track in tracks) > MAX_JUMPS:
        return 0
    # What is broken would move everything after it.
    broken = [find_excursions(track, next((t for t in tracks if t is not track), None)) for track in tracks]
    for track, packets in zip(tracks, broken, strict=True):
        track.pts[packets] = track.dts[packets] = np.nan
    # Jumps of all tracks in file order: (position, track number, packet, seconds of the jump).
    jumps = sorted(
        (int(track.positions[packet]), number, packet, size)
        for number, track in enumerate(tracks)
        for packet, size in _find_jumps(track)
        if not any(_other_continues(track, packet, size, other) for other in tracks if other is not track)
    )
    events: list[list[tuple[int, int, int, float]]] = []
    for jump in jumps:
        # Two tracks that jump one after the other by about the same amount jump for the same reason.
        last = events[-1] if events else []
        if last and all(jump[1] != other[1] and abs(jump[3] - other[3]) < NORMAL_GAP for other in last):
            last.append(jump)
        else:
            events.append([jump])
    # Small steps back are jumps where the other track jumps as well.
    events = [event for event in events if any(abs(jump[3]) > BACKWARD for jump in event)]
    for event in events:
        members = {number: packet for _, number, packet, _ in sorted(event, key=lambda jump: jump[1])}
        offsets = [_continuing_offset(tracks[number], packet) for number, packet in members.items()]
        # The first track (the video, if it jumps) continues without a gap; the others keep their distance to it.
        offset = offsets[0] if max(offsets) - offsets[0] < OVERLAP else max(offsets)
        for number, packet in members.items():
            tracks[number].offsets.append((packet, offset))
    for track in tracks:
        track.pts, track.dts = _shifted(track.pts, track.offsets), _shifted(track.dts, track.offsets)
    return len(events)


def _find_jumps(track: PacketHeaders) -> list[tuple[int, float]]:
    """(packet, seconds) of each jump of one track's clock."""
    known = np.flatnonzero(np.isfinite(track.dts))
    steps = np.diff(track.dts[known])
    # Without decoding times the order of B frames looks like small steps back, which are many.
    reorders = np.array_equal(track.pts, track.dts, equal_nan=True) and (steps < -BACKWARD).sum() > RARE * len(known)
    backward = max(1.0, 4 * track.step) if reorders else ROUNDING
    forward = max(NORMAL_GAP, 10 * track.step)
    found = np.flatnonzero((steps < -backward) | (steps > forward))
    return [(int(known[i + 1]), float(steps[i])) for i in found]


def _other_continues(track: PacketHeaders, packet: int, size: float, other: PacketHeaders) -> bool:
    """Whether the other track continues while one seems to jump: then it is a pause, as of a still screen."""
    middle, place = float(track.dts[packet]) - size / 2, int(track.positions[packet])
    reach = NEAR + max(0.0, size) / (other.step or 1.0)
    first, last = np.searchsorted(other.positions, (place - reach, place + reach))
    with np.errstate(invalid="ignore"):
        return bool((np.abs(other.dts[first:last] - middle) < size / 4).any())


def _continuing_offset(track: PacketHeaders, packet: int) -> float:
    """Seconds to add so that a packet follows the one before it."""
    last = packet - 1
    while np.isnan(track.dts[last]):
        last -= 1
    before = float(track.dts[last]) + track.offset_at(last)
    return before + (packet - last) * track.step - float(track.dts[packet])


def _shifted(stamps: npt.NDArray[np.float64], offsets: list[tuple[int, float]]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = stamps.copy()
    for number, (first, seconds) in enumerate(offsets):
        until = offsets[number + 1][0] if number + 1 < len(offsets) else None
        shifted[first:until] += seconds
    return shifted
