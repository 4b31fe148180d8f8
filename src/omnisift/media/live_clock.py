"""`LiveClock`: the time of a stream from the time stamps of its packets, which may jump where an encoder restarts."""

from __future__ import annotations

from omnisift.media.headers import NORMAL_GAP
from omnisift.media.joins import BACKWARD, EXCURSION, OVERLAP, ROUNDING
from omnisift.media.live_warnings import WarningLog

JUMPED = "the stream's time stamps jump, as after the restart of an encoder; time continues without a gap"


REORDERED = 1.0
"""Seconds by which times may decrease where times of presentation stand for those of decoding."""

LONGEST_PAUSE = 3600.0
"""Seconds between two packets of a track in a format whose clock does not jump."""


class LiveClock:
    """Keeps one time for the tracks of a stream: seconds since its beginning, which continue over each jump.

    A track's stamps jump if they decrease, or if two of its packets are far apart while no other track continues. The
    track then continues without a gap, and the other tracks, which jump a little later, follow by the same distance.
    """

    def __init__(self, log: WarningLog, *, may_jump: bool = True) -> None:
        """Start at 0.

        Args:
            log: receives a warning for each jump.
            may_jump: whether the format allows jumps; else packets that are far apart have a pause between them.
        """
        self._far = NORMAL_GAP if may_jump else LONGEST_PAUSE
        self._log = log
        self.zero = 0.0
        """The stamp, in seconds, that is 0 of the stream."""
        self._latest_offset = 0.0
        self._offsets: dict[int, float] = {}  # by track: seconds that are added to its stamps
        self._times: dict[int, float] = {}  # by track: the last decoding time, on the stream's clock
        self._steps: dict[int, float] = {}  # by track: between the last two packets
        self._former: dict[int, tuple[float, int]] = {}  # by track: the offset before a jump, and packets since then
        self._shown: set[int] = set()  # tracks whose last stamp was a time of presentation

    @property
    def now(self) -> float:
        """Seconds of the stream: the latest decoding time of all tracks."""
        return max(self._times.values(), default=0.0)

    def shift(self, track: int, stamp: float, *, is_shown: bool = False) -> float:
        """Take the next packet of a track.

        Args:
            track: its number.
            stamp: the decoding time of the packet, in seconds.
            is_shown: whether its time of presentation stands for it, because the other is unknown.

        Returns:
            Seconds to add to its time stamps, so that they continue those before a jump.
        """
        offset = self._offsets.setdefault(track, self._latest_offset)
        time = stamp - self.zero + offset
        before = self._times.get(track)
        backward = REORDERED if is_shown or track in self._shown else BACKWARD
        (self._shown.add if is_shown else self._shown.discard)(track)
        if track in self._former and before is not None:
            offset = self._reverted(track, stamp - self.zero, before)
            time = stamp - self.zero + offset
        if before is None and self._times and abs(time - self.now) > NORMAL_GAP:
            before = self.now  # one of the tracks begins with a broken stamp
        if before is not None and (time < before - backward or self._is_far(track, time, before)):
            offset = self._follow(track, stamp - self.zero, before)
            time = stamp - self.zero + offset
        if before is not None and before < time < before + NORMAL_GAP:
            self._steps[track] = time - before
        self._times[track] = time
        return offset

    def _reverted(self, track: int, stamp: float, before: float) -> float:
        """The offset of a track that has jumped; that from before if the jump was a few broken stamps."""
        offset, (former, count) = self._offsets[track], self._former.pop(track)
        if abs(stamp + former - before) + ROUNDING < abs(stamp + offset - before):
            if self._latest_offset == offset:
                self._latest_offset = former
            self._offsets[track] = former
        elif count < EXCURSION:
            self._former[track] = (former, count + 1)
        return self._offsets[track]

    def _is_far(self, track: int, time: float, before: float) -> bool:
        """Whether a track continues later than after a pause, in which the others would have gone on."""
        others = (time - other < NORMAL_GAP for number, other in self._times.items() if number != track)
        return time > before + self._far and not any(others)

    def _follow(self, track: int, stamp: float, before: float) -> float:
        """The offset of a track after a jump."""
        self._former[track] = (self._offsets[track], 1)
        other = stamp + self._latest_offset
        # Another track has jumped first: keep the distance to it.
        if self._latest_offset != self._offsets[track] and before - OVERLAP <= other <= self.now + NORMAL_GAP:
            self._offsets[track] = self._latest_offset
        else:
            self._latest_offset = self._offsets[track] = before + self._steps.get(track, 0.0) - stamp
            self._log.add("clock", JUMPED, before)
        return self._offsets[track]
