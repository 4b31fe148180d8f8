"""Suggestions for misspelt names: "did you mean 'v_cast'?"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from omnisift.errors import UsageError
from omnisift.utils.parsing import shown


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a user most likely meant.

    Case, dashes, underscores and spaces are ignored: ``V-CAST`` finds ``v_cast``.

    Args:
        name: the word as it was written.
        known: the valid names.

    Returns:
        The best match, or None if no name is close.
    """
    folded = {_fold(candidate): candidate for candidate in known}
    matches = difflib.get_close_matches(_fold(name), folded, n=1, cutoff=0.7)
    return folded[matches[0]] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return how an error message about an unknown name ends.

    Args:
        name: the word as it was written.
        known: the valid names.

    Returns:
        ``"did you mean 'x'?"`` if a name is close, else ``"known: a, b, c"``.
    """
    names = sorted(known)
    match = closest(name, names)
    return f"did you mean {match!r}?" if match is not None else f"known: {', '.join(names) or 'none'}"


def meant(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for a message that lists the known names already, or ``""`` if none is close."""
    match = closest(name, known) if isinstance(name, str) else None
    return "" if match is None else f"; did you mean {match!r}?"


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check an option that takes one of a few words.

    Args:
        name: the option, for the message.
        value: what was given.
        choices: the valid words.

    Raises:
        UsageError: the value is none of them.
    """
    words = list(choices)
    if value in words:
        return
    raise UsageError(f"{name} must be one of {', '.join(words)}, got {shown(value)}{meant(value, words)}")


def _fold(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
