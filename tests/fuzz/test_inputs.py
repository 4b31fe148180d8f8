"""File objects that misbehave at random: a result or one typed error, and the object stays as it was."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.fuzz.conftest import Fuzz
from tests.media import clip_writer

from omnisift.errors import MediaError
from omnisift.media import Media, read

SMALL = {"min_pixels": 784, "max_pixels": 4 * 784}
KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {}, "a.mkv": {"audio": "flac"}, "a.ts": {}, "a.mpg": {"video": "mpeg2video", "audio": "mp2"}, "a.flv": {},
    "a.wmv": {"video": "wmv2", "audio": "wmav2"}, "a.caf": {"video": None, "audio": "alac"},
}  # fmt: skip


class Shaky(io.BytesIO):
    """Returns fewer bytes than asked, and after some calls something else.

    Args:
        content: the file.
        draw: the source of chance.
        faults: share of calls that answer wrongly.
    """

    def __init__(self, content: bytes, draw: random.Random, faults: float) -> None:
        super().__init__(content)
        self.draw, self.faults, self.has_failed = draw, faults, False

    def read(self, size: int | None = -1) -> Any:
        asked = -1 if size is None else size
        if self.draw.random() >= self.faults:
            return super().read(self.draw.randint(1, asked) if asked > 0 and self.draw.random() < 0.3 else asked)
        self.has_failed = True
        fault = self.draw.choice(
            (None, "words", 3, bytes(max(asked, 0) + 1), bytearray(8), OSError(5, "gone"), KeyError())
        )
        if isinstance(fault, Exception):
            raise fault
        return fault


@pytest.mark.slow
@pytest.mark.fuzz
def test_shaky_file_objects(fuzz: Fuzz, tmp_path: Path) -> None:
    files: dict[str, tuple[bytes, Media]] = {}
    for name, options in KINDS.items():
        clip_writer.write(tmp_path / name, **{"seconds": 1.0, "flash": 0.5, "waveform": None, **options})
        files[name] = ((tmp_path / name).read_bytes(), read(tmp_path / name, **SMALL))
    for seed in fuzz:
        draw = random.Random(seed)
        name = draw.choice(sorted(files))
        content, expected = files[name]
        file = Shaky(content, draw, draw.choice((0.0, 0.0, 0.01, 0.1, 0.5)))
        file.seek(draw.randrange(len(content)))
        position = file.tell()
        with fuzz.case(f"seed {seed}: {name}, {file.faults}"):
            media, message = None, ""
            try:
                media = read(file, **SMALL)
            except MediaError as error:
                message = str(error)
            assert file.has_failed == (media is None), message or "a wrong answer was taken"
            assert "\n" not in message
            if media is not None:
                np.testing.assert_array_equal(media.images, expected.images)
                np.testing.assert_array_equal(media.waveform, expected.waveform)
            assert (file.tell(), file.closed) == (position, False)
