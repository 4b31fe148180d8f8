"""Index of a video track without decoding: when each frame is shown, and which packets given frames need."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.media.container import read_packets
from omnisift.media.work import WorkBudget

MAX_PACKETS = 8_000_000
"""Packets indexed at most: 37 hours at 60 frames per second, and a bound on memory (9 bytes each)."""


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a video track, from packet headers alone: a container's own count and length may be wrong."""

    coded_times: npt.NDArray[np.float64]
    """[P] seconds on the file's own clock, in decoding order; NaN for packets that show nothing."""
    is_key: npt.NDArray[np.bool_]
    """[P] where decoding can start."""
    shown_times: npt.NDArray[np.float64]
    """[F] seconds, sorted: the frames in display order."""
    end: float
    """Seconds: when the last frame ends."""
    frame_rate: float
    """The track's average frames per second, as stated by the file or else measured."""

    def packets_for(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Find the packets that must be decoded for the frames shown at given moments.

        These are, in each group of pictures with such a frame, the packets from the key frame to the last such frame.
        Other groups are skipped, which makes sparse sampling of long videos cheap without any seeking.

        Args:
            moments: [N] seconds on the file's own clock, sorted.

        Returns:
            [P] bool, in decoding order.
        """
        # The frames shown at these moments, and the packets that they are coded in.
        frames = np.unique(np.clip(np.searchsorted(self.shown_times, moments, side="right") - 1, 0, None))
        wanted = np.isin(self.coded_times, self.shown_times[frames])
        # Number of the group of each packet, and the packet that starts each group.
        group = np.maximum(np.cumsum(self.is_key) - 1, 0)
        starts = np.flatnonzero(self.is_key)
        needed = np.zeros(len(self.coded_times), dtype=bool)
        for packet in np.flatnonzero(wanted):
            first = int(starts[group[packet]]) if len(starts) and packet >= starts[0] else 0
            # A frame that is shown before its key frame depends on the previous group ("open group").
            if self.coded_times[packet] < self.coded_times[first] and group[packet] > 0:
                first = int(starts[group[packet] - 1])
            needed[first : packet + 1] = True
        return needed


def read_index(container: InputContainer, stream: VideoStream, until: float, budget: WorkBudget) -> VideoIndex | None:
    """Read the packet headers of a video track.

    Args:
        container: the open file.
        stream: its video track.
        until: seconds after the start of the track up to which headers are read.
        budget: what reading the file may cost.

    Returns:
        The index; None if no packet shows a frame.
    """
    time_base = float(stream.time_base or 0)
    stamps = array("d")
    keys = bytearray()
    duration = 0.0
    for packet in read_packets(container, [stream], budget):
        if packet is None:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        stamps.append(float("nan") if stamp is None or packet.is_discard else stamp * time_base)
        keys.append(packet.is_keyframe)
        duration = (packet.duration or 0) * time_base
        if len(stamps) >= MAX_PACKETS or stamps[-1] > stamps[0] + until + 10:
            break
    if not stamps:
        return None
    coded_times = _without_spikes(np.frombuffer(stamps, dtype=np.float64))
    shown_times = np.unique(coded_times[~np.isnan(coded_times)])
    if len(shown_times) == 0:
        return None
    step = float(np.median(np.diff(shown_times))) if len(shown_times) > 1 else 0.0
    rate = float(stream.average_rate or 0) or (1 / step if step else 1.0)
    # A last frame that claims to last for minutes is an error of the header; one without a duration gets the usual
    # step.
    last = duration if 0 < duration <= max(10 * step, 10.0) else (step or 1 / rate)
    return VideoIndex(coded_times, np.frombuffer(keys, dtype=bool), shown_times, float(shown_times[-1]) + last, rate)


def _without_spikes(stamps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NaN for a time stamp far from both neighbours, as one flipped bit causes: it would stretch the video."""
    if len(stamps) < 3:
        return stamps
    # A spike is far from the median of itself and its neighbours; decoding order alone strays by a few frames.
    around = np.stack([stamps[:-2], stamps[1:-1], stamps[2:]])
    step = float(np.nanmedian(np.abs(np.diff(stamps)))) if np.isfinite(np.diff(stamps)).any() else 0.0
    far = np.zeros(len(stamps), dtype=bool)
    far[1:-1] = np.abs(around[1] - np.median(around, axis=0)) > max(10.0, 10 * step)
    return np.where(far, np.nan, stamps)
