"""Vocabulary of questions, answers and captions, for a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omnisift.world.captions import CAPTION_REQUESTS
from omnisift.world.questions import ANSWERS, PHRASINGS, QUESTION_TYPES
from omnisift.world.words import COLOR_NAMES, NUMBERS, PLACES, SHAPES, SOUNDS

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|\d|[?.,]")


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words, single digits and the marks ``? . ,``; hyphenated words are not split."""
    return _WORD.findall(text.lower())


def vocabulary(types: Sequence[str] = QUESTION_TYPES) -> list[str]:
    """Return all words once, in a fixed order: answers, words of captions, then words of the phrasings.

    Args:
        types: Question types; ``WIDE_TYPES`` for the wide family.
    """
    digits = [str(digit) for digit in range(10)]
    words = [*COLOR_NAMES, *SHAPES, *SOUNDS, *PLACES, *NUMBERS, "yes", "no", *digits, "at", "with", ",", ".", "?"]
    words += [word for kind in types for word in ANSWERS[kind]]
    for kind in types:
        for phrasing in PHRASINGS[kind]:
            for spelling in ("color", "colour"):
                words += split_words(phrasing.format(x="", colour=spelling))
    words += ["first", "last"]
    words += [word for request in CAPTION_REQUESTS for word in split_words(request)]
    if "before" in types:
        words += ["or", "the"]
    return list(dict.fromkeys(words))
