"""Words in the picture, in a bitmap font of 5 x 7 dots of our own."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from omnisift.world.events import Title

_GLYPHS = {
    "a": "01110 10001 10001 11111 10001 10001 10001",
    "b": "11110 10001 10001 11110 10001 10001 11110",
    "c": "01110 10001 10000 10000 10000 10001 01110",
    "e": "11111 10000 10000 11110 10000 10000 11111",
    "f": "11111 10000 10000 11110 10000 10000 10000",
    "i": "11111 00100 00100 00100 00100 00100 11111",
    "k": "10001 10010 10100 11000 10100 10010 10001",
    "l": "10000 10000 10000 10000 10000 10000 11111",
    "n": "10001 11001 11001 10101 10011 10011 10001",
    "o": "01110 10001 10001 10001 10001 10001 01110",
    "p": "11110 10001 10001 11110 10000 10000 10000",
    "r": "11110 10001 10001 11110 10100 10010 10001",
    "s": "01111 10000 10000 01110 00001 00001 11110",
    "t": "11111 00100 00100 00100 00100 00100 00100",
    "w": "10001 10001 10001 10101 10101 11011 10001",
    "x": "10001 10001 01010 00100 01010 10001 10001",
}
"""Letter -> its rows; only the letters that occur."""
_DOT, _EDGE = 3, 3
"""Pixels of a dot, and around the word."""
_LETTER = 6 * _DOT
TITLE_WIDTH, TITLE_HEIGHT = 4 * _LETTER - _DOT + 2 * _EDGE, 7 * _DOT + 2 * _EDGE
"""Pixels of a title of four letters."""
_BOX, _INK = 20.0, 245.0


def title_box(title: Title, size: int) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom) of a title in pixels; right and bottom are outside."""
    bottom = size
    return title.left, bottom - TITLE_HEIGHT, title.left + TITLE_WIDTH, bottom


@lru_cache(maxsize=64)
def title_picture(word: str) -> NDArray[np.float32]:
    """[TITLE_HEIGHT, TITLE_WIDTH, 1] float32: white letters on a dark box."""
    picture = np.full((TITLE_HEIGHT, TITLE_WIDTH, 1), _BOX, np.float32)
    for number, letter in enumerate(word):
        dots = np.array([[bit == "1" for bit in row] for row in _GLYPHS[letter].split()])
        dots = dots.repeat(_DOT, axis=0).repeat(_DOT, axis=1)
        left = _EDGE + number * _LETTER
        picture[_EDGE : _EDGE + 7 * _DOT, left : left + 5 * _DOT][dots] = _INK
    return picture
