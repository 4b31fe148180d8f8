"""A first look without decoding: when each frame is shown, and which packets a given set of frames needs."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from omnisift.media.container import packets

MAX_PACKETS = 8_000_000
"""More are not looked at: 37 hours at 60 frames a second, and a bound on memory (9 bytes each)."""


@dataclass(frozen=True)
class VideoIndex:
    """The frames of the film track, from packet headers alone. Headers of the container lie about count and length."""

    coded: npt.NDArray[np.float64]
    """[P] seconds on the file's own clock, in the order of decoding; NaN for packets that show nothing."""
    key: npt.NDArray[np.bool_]
    """[P] where decoding can start."""
    shown: npt.NDArray[np.float64]
    """[F] seconds, sorted: the frames in the order they are shown."""
    end: float
    """Seconds: when the last frame ends."""
    rate: float
    """The track's average frames per second, as stated by the file or else measured."""

    def needed(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """[P]: the packets to decode so that the frame shown at each of ``moments`` (sorted) can be had.

        That is, from each needed group's key frame to the last needed frame in it. Groups without a needed frame are
        skipped, which makes sparse sampling of long films cheap without any seeking.
        """
        picks = np.unique(np.clip(np.searchsorted(self.shown, moments, side="right") - 1, 0, None))
        wanted = np.isin(self.coded, self.shown[picks])
        group = np.maximum(np.cumsum(self.key) - 1, 0)
        starts = np.flatnonzero(self.key)
        need = np.zeros(len(self.coded), dtype=bool)
        for place in np.flatnonzero(wanted):
            first = int(starts[group[place]]) if len(starts) and place >= starts[0] else 0
            # A frame that is shown before its key frame leans on the group before it ("open group").
            if self.coded[place] < self.coded[first] and group[place] > 0:
                first = int(starts[group[place] - 1])
            need[first : place + 1] = True
        return need


def look(container: InputContainer, stream: VideoStream, until: float) -> VideoIndex | None:
    """Read the packet headers of ``stream`` up to ``until`` seconds after its start; None if it has no packets."""
    base = float(stream.time_base or 0)
    stamps = array("d")
    keys = bytearray()
    length = 0.0
    for packet in packets(container, [stream]):
        if packet is None:
            continue
        stamp = packet.pts if packet.pts is not None else packet.dts
        stamps.append(float("nan") if stamp is None or packet.is_discard else stamp * base)
        keys.append(packet.is_keyframe)
        length = (packet.duration or 0) * base
        if len(stamps) >= MAX_PACKETS or stamps[-1] > stamps[0] + until + 10:
            break
    if not stamps:
        return None
    coded = _without_spikes(np.frombuffer(stamps, dtype=np.float64))
    shown = np.unique(coded[~np.isnan(coded)])
    if len(shown) == 0:
        return None
    step = float(np.median(np.diff(shown))) if len(shown) > 1 else 0.0
    rate = float(stream.average_rate or 0) or (1 / step if step else 1.0)
    # A last frame that claims to stand for minutes is a lie of the header; one with no length gets the usual step.
    last = length if 0 < length <= max(10 * step, 10.0) else (step or 1 / rate)
    return VideoIndex(coded, np.frombuffer(keys, dtype=bool), shown, float(shown[-1]) + last, rate)


def _without_spikes(stamps: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """NaN for a stamp far from those before and after it, as one flipped bit makes: it would stretch the whole film."""
    if len(stamps) < 3:
        return stamps
    around = np.stack([stamps[:-2], stamps[1:-1], stamps[2:]])
    step = float(np.nanmedian(np.abs(np.diff(stamps)))) if np.isfinite(np.diff(stamps)).any() else 0.0
    far = np.zeros(len(stamps), dtype=bool)
    far[1:-1] = np.abs(around[1] - np.median(around, axis=0)) > max(10.0, 10 * step)
    return np.where(far, np.nan, stamps)
