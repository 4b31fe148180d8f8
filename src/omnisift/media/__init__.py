"""The only room that decodes: a media file in, pictures and sound on one clock out.

See ``docs/media.md`` for what the reader promises about time, offsets, rotation, caps and errors.
"""

from omnisift.media.image import smart_size
from omnisift.media.reader import read
from omnisift.media.result import SAMPLE_RATE, Media

__all__ = ["SAMPLE_RATE", "Media", "read", "smart_size"]
