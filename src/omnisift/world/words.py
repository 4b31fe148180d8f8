"""Words of the generated world; class numbers follow their order."""

from __future__ import annotations

from types import MappingProxyType

COLORS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "red": (220, 40, 40),
        "green": (40, 200, 60),
        "blue": (50, 70, 230),
        "yellow": (230, 220, 40),
        "magenta": (220, 50, 210),
        "cyan": (40, 210, 220),
    }
)
"""Colour -> mean RGB, 0..255; each shape has the mean plus a small random shift."""
COLOR_NAMES: tuple[str, ...] = tuple(COLORS)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
SOUNDS: tuple[str, ...] = ("hum", "beep", "whistle", "rise", "fall", "hiss", "buzz", "trill")
"""Kinds of sound; ``rise`` and ``fall`` are tones whose pitch glides up or down."""
WORDS: tuple[str, ...] = ("open", "exit", "taxi", "cafe", "sale", "park", "bank", "news")
"""Words that are spoken or written in clips of the wide family."""
PLACES: tuple[str, ...] = ("top-left", "top-right", "bottom-left", "bottom-right")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
