"""The methods, by name. One file per method; none of them knows a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omnisift.budget import Budget
from omnisift.compressors.attended import AttendedCompressor
from omnisift.compressors.base import Compressor, ScoredCompressor
from omnisift.compressors.divprune import DivPruneCompressor
from omnisift.compressors.dycoke import DyCokeCompressor
from omnisift.compressors.evs import EvsCompressor
from omnisift.compressors.groups import Groups, Scope, group
from omnisift.compressors.joint import JointCompressor
from omnisift.compressors.omnipack import OmniPackCompressor
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.compressors.omnizip import OmniZipCompressor
from omnisift.compressors.paired import Paired, ScoredVideoCompressor, VideoCompressor
from omnisift.compressors.random import RandomCompressor
from omnisift.compressors.routed import RoutedCompressor
from omnisift.compressors.salient import SalientCompressor
from omnisift.compressors.seats import SeatsCompressor
from omnisift.compressors.spec import build
from omnisift.compressors.stvp import StvpCompressor
from omnisift.compressors.tome import TomeCompressor
from omnisift.compressors.uniform import UniformCompressor
from omnisift.compressors.v_cast import VCastCompressor
from omnisift.compressors.vidcom2 import VidCom2Compressor
from omnisift.compressors.visionzip import VisionZipCompressor

if TYPE_CHECKING:
    from omnisift.vgas import VGAS

_METHODS: tuple[type[Compressor], ...] = (
    OmniSiftCompressor,
    RandomCompressor,
    UniformCompressor,
    SalientCompressor,
    StvpCompressor,
    DyCokeCompressor,
    EvsCompressor,
    VidCom2Compressor,
    VCastCompressor,
    DivPruneCompressor,
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
"""Name -> class of every method. A method of your own, put here by ``register``, can be named like these."""

__all__ = [
    "COMPRESSORS",
    "Compressor",
    "Groups",
    "Paired",
    "Scope",
    "ScoredCompressor",
    "ScoredVideoCompressor",
    "VideoCompressor",
    "group",
    "make_compressor",
    "needs_selector",
    "register",
]


def make_compressor(name: str, budget: Budget, *, selector: VGAS | None = None, seed: int = 0) -> Compressor:
    """Make a method by name: ``evs``, with options ``evs:mode=frame``, or paired ``stvp+random`` (picture, sound).

    ``selector`` is for methods that are trained, ``seed`` for those that draw; others ignore them.

    Raises `CompressorError` for an unknown name or option, or for a trained method without weights.
    """
    return build(name, budget, COMPRESSORS, selector, seed)


def needs_selector(name: str) -> bool:
    """Whether a method, named as for `make_compressor`, or a half of it has weights to be given. False if unknown."""
    parts = [part.partition(":")[0].strip() for part in name.split("+")]
    return any(COMPRESSORS[part].trained for part in parts if part in COMPRESSORS)


def register(method: type[Compressor]) -> type[Compressor]:
    """Class decorator: from now on `make_compressor` and the benchmark know ``method`` by its ``name``.

    Raises `ValueError` if the name is taken by another class.
    """
    if COMPRESSORS.setdefault(method.name, method) is not method:
        raise ValueError(f"a compressor named {method.name!r} exists already: choose another name")
    return method
