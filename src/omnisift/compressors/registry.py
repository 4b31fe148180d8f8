"""Methods by name: ``evs``, with options ``evs:mode=frame``, or paired ``stvp+random``; and the default, ``auto``.

Options follow a colon, separated by commas. A plus takes the video tokens of the first method and the audio tokens of
the second.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from omnisift.budget import Budget
from omnisift.compressors.a_pack import APackCompressor
from omnisift.compressors.attended import AttendedCompressor
from omnisift.compressors.base import Compressor
from omnisift.compressors.divprune import DivPruneCompressor
from omnisift.compressors.dycoke import DyCokeCompressor
from omnisift.compressors.evs import EvsCompressor
from omnisift.compressors.gleanvid import GleanVidCompressor
from omnisift.compressors.joint import JointCompressor
from omnisift.compressors.omnifocus import OmniFocusCompressor
from omnisift.compressors.omnipack import OmniPackCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.omnizip import OmniZipCompressor
from omnisift.compressors.paired import Paired, VideoCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.compressors.routed import RoutedCompressor
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.seats import SeatsCompressor
from omnisift.compressors.stvp import StvpCompressor
from omnisift.compressors.tome import TomeCompressor
from omnisift.compressors.uniform import UniformCompressor
from omnisift.compressors.v_cast import VCastCompressor
from omnisift.compressors.vidcom2 import VidCom2Compressor
from omnisift.compressors.visionzip import VisionZipCompressor
from omnisift.errors import CompressorError, UsageError
from omnisift.utils.names import AUTO
from omnisift.utils.parsing import shown
from omnisift.utils.suggest import closest, did_you_mean

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

_METHODS: tuple[type[Compressor], ...] = (
    OmniSiftCompressor,
    ReSiftCompressor,
    RandomCompressor,
    UniformCompressor,
    SalientCompressor,
    StvpCompressor,
    DyCokeCompressor,
    EvsCompressor,
    VidCom2Compressor,
    VCastCompressor,
    GleanVidCompressor,
    APackCompressor,
    DivPruneCompressor,
    OmniFocusCompressor,
    OmniPackCompressor,
    TomeCompressor,
    OmniZipCompressor,
    VisionZipCompressor,
    SeatsCompressor,
    AttendedCompressor,
    RoutedCompressor,
    JointCompressor,
)

COMPRESSORS: dict[str, type[Compressor]] = {method.name: method for method in _METHODS}
"""Name -> class of every method. `register` adds to it."""

DEFAULT = ReSiftCompressor.name
"""The default method, for which `AUTO` stands."""
TRAINED = OmniSiftCompressor.name
"""The default method where there is a selector: a model that was trained for it, or weights that the user gave."""
FULL = "full"
"""The name for "all tokens", in place of a method's."""
_FULL_NAMES = frozenset({FULL, "none", "all tokens"})
"""Spellings of `FULL` that are understood; older recipes and result files contain the others."""
_NOT_OPTIONS = {"self", "budget", "selector", "seed", "audio", "score_dtype"}
"""Constructor arguments that can't be given as text."""


def reads_clip_only(compressor: Compressor) -> bool:
    """Whether what a method keeps is the same for every question about a clip (`Compressor.clip_only`)."""
    parts = [part for part in compressor.modules() if isinstance(part, Compressor)]
    tracks = all(track.clip_only for part in parts for track in part.tracks)
    return tracks and all(type(part) in (Paired, *_METHODS) or type(part).clip_only for part in parts)


def resolve_method(
    name: str, *, selector: object = None, has_selector: Callable[[], bool] = lambda: False
) -> tuple[str, str]:
    """Replace the name ``auto`` by that of the default method; every other name stays as it is.

    Args:
        name: as `make_compressor` takes it.
        selector: the selector that was given, or its folder; None if none was given.
        has_selector: whether the model's checkpoint has a selector, so that the model was trained for `TRAINED`.

    Returns:
        The method, and why it was chosen, for reports: empty if it was named.

    Raises:
        CompressorError: ``auto`` has options or is part of a pair.
    """
    parts = [part.partition(":")[0].strip() for part in name.split("+")]
    if AUTO not in parts:
        return name, ""
    if name.strip() != AUTO:
        raise CompressorError(
            f"{AUTO!r} is the default method and takes no options and no partner, got {shown(name)}: name the method, "
            f"for example {DEFAULT}"
        )
    if selector is not None:
        return TRAINED, "default: a selector was given"
    if has_selector():
        return TRAINED, "default: the checkpoint has an OmniSIFT selector"
    return DEFAULT, "default"


def check_named(name: str) -> None:
    """Check that training names its method: what ``auto`` stands for depends on the model's selector, which it makes.

    Raises:
        UsageError: the name is ``auto``.
    """
    if resolve_method(name)[0] != name:
        raise UsageError(f"training needs the name of a method, got compressor {AUTO!r}: leave it out for {TRAINED}")


def make_compressor(name: str, budget: Budget | float, *, selector: VGAS | None = None, seed: int = 0) -> Compressor:
    """Make a method by name.

    Args:
        name: a method's name, with options after a colon (``evs:mode=frame``), or a pair of methods for video and
            audio (``stvp+random``); ``auto`` makes ``omnisift`` if there is a selector, and ``resift`` otherwise.
        budget: the fraction of tokens kept; a number is the overall ratio.
        selector: weights for trained methods; other methods ignore it.
        seed: seed of methods that sample; other methods ignore it.

    Returns:
        The compressor, in training mode as any new module; call ``.eval()`` for inference.

    Raises:
        CompressorError: a name, an option or its value is unknown, or a trained method has no weights.
        BudgetError: the number is outside (0, 1].
        UsageError: the seed is no integer of 64 bits.
    """
    budget = Budget.of(budget)
    if not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise UsageError(f"seed must be an integer from -2^63 to 2^63 - 1, got {seed!s:.40}")
    automatic = {"selector": selector, "seed": seed}
    name, reason = resolve_method(name, selector=selector)
    first, plus, second = name.strip().partition("+")
    if not plus:
        made = _make_one(first, budget, automatic)
        made.reason = reason
        return made
    if "+" in second:
        raise CompressorError(f"{name!r} pairs more than two methods: give one for video and one for audio")
    video, audio = _make_one(first, budget, automatic), _make_one(second, budget, automatic)
    if isinstance(audio, VideoCompressor):
        raise CompressorError(
            f"{audio.name!r} selects video tokens only: put a method for both modalities after the plus"
        )
    if isinstance(video, VideoCompressor):
        return _make_one(first, budget, automatic | {"audio": audio})
    return Paired(video, audio)


def reads_all_tokens(name: str | None) -> bool:
    """Return whether ``name`` stands for no compression: None, ``full`` or ``none``, in any case."""
    return name is None or name.strip().casefold() in _FULL_NAMES


def needs_selector(name: str) -> bool:
    """Return whether a method, named as for `make_compressor`, needs selector weights; False for unknown names."""
    parts = [part.partition(":")[0].strip() for part in name.split("+")]
    return any(COMPRESSORS[part].trained for part in parts if part in COMPRESSORS)


def check_selector(selector: object, *names: str) -> None:
    """Check that one of the methods takes the selector that was given; unknown names are accepted here.

    Args:
        selector: a folder or a selector; None if none was given.
        names: methods, named as for `make_compressor`.

    Raises:
        UsageError: a selector was given, and none of the methods takes one.
    """
    parts = [part.partition(":")[0].strip() for name in names for part in name.split("+")]
    untrained = [reads_all_tokens(part) or (part in COMPRESSORS and not COMPRESSORS[part].trained) for part in parts]
    if selector is not None and all(untrained):
        methods = ", ".join(map(repr, names))
        raise UsageError(f"a selector was given, but {methods} takes none: leave selector out, or choose omnisift")


def register(method: type[Compressor]) -> type[Compressor]:
    """Add a method to `COMPRESSORS`; use it as a class decorator.

    Args:
        method: a concrete compressor class with a ``name``.

    Returns:
        ``method`` itself.

    Raises:
        ValueError: another class has the name.
    """
    if COMPRESSORS.setdefault(method.name, method) is not method:
        raise ValueError(f"a compressor named {method.name!r} exists already: choose another name")
    return method


def parse_options(text: str) -> dict[str, Any]:
    """Parse the options of one method.

    Args:
        text: ``name:option=value,option=value``.

    Returns:
        Option -> int, float, bool or str, whichever the value looks like.

    Raises:
        CompressorError: an option is not written ``name=value``, or is given twice.
    """
    _, colon, rest = text.strip().partition(":")
    options = {}
    for item in rest.split(",") if colon else []:
        option, equals, value = (part.strip() for part in item.partition("="))
        if not equals or not option or not value:
            raise CompressorError(f"an option is written name=value, got {item!r} in {text!r}")
        if option in options:
            raise CompressorError(f"option {option!r} is given twice in {text!r}: give it once")
        options[option] = _value(value)
    return options


def _make_one(text: str, budget: Budget, automatic: Mapping[str, Any]) -> Compressor:
    """Make one method from ``name:options``; of ``automatic`` it gets the arguments that its constructor has."""
    method = _find(text.partition(":")[0].strip())
    if method.trained and automatic["selector"] is None:
        raise CompressorError(
            f"compressor {method.name!r} needs selector weights and none were given: "
            "name a checkpoint that has them, or choose a training-free compressor such as stvp or random"
        )
    accepted = inspect.signature(method).parameters
    options, known = parse_options(text), sorted(accepted.keys() - _NOT_OPTIONS)
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise CompressorError(
            f"compressor {method.name!r} has no option {unknown[0]!r}; {did_you_mean(unknown[0], known)}"
        )
    return method(budget, **{key: value for key, value in automatic.items() if key in accepted}, **options)


def _find(name: str) -> type[Compressor]:
    if name in COMPRESSORS:
        return COMPRESSORS[name]
    if reads_all_tokens(name):
        raise CompressorError(f"{name!r} compresses nothing and can't be made or paired: pass compressor=None")
    more = " (`omnisift methods` lists all)" if closest(name, COMPRESSORS) else ""
    raise CompressorError(f"no compressor named {shown(name)}; {did_you_mean(name, COMPRESSORS)}{more}")


def _value(text: str) -> Any:
    """``text`` as a bool or number where it looks like one."""
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if text.lstrip("+-").isdigit() else float(text)
    except ValueError:
        return text
