"""Packets that hold many frames: one call of the decoder would decode them all, without a check of time and memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from av.video.stream import VideoStream

MAX_AUDIO_BYTES = 4 << 20
"""Bytes of an audio packet; a second of eight uncompressed channels is below 2 MiB."""
MAX_LOSSY_BYTES = 1 << 16
"""The same for codecs whose decoders go on to the next frame inside a packet; one frame has at most 32 KiB."""
MAX_BLOCK_BYTES = 1 << 14
"""The same for codecs whose frames have the size that the header states, which may be 1 byte (60 kB took 1.2 GB)."""
MAX_FLAC_SYNCS = 16
"""Marks that begin a frame in a FLAC packet, which holds one; each may stand for 2 MiB of silence."""
FLAC_NOISE = 1 << 14
"""Bytes in which one mark more is chance (it is one in 32,768)."""

_LOSSY = ("aac", "mp1", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "mlp", "wmapro", "wmalossless")
_BLOCKS = ("wmav", "cook", "atrac", "ra_", "sipr", "gsm", "qdm", "g723", "g729")


class FrameSplitter:
    """Divides the packets of a video track into packets of one frame, where a codec has no bound on their number."""

    def __init__(self, stream: VideoStream) -> None:
        """Start before the first packet of ``stream``."""
        # A packet of AV1 has any number of hidden frames. One of VP9 has at most 8, and other codecs have one.
        is_av1 = stream.codec_context.codec.canonical_name == "av1"
        self._filter = BitStreamFilterContext("av1_frame_split", stream) if is_av1 else None

    def split(self, packet: Packet[Any] | None) -> Iterator[Packet[Any] | None]:
        """Yield the parts of ``packet``; None, which drains a decoder, as it is."""
        if self._filter is None or packet is None:
            yield packet
        else:
            yield from self._filter.filter(packet)

    def reset(self) -> None:
        """Forget the rest of the last packet."""
        if self._filter is not None:
            self._filter.flush()


def is_stuffed(packet: Packet[Any], codec: str) -> bool:
    """Whether an audio packet holds more than any encoder puts into one.

    Args:
        packet: of an audio track.
        codec: the codec's canonical name.
    """
    if codec == "flac":
        data = bytes(packet)
        syncs = data.count(b"\xff\xf8") + data.count(b"\xff\xf9")
        return syncs > MAX_FLAC_SYNCS + packet.size // FLAC_NOISE or packet.size > MAX_AUDIO_BYTES
    if codec.startswith(_BLOCKS):
        return packet.size > MAX_BLOCK_BYTES
    return packet.size > (MAX_LOSSY_BYTES if codec.startswith(_LOSSY) else MAX_AUDIO_BYTES)
