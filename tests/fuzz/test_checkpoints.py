"""Random damage to nano's folder and its selector: one line that names the folder, or an answer."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fuzz.conftest import Fuzz
from tests.helpers.broken_folders import FOLDERS, copy_nano, replace

import omnisift
from omnisift.errors import OmniSiftError

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def flip(content: bytes, rng: random.Random) -> bytes:
    """Change bytes near the beginning, where headers and keys are, as often as anywhere."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 3, 20))):
        end = rng.choice((min(len(data), 2000), len(data)))
        if end:
            data[rng.randrange(end)] = rng.randrange(256)
    return bytes(data)


def erase(content: bytes, rng: random.Random) -> bytes:
    """Zeros, as a file system leaves after a power failure."""
    begin = rng.randrange(len(content) + 1)
    return content[:begin] + b"\0" * (len(content) - begin)


def double(content: bytes, rng: random.Random) -> bytes:
    begin, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:end] + content[begin : begin + min(end - begin, 10_000)] + content[end:]


def swap_word(content: bytes, rng: random.Random) -> bytes:
    """Another value of a JSON file: a number, a text, null, a list, or a number too large."""
    words = content.split(b" ")
    values = (b"0,", b"-1,", b"1e999,", b"null,", b'"x",', b"[],", b"{},", b"9" * 30 + b",", b"true,", b"NaN,", b"2.5,")
    words[rng.randrange(len(words))] = rng.choice(values)
    return b" ".join(words)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (cut, flip, erase, double, swap_word, swap_word)


def damage(folder: Path, rng: random.Random) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for _ in range(rng.choice((1, 1, 2))):
        file = rng.choice(files)
        replace(file, rng.choice(CHANGES)(file.read_bytes(), rng))


def test_damaged_folders(fuzz: Fuzz, clip: Path) -> None:
    media = omnisift.load("nano", compressor=None).read(clip)
    names = sorted(FOLDERS)
    for seed in fuzz:
        rng = random.Random(seed)
        with tempfile.TemporaryDirectory() as place, fuzz.case(f"seed {seed}"):
            folder = copy_nano(Path(place) / "model")
            if rng.random() < 0.2:  # two faults at once
                FOLDERS[rng.choice(names)](folder)
            damage(folder, rng)
            selector = None
            if rng.random() < 0.3:  # the selector alone
                selector = Path(shutil.move(folder / "selector", Path(place) / "selector"))
            model = "nano" if selector is not None and rng.random() < 0.5 else str(folder)
            try:
                answer = omnisift.load(model, selector=selector).ask(media, "What colour?", max_new_tokens=2)
            except OmniSiftError as error:
                text = str(error)
                assert "\n" not in text
                assert len(text) < 700
                assert place in text
            else:
                tokens = answer.report.tokens
                assert tokens.generated
                assert 0 < tokens.video_kept < tokens.video
