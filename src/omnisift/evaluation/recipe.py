"""A recipe: one YAML file that says everything about one table, so that one command makes it again.

name: training-free
title: Every method on one backbone
about: what the table is for
protocol: training-free        # or trained: the backbone is fine-tuned under each method first
settings: [base]               # of the world
clips: 2000                    # test clips of each setting
retain: [0.5, 0.25, [0.25, 1]] # share kept of both modalities, or of picture and sound
seeds: [0]                     # for methods that draw; others run once
train: {steps: 150}            # only with protocol trained
rows:
  - {method: omnisift, selector: cross-time}
  - {method: evs}
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS
from omnisift.errors import UsageError
from omnisift.world import world_setting

PROTOCOLS = ("training-free", "trained")
FULL = "all tokens"
"""Label of the row that reads everything."""


@dataclass(frozen=True)
class MethodSpec:
    """One method as a recipe names it."""

    method: str
    """As `omnisift.compressors.make_compressor` takes it; empty for all tokens."""
    selector: str | None = None
    """Name of the selector, for methods that have one."""
    label: str = ""
    """What tables call it."""
    group: str = ""
    """Heading under which a table puts it."""
    straight_through: bool = False
    """Selector and language model are trained together by the paper's estimator (protocol ``trained`` only)."""

    @property
    def draws(self) -> bool:
        """Whether a seed matters."""
        names = [part.partition(":")[0].strip() for part in self.method.split("+")]
        known = [COMPRESSORS[name] for name in names if name in COMPRESSORS]
        return any("seed" in inspect.signature(method).parameters for method in known)


@dataclass(frozen=True)
class Row:
    """One cell of work and one row of a result: a way, a setting, a budget, a seed."""

    way: MethodSpec
    setting: str
    video: float
    audio: float
    seed: int

    @property
    def key(self) -> str:
        """Unique in a result: ``base/evs@25`` or ``base/random@25/100#1``."""
        if not self.way.method:
            return f"{self.setting}/{FULL}"
        seed = f"#{self.seed}" if self.way.draws else ""
        return f"{self.setting}/{self.way.label}@{percent(self.video, self.audio)}{seed}"

    @property
    def budget(self) -> Budget:
        """Shares kept."""
        return Budget(retain_video=self.video, retain_audio=self.audio)


@dataclass(frozen=True)
class Recipe:
    """A whole table."""

    name: str
    title: str
    about: str
    protocol: str
    settings: tuple[str, ...]
    clips: int
    retain: tuple[tuple[float, float], ...]
    seeds: tuple[int, ...]
    ways: tuple[MethodSpec, ...]
    train: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> Iterator[Row]:
        """Everything that must be measured, setting by setting; all tokens first."""
        full = MethodSpec("", label=FULL)
        for setting in self.settings:
            yield Row(full, setting, 1.0, 1.0, self.seeds[0])
            for video, audio in self.retain:
                for way in self.ways:
                    for seed in self.seeds if way.draws else self.seeds[:1]:
                        yield Row(way, setting, video, audio, seed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for the head of a result."""
        return asdict(self)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. `UsageError` in one line for anything that is missing, unknown or of the wrong kind."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"no recipe at {path}: give a YAML file, as recipes/training-free.yaml") from error
    try:
        return parse_recipe(yaml.safe_load(text))
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        what = " ".join(str(error).split())
        raise UsageError(f"{path} is no recipe ({what}): compare recipes/training-free.yaml") from error


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """From the YAML's data. Raises `ValueError`, `TypeError` or `KeyError` for what is not a recipe."""
    if not isinstance(data, Mapping):
        raise TypeError("it holds no names")
    unknown = sorted(data.keys() - {*Recipe.__dataclass_fields__, "rows"} - {"ways"})
    if unknown:
        raise ValueError(f"unknown entry {unknown[0]!r}")
    if data.get("protocol", PROTOCOLS[0]) not in PROTOCOLS:
        raise ValueError(f"protocol is {' or '.join(PROTOCOLS)}, got {data['protocol']!r}")
    settings = tuple(str(name) for name in data.get("settings", ["base"]))
    for name in settings:
        world_setting(name)
    ways = tuple(_way(row) for row in data["rows"])
    labels = [way.label for way in ways]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise ValueError(f"two rows are called {sorted(twice)[0]!r}: give one a label")
    return Recipe(
        name=str(data["name"]),
        title=str(data["title"]),
        about=str(data.get("about", "")).strip(),
        protocol=data.get("protocol", PROTOCOLS[0]),
        settings=settings,
        clips=int(data["clips"]),
        retain=tuple(_pair(entry) for entry in data["retain"]),
        seeds=tuple(int(seed) for seed in data.get("seeds", [0])),
        ways=ways,
        train=dict(data.get("train", {})),
    )


def percent(video: float, audio: float) -> str:
    """``25``, or ``25/100`` for picture and sound."""
    both = f"{100 * video:g}"
    return both if video == audio else f"{both}/{100 * audio:g}"


def _way(row: Mapping[str, Any]) -> MethodSpec:
    way = MethodSpec(**{**row, "method": str(row["method"] or "")})
    if way.label:
        return way
    named = way.method or FULL
    return MethodSpec(
        **{**row, "method": way.method, "label": named if way.selector is None else f"{named} ({way.selector})"}
    )


def _pair(entry: Any) -> tuple[float, float]:
    video, audio = entry if isinstance(entry, (list, tuple)) else (entry, entry)
    Budget(retain_video=float(video), retain_audio=float(audio))
    return float(video), float(audio)
