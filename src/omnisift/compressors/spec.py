"""Methods by name: ``evs``, ``evs:mode=frame``, ``stvp+random``, ``random+omnisift``.

A method's options follow a colon, separated by commas; a plus pairs the picture's half of the first method with the
sound's half of the second.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from omnisift.budget import Budget
from omnisift.compressors.base import Compressor
from omnisift.compressors.paired import Paired, VideoCompressor
from omnisift.errors import CompressorError

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

_GIVEN = {"self", "budget", "selector", "seed", "audio", "score_dtype"}
"""Arguments of a constructor that are no options of the text."""


def build(
    text: str, budget: Budget, known: Mapping[str, type[Compressor]], selector: VGAS | None = None, seed: int = 0
) -> Compressor:
    """Make the method that ``text`` names. Raises `CompressorError` for what it does not know."""
    first, plus, second = text.strip().partition("+")
    given = {"selector": selector, "seed": seed}
    if not plus:
        return _one(first, budget, known, given)
    if "+" in second:
        raise CompressorError(f"{text!r} pairs more than two methods: give one for the picture, one for the sound")
    video, audio = _one(first, budget, known, given), _one(second, budget, known, given)
    if isinstance(audio, VideoCompressor):
        raise CompressorError(f"{audio.name!r} chooses no sound: give a method for both modalities behind the plus")
    if isinstance(video, VideoCompressor):
        return _one(first, budget, known, given | {"audio": audio})
    return Paired(video, audio)


def options(text: str) -> dict[str, Any]:
    """The options of one method: numbers and truth values where they look like ones, else text."""
    _, colon, rest = text.strip().partition(":")
    found = {}
    for item in rest.split(",") if colon else []:
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not name or not value:
            raise CompressorError(f"an option is written name=value, got {item!r} in {text!r}")
        if name in found:
            raise CompressorError(f"option {name!r} stands twice in {text!r}: give it once")
        found[name] = _value(value)
    return found


def _one(text: str, budget: Budget, known: Mapping[str, type[Compressor]], automatic: Mapping[str, Any]) -> Compressor:
    name = text.partition(":")[0].strip()
    if name not in known:
        raise CompressorError(f"no compressor named {name!r}; known: {', '.join(sorted(known))}")
    method = known[name]
    if method.trained and automatic["selector"] is None:
        raise CompressorError(
            f"compressor {name!r} needs selector weights and none were given: "
            "name a checkpoint that has them, or choose a training-free compressor, as stvp or random"
        )
    accepted = inspect.signature(method).parameters
    given = options(text)
    unknown = sorted(given.keys() - (accepted.keys() - _GIVEN))
    if unknown:
        has = ", ".join(sorted(accepted.keys() - _GIVEN)) or "none"
        raise CompressorError(f"compressor {name!r} has no option {unknown[0]!r}; it has: {has}")
    return method(budget, **{key: value for key, value in automatic.items() if key in accepted}, **given)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text
