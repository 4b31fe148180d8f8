"""Every word that a question, an answer or a caption of the world can hold, for a tokenizer."""

from __future__ import annotations

import re

from omnisift.world.captions import CAPTION_REQUESTS
from omnisift.world.questions import ANSWERS, PHRASINGS
from omnisift.world.words import COLOR_NAMES, NUMBERS, PLACES, SHAPES, SOUNDS

_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*|\d|[?.,]")


def split_words(text: str) -> list[str]:
    """Lower-case words, single digits and the marks ``? . ,``; a hyphenated word stays whole."""
    return _WORD.findall(text.lower())


def vocabulary() -> list[str]:
    """All words in a fixed order, without repeats: answers, caption words, then the words of the phrasings."""
    digits = [str(digit) for digit in range(10)]
    words = [*COLOR_NAMES, *SHAPES, *SOUNDS, *PLACES, *NUMBERS, "yes", "no", *digits, "at", "with", ",", ".", "?"]
    words += [word for answers in ANSWERS.values() for word in answers]
    for ways in PHRASINGS.values():
        for way in ways:
            for spelling in ("color", "colour"):
                words += split_words(way.format(x="", colour=spelling))
    words += ["first", "last"]
    words += [word for request in CAPTION_REQUESTS for word in split_words(request)]
    return list(dict.fromkeys(words))
