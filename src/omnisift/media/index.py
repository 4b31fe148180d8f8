"""Index of a video track: when each frame is shown, and which packets given frames need."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from omnisift.media.headers import PacketHeaders


@dataclass(frozen=True)
class VideoIndex:
    """The frames of a video track, from its packets: a container's own count and length may be wrong."""

    coded_times: npt.NDArray[np.float64]
    """[P] seconds on the file's own clock, in decoding order; NaN for packets that show nothing."""
    is_key: npt.NDArray[np.bool_]
    """[P] where decoding can start, as far as is known."""
    shown_times: npt.NDArray[np.float64]
    """[F] seconds, sorted: the frames in display order."""
    end: float
    """Seconds: when the last frame ends."""
    frame_rate: float
    """The track's average frames per second, as stated by the file or else measured."""
    changes_decoder: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """[P] packets that later ones need, see `PacketHeaders`; empty if there are none."""

    def packets_at(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Find the packets of the frames that are shown at given moments: the last ones that start by then.

        Args:
            moments: [N] seconds on the file's own clock.

        Returns:
            [N] packet numbers; before the first frame, that of the first frame.
        """
        shown = np.flatnonzero(~np.isnan(self.coded_times))
        shown = shown[np.argsort(self.coded_times[shown], kind="stable")]
        places = np.searchsorted(self.coded_times[shown], moments, side="right") - 1
        return shown[np.clip(places, 0, None)]

    def packets_for(self, moments: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Find the packets that must be decoded for the frames shown at given moments.

        These are, in each group of pictures with such a frame, the packets from the key frame to the last such frame.
        Other groups are skipped, which makes sparse sampling of long videos cheap without any seeking.

        Args:
            moments: [N] seconds on the file's own clock, sorted.

        Returns:
            [P] bool, in decoding order.
        """
        # Number of the group of each packet, and the packet that starts each group.
        group = np.maximum(np.cumsum(self.is_key) - 1, 0)
        starts = np.flatnonzero(self.is_key)
        needed = np.zeros(len(self.coded_times), dtype=bool)
        for packet in np.unique(self.packets_at(moments)):
            first = int(starts[group[packet]]) if len(starts) and packet >= starts[0] else 0
            # A frame that is shown before its key frame depends on the previous group ("open group").
            if self.coded_times[packet] < self.coded_times[first]:
                first = int(starts[group[packet] - 1]) if group[packet] > 0 else 0
            needed[first : packet + 1] = True
        if len(self.changes_decoder) and needed.any():
            needed[: np.flatnonzero(needed)[-1]] |= self.changes_decoder[: np.flatnonzero(needed)[-1]]
        return needed

    def without_starts(self, packets: set[int]) -> VideoIndex:
        """Return the index with fewer packets where decoding can start."""
        is_key = self.is_key.copy()
        is_key[list(packets)] = False
        return replace(self, is_key=is_key)


def build_index(
    headers: PacketHeaders, times: npt.NDArray[np.float64], stated_rate: float, end: float
) -> VideoIndex | None:
    """Make the index of a track.

    Args:
        headers: the packets of the track.
        times: [P] seconds: when each packet's frame is shown, NaN for none.
        stated_rate: frames per second according to the file; 0 if it states none.
        end: seconds: when the last frame ends.

    Returns:
        The index; None if no packet shows a frame.
    """
    shown_times = np.unique(times[~np.isnan(times)])
    if len(shown_times) == 0:
        return None
    return VideoIndex(
        coded_times=times,
        is_key=headers.is_key,
        shown_times=shown_times,
        end=end,
        frame_rate=stated_rate or (1 / frame_step(shown_times) if frame_step(shown_times) else 1.0),
        changes_decoder=headers.changes_decoder,
    )


def frame_step(shown_times: npt.NDArray[np.float64]) -> float:
    """Seconds: the usual time between two frames; 0 for a single one."""
    return float(np.median(np.diff(shown_times))) if len(shown_times) > 1 else 0.0


def times_in_order(
    order: npt.NDArray[np.int64],
    known: npt.NDArray[np.float64],
    stamps: npt.NDArray[np.float64],
    usual_step: float,
) -> npt.NDArray[np.float64]:
    """Times of frames whose display order the decoder told.

    Args:
        order: [F] their packets, in the order in which they are shown.
        known: [F] seconds at which they are shown, in this order; NaN where that is unknown.
        stamps: [P] seconds, the time stamps of all packets, which are those of decoding.
        usual_step: seconds between two frames, where nothing else is known.

    Returns:
        [F] seconds.
    """
    if not len(known):
        return known
    known = known.copy()
    # A known time must be later than all known ones before it, and earlier than all after it.
    before = np.fmax.accumulate(np.where(np.isnan(known), -np.inf, known))
    after = np.fmin.accumulate(np.where(np.isnan(known), np.inf, known)[::-1])[::-1]
    wrong = np.zeros(len(known), bool)
    wrong[1:] |= ~(known[1:] > before[:-1])
    wrong[:-1] |= ~(known[:-1] < after[1:])
    # If most are wrong, so is where the others are.
    mostly_wrong = 2 * (wrong & ~np.isnan(known)).sum() > (~np.isnan(known)).sum()
    known[wrong | mostly_wrong] = np.nan
    if np.isnan(known).all():
        # Frames are shown at the decoding times of later packets: a frame waits for those that are coded before it but
        # shown after it.
        coded = np.sort(stamps[np.sort(order)])
        ranks = np.argsort(np.argsort(order))
        delay = int((ranks - np.arange(len(order))).max())
        known[: len(coded) - delay] = coded[delay:]
    if np.isnan(known).all():
        known = np.arange(len(known), dtype=np.float64) * usual_step
    # Between two known frames at equal distances; outside them at the usual one.
    anchors = np.flatnonzero(~np.isnan(known))
    steps = np.diff(known[anchors]) / np.diff(anchors)
    step = float(np.median(steps)) if len(steps) else usual_step
    places = np.arange(len(known))
    filled = np.interp(places, anchors, known[anchors])
    filled += np.minimum(places - anchors[0], 0) * step + np.maximum(places - anchors[-1], 0) * step
    return filled
