"""The tokens that a prompt is built with, which the text of a user must not contain.

A tokenizer turns the name of such a token into the token wherever it stands, so that a question could end its own turn
and begin another one, or announce a clip that is not there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

_BRACKETS = re.compile(r"<.+>|\[.+\]|\{.+\}", re.DOTALL)
_IN_PASSING = re.compile(r"<\|(?:\w+_)?placeholder\|>")
"""Names that processors of Transformers write for media while they expand a prompt; no tokenizer knows them."""


class SpecialTokens:
    """The special tokens of a tokenizer.

    Ordinary words that a tokenizer lists among its tokens don't count: a special token that is a word or one character,
    such as a padding token ``!``, and an added token that is not in brackets. Added tokens in brackets that are not
    special, such as ``<think>``, are text that a model writes, so that answers may hold them.

    Args:
        special: tokens that no text may contain.
        written: tokens that answers alone may contain.
        media: those of ``special`` that stand for a clip.
        tokenizer: finds what becomes a token only after the tokenizer's normalisation; None looks at characters alone.
    """

    def __init__(
        self, special: Iterable[str], written: Iterable[str] = (), media: Iterable[str] = (), tokenizer: Any = None
    ) -> None:
        self.special = tuple(sorted({token for token in special if not _is_word(token)}))
        self.written = tuple(sorted({token for token in written if _BRACKETS.fullmatch(token)} - set(self.special)))
        self.media = frozenset(media)
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        """The special tokens of ``tokenizer``."""
        added = list(tokenizer.added_tokens_decoder.values())
        special = [*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)]
        media = [str(getattr(tokenizer, name, "") or "") for name in ("video_token", "audio_token", "image_token")]
        special += [token for token in media if token]
        return cls(special, [str(token) for token in added if not token.special], media, tokenizer)

    def find(self, text: str, is_answer: bool = False) -> str | None:
        """The first special token in ``text``; None if there is none.

        Args:
            text: the text of a user.
            is_answer: whether it is an answer to learn, which may hold tokens that a model writes.
        """
        tokens = self.special if is_answer else self._all
        match = _pattern(tokens).search(text) or _IN_PASSING.search(text)
        if match is not None:
            return match.group()
        if self._tokenizer is None or (text.isascii() and not any(token[0] in text for token in tokens)):
            return None
        # Normalisation can make a token of other characters.
        names = {self._tokenizer.convert_tokens_to_ids(token): token for token in tokens}
        names.pop(self._tokenizer.unk_token_id, None)  # any unknown word becomes this one
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return next((names[number] for number in ids if number in names), None)

    def may_join(self, text: str) -> bool:
        """Whether ``text`` is, begins or ends with a part of a special token, which its neighbours could complete."""
        beginnings, ends = _edges(self._all)
        text = text.strip()
        is_inside = any(text in token for token in self._all)
        return is_inside or any(map(text.endswith, beginnings)) or any(map(text.startswith, ends))

    def counts(self, prompt: str) -> Counter[str]:
        """How often each special token occurs in a rendered prompt."""
        return Counter(_pattern(self._all).findall(prompt))

    @property
    def _all(self) -> tuple[str, ...]:
        return (*self.special, *self.written)


def _is_word(token: str) -> bool:
    return token.isalnum() or len(token.strip()) <= 1


@lru_cache(maxsize=64)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


@lru_cache(maxsize=64)
def _edges(tokens: tuple[str, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """Proper beginnings and ends of the tokens."""
    cuts = [(token[:cut], token[cut:]) for token in tokens for cut in range(1, len(token))]
    return frozenset(begin for begin, _ in cuts), frozenset(end for _, end in cuts)
