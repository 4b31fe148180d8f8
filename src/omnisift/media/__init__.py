"""Decode media files: a file in, images and audio on one clock out. No other package of the project decodes.

See ``docs/media.md`` for what the reader guarantees about time, offsets, rotation, limits and errors.
"""

from omnisift.media.image import smart_size
from omnisift.media.lines import Line
from omnisift.media.live import LiveSource, open_stream
from omnisift.media.live_warnings import StreamWarning
from omnisift.media.piece_bytes import MAX_BYTES as MAX_PIECE_BYTES
from omnisift.media.piece_bytes import image_message, message_time, piece_from_bytes, samples_message
from omnisift.media.pieces import Piece
from omnisift.media.reader import read, read_lines
from omnisift.media.result import Media
from omnisift.media.source import MediaFile
from omnisift.media.units import SAMPLE_RATE
from omnisift.media.windows import ClipWindows, WindowsUnavailable, read_or_open

__all__ = [
    "MAX_PIECE_BYTES",
    "SAMPLE_RATE",
    "ClipWindows",
    "Line",
    "LiveSource",
    "Media",
    "MediaFile",
    "Piece",
    "StreamWarning",
    "WindowsUnavailable",
    "image_message",
    "message_time",
    "open_stream",
    "piece_from_bytes",
    "read",
    "read_lines",
    "read_or_open",
    "samples_message",
    "smart_size",
]
