"""Which video and which audio track of a file is read, and why others are not."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import av.logging
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from omnisift.errors import TooBig
from omnisift.media.container import open_container, read_packets
from omnisift.media.source import Source
from omnisift.media.units import MAX_CODED_PIXELS
from omnisift.media.work import WorkBudget

STILL_SHARE = 0.02
"""A video track with a smaller share of the packets of another one is a still image or a row of previews."""

MATROSKA_HEAD = 1 << 20
"""Bytes in which the names of Matroska's codecs are searched."""

_log_level = threading.Lock()

Track = VideoStream | AudioStream


@dataclass(frozen=True)
class TrackChoice:
    """Numbers of the tracks that are read, with the reasons; valid for each time the file is opened."""

    video: int | None
    """None without a video track that can be decoded."""
    audio: int | None
    """None without an audio track that can be decoded."""
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Tracks that can't be decoded, such as ``video (xyz1, unknown codec)``."""

    def reason(self, kind: str) -> str:
        """Why no track of a kind can be read, for an error; empty if there is none."""
        tracks = [name for name in self.left_out if name.startswith(kind)]
        return f"{' and '.join(tracks)} can't be decoded; convert it first" if tracks else ""


def choose_tracks(
    file: Source, container: InputContainer, budget: WorkBudget, encrypted: Collection[int] = ()
) -> TrackChoice:
    """Choose the default video and audio track, else the first; of several video tracks a film, not a still.

    Cover art does not count as video.

    Args:
        file: as `check_source` returned it.
        container: the open file; nothing is read from it.
        budget: what reading the file may cost.
        encrypted: numbers of tracks that are known to be encrypted.
    """
    left_out, warnings = [], []
    usable: dict[str, list[Track]] = {"video": [], "audio": []}
    tracks: tuple[Track, ...] = (*container.streams.video, *container.streams.audio)
    for stream in tracks:
        if stream.disposition & Disposition.attached_pic:
            continue
        # Damaged headers and unknown codecs give streams without a codec context.
        known = getattr(stream, "codec_context", None) is not None and stream.time_base is not None
        if known and stream.index not in encrypted:
            usable[stream.type].append(stream)
        else:
            reason = "encrypted" if known else "unknown codec"
            left_out.append(f"{stream.type} track {stream.index} ({codec_name(file, container, stream)}, {reason})")
    films = _films(file, usable["video"], budget)
    chosen: dict[str, Track | None] = {}
    for kind, candidates in (("video", films), ("audio", usable["audio"])):
        default = next((s for s in candidates if s.disposition & Disposition.default), None)
        chosen[kind] = default or (candidates[0] if candidates else None)
        if len(usable[kind]) > 1:
            which = "the default one" if default else f"track {candidates[0].index}"
            warnings.append(f"{len(usable[kind])} {kind} tracks; {which} was read")
    if left_out and any(chosen.values()):
        warnings.append(f"left out because it can't be decoded: {', '.join(left_out)}")
    video, audio = chosen["video"], chosen["audio"]
    return TrackChoice(
        None if video is None else video.index,
        None if audio is None else audio.index,
        tuple(warnings),
        tuple(left_out),
    )


def open_video(container: InputContainer, choice: TrackChoice) -> VideoStream | None:
    """Return the chosen video track, with bounds on its decoder; None without one.

    Raises:
        TooBig: its images have more than `MAX_CODED_PIXELS`.
    """
    stream = next((s for s in container.streams.video if s.index == choice.video), None)
    if stream is None:
        return None
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_CODED_PIXELS:
        raise TooBig(f"video of {width} x {height} is over the limit of 8192 x 4320; scale it down first")
    # The header may be wrong about the size; the decoder itself refuses larger images.
    stream.codec_context.options = {"max_pixels": str(MAX_CODED_PIXELS)}
    # Each decoding thread holds its own images: few threads for large ones bound memory.
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = min(8, os.cpu_count() or 1) if width * height <= 1920 * 1088 else 2
    return stream


def open_audio(container: InputContainer, choice: TrackChoice) -> AudioStream | None:
    """Return the chosen audio track; None without one."""
    return next((s for s in container.streams.audio if s.index == choice.audio), None)


def codec_name(file: Source, container: InputContainer, stream: Track) -> str:
    """Return the name of a track's codec, also of one that no decoder knows."""
    if getattr(stream, "codec_context", None) is not None:
        return stream.codec_context.codec.canonical_name
    name = None
    if container.format.name.startswith("matroska"):
        # Each track entry has an element 86 with the length and the name of its codec, in the order of the tracks.
        names = re.findall(rb"\x86([\x80-\xff])([VAS]_[\x21-\x7e]{1,60})", file.head(MATROSKA_HEAD))
        if stream.index < len(names):
            length, text = names[stream.index]
            name = text[: length[0] & 127].decode()
    else:
        # PyAV has no name for such a track; FFmpeg's description, which it writes to its log, has.
        with _log_level:
            level = av.logging.get_level()
            av.logging.set_level(av.logging.INFO)
            try:
                text = cast(Any, container).dumps_format()  # PyAV's annotations lack it
            finally:
                av.logging.set_level(level)
        # Four letters, or a number that is shown as such letters and brackets.
        match = re.search(rf"Stream #\d+:{stream.index}\b.*?: \w+: \S+ \((?:(\w{{4}})|.*? / (0x\w+)\))", text)
        name = match.group(1) or match.group(2) if match else None
    return name or "no name"


def _films(file: Source, tracks: list[Track], budget: WorkBudget) -> list[Track]:
    """The video tracks that are no stills: those with about as many packets as the longest."""
    if len(tracks) < 2:
        return tracks
    counts = dict.fromkeys((s.index for s in tracks), 0)
    with open_container(file) as container:
        for packet in read_packets(container, [container.streams[number] for number in counts], budget):
            if packet is not None:
                counts[packet.stream.index] += 1
    most = max(counts.values())
    return [s for s in tracks if counts[s.index] >= max(min(2, most), STILL_SHARE * most)]
