"""Decode media files: a file in, images and audio on one clock out. No other package of the project decodes.

See ``docs/media.md`` for what the reader guarantees about time, offsets, rotation, limits and errors.
"""

from omnisift.media.image import smart_size
from omnisift.media.reader import read
from omnisift.media.result import SAMPLE_RATE, Media

__all__ = ["SAMPLE_RATE", "Media", "read", "smart_size"]
