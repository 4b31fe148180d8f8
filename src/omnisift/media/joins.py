"""Clocks that jump, as in joined recordings: continue the time of the first part in the parts after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from omnisift.media.headers import NORMAL_GAP, PacketHeaders

BACKWARD = 0.1
"""Seconds by which decoding times may decrease, as rounding of the container; by more only if the clock jumps."""
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
    # Jumps of all tracks in file order: (position, track number, packet, seconds of the jump).
    jumps = sorted(
        (int(track.positions[packet]), number, packet, size)
        for number, track in enumerate(tracks)
        for packet, size in _find_jumps(track)
    )
    events: list[list[tuple[int, int, int, float]]] = []
    for jump in jumps:
        # Two tracks that jump one after the other by about the same amount jump for the same reason.
        last = events[-1] if events else []
        if last and all(jump[1] != other[1] and abs(jump[3] - other[3]) < NORMAL_GAP for other in last):
            last.append(jump)
        else:
            events.append([jump])
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
    # Without decoding times the order of B frames looks like small steps back.
    backward = BACKWARD if not np.array_equal(track.pts, track.dts, equal_nan=True) else max(1.0, 4 * track.step)
    forward = max(NORMAL_GAP, 10 * track.step)
    found = np.flatnonzero((steps < -backward) | (steps > forward))
    # One packet alone at the end is a broken time stamp.
    return [(int(known[i + 1]), float(steps[i])) for i in found if i + 2 < len(known)]


def _continuing_offset(track: PacketHeaders, packet: int) -> float:
    """Seconds to add so that a packet follows the one before it."""
    before = track.dts[:packet]
    known = np.flatnonzero(np.isfinite(before))
    last = int(known[-1])
    return float(before[last]) + track.offset_at(last) + track.step - float(track.dts[packet])


def _shifted(stamps: npt.NDArray[np.float64], offsets: list[tuple[int, float]]) -> npt.NDArray[np.float64]:
    shifted: npt.NDArray[np.float64] = stamps.copy()
    for number, (first, seconds) in enumerate(offsets):
        until = offsets[number + 1][0] if number + 1 < len(offsets) else None
        shifted[first:until] += seconds
    return shifted
