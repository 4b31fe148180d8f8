"""Recipes of the controlled benchmark: one YAML file describes one table.

name: training-free
title: All methods on one backbone without training
about: what the table is for
protocol: training-free        # or trained: the backbone is fine-tuned under each method first
backbone: neutral              # or nano, wide, wide-qwen3: the bundled checkpoint that answers
settings: [base]               # settings of the generated world; `base fps=4 noise=0.5` changes how clips are read
split: test                    # or validation, for choosing between methods; test if left out
clips: 2000                    # clips per setting
retain: [0.5, 0.25, [0.25, 1]] # fraction kept of both modalities, or of video and audio
seeds: [0]                     # for methods that draw at random; others run once
train: {steps: 150}            # only with protocol trained
rows:
  - {method: omnisift, selector: cross-time}
  - {method: evs}
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, make_compressor, resolve_method
from omnisift.config import parse_yaml
from omnisift.errors import OmniSiftError, UsageError
from omnisift.evaluation.tables import ALL_TOKENS
from omnisift.lab.benchmark.condition import Condition
from omnisift.training.curriculum import check_start
from omnisift.training.losses import ANSWERS, LOSSES
from omnisift.utils.parsing import check_path_name, is_text, read_text, shown
from omnisift.utils.suggest import check_choice, did_you_mean
from omnisift.world import SPLITS

PROTOCOLS = ("training-free", "trained")
_LARGEST = 2**31 - 1
ONLY = ("video", "audio", "question")
BACKBONES = ("neutral", "nano", "wide", "wide-qwen3")
"""Bundled checkpoints; the results page compares methods on the first."""
_ENTRIES = frozenset(
    {"name", "title", "about", "protocol", "backbone", "settings", "split", "clips", "retain", "seeds", "train", "rows"}
)


@dataclass(frozen=True)
class MethodSpec:
    """One method as a recipe names it."""

    method: str
    """As `omnisift.compressors.make_compressor` takes it; empty for all tokens."""
    selector: str | None = None
    """Name of the selector, for methods that have one: a folder of the backbone, or a variant that is distilled."""
    label: str = ""
    """Name in tables."""
    group: str = ""
    """Heading under which a table puts it."""
    straight_through: bool = False
    """Whether selector and language model are trained together by the paper's estimator (protocol ``trained`` only)."""
    shuffled_video: bool = False
    """Whether audio is selected by the video of another clip: a control for guidance by video."""
    loss: str = ANSWERS
    """What the language model learns, one of `LOSSES` (protocol ``trained`` only)."""
    retain_start: float | None = None
    """Fraction of the tokens kept in the first training step, from which it falls to the row's over the first half of
    the steps; None trains with the row's fraction throughout (protocol ``trained`` only)."""
    only: str = ""
    """A baseline instead of a method: ``video``, ``audio``, or ``question`` for a prompt without the clip."""

    @property
    def draws(self) -> bool:
        """Whether the method depends on a seed."""
        names = [part.partition(":")[0].strip() for part in self.method.split("+")]
        known = [COMPRESSORS[name] for name in names if name in COMPRESSORS]
        return any("seed" in inspect.signature(method).parameters for method in known)


@dataclass(frozen=True)
class RecipeRow:
    """One row of a result: a method, a setting, a budget and a seed."""

    method: MethodSpec
    setting: str
    video: float
    """Fraction of video tokens to keep."""
    audio: float
    """Fraction of audio tokens to keep."""
    seed: int

    @property
    def key(self) -> str:
        """Name that is unique in a result file: ``base/evs@25`` or ``base/random@25/100#1``."""
        if not (self.method.method or self.method.only):
            return f"{self.setting}/{ALL_TOKENS}"
        seed = f"#{self.seed}" if self.method.draws else ""
        return f"{self.setting}/{self.method.label}@{percent(self.video, self.audio)}{seed}"

    @property
    def budget(self) -> Budget:
        """The fractions kept."""
        return Budget(retain_video=self.video, retain_audio=self.audio)


@dataclass(frozen=True)
class Recipe:
    """Everything that defines one table."""

    name: str
    title: str
    about: str
    protocol: str
    settings: tuple[str, ...]
    clips: int
    retain: tuple[tuple[float, float], ...]
    """Fractions of video and audio tokens to keep."""
    seeds: tuple[int, ...]
    methods: tuple[MethodSpec, ...]
    backbone: str = BACKBONES[0]
    """Name of the bundled checkpoint that answers."""
    train: Mapping[str, Any] = field(default_factory=dict)
    split: str = SPLITS[-1]
    """Split of the clips: test, or validation for choosing between methods."""

    def rows(self) -> Iterator[RecipeRow]:
        """Yield every row to measure, setting by setting, all tokens first."""
        full = MethodSpec("", label=ALL_TOKENS)
        for setting in self.settings:
            yield RecipeRow(full, setting, 1.0, 1.0, self.seeds[0])
            for video, audio in self.retain:
                for method in self.methods:
                    for seed in self.seeds if method.draws else self.seeds[:1]:
                        yield RecipeRow(method, setting, video, audio, seed)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the head of a result file, where the methods are stored as ``ways``."""
        data = asdict(self)
        data["ways"] = data.pop("methods")
        # Files older than these entries lack them, so they are stored only where they are set.
        if self.backbone == BACKBONES[0]:
            del data["backbone"]
        for way in data["ways"]:
            for name in ("shuffled_video", "only", "loss", "retain_start"):
                if way[name] == getattr(MethodSpec, name):
                    del way[name]
        return data


def load_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        UsageError: The file is missing, or an entry is missing, unknown or of the wrong type.
    """
    advice = "see recipes/training-free.yaml for the format"
    check_path_name(str(path), "the recipe")
    if not path.is_file():
        raise UsageError(f"no recipe at {path}: give a YAML file such as recipes/training-free.yaml")
    data = parse_yaml(read_text(path, "the recipe"), str(path))
    try:
        recipe = parse_recipe(data)
        _check_methods(recipe)
    except OmniSiftError as error:
        raise type(error)(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is not a recipe ({reason}): {advice}") from error
    return recipe


def _check_methods(recipe: Recipe) -> None:
    """Make every method once, with a small selector where it names one, so that wrong names are found at once."""
    from omnisift.vgas import VGAS, VGASConfig

    selector = VGAS(VGASConfig(input_size=16, hidden_size=16, num_attention_heads=2))
    for spec in recipe.methods:
        if spec.method:
            if resolve_method(spec.method)[1]:
                raise UsageError(f"a row names a method, got {spec.method!r}, which may change: name it")
            make_compressor(spec.method, Budget(retain=0.5), selector=selector if spec.selector else None)


def parse_recipe(data: Mapping[str, Any]) -> Recipe:
    """Build a recipe from the data of a YAML file.

    Raises:
        UsageError: An entry is unknown, or is none of the words that it may be.
        ValueError: An entry has a wrong value.
        TypeError: ``data`` is not a mapping, or a value has the wrong type.
        KeyError: An entry is missing.
    """
    if not isinstance(data, Mapping):
        raise TypeError("it is not a mapping")
    _check_entries("entry", data, _ENTRIES)
    check_choice("protocol", data.get("protocol", PROTOCOLS[0]), PROTOCOLS)
    check_choice("backbone", data.get("backbone", BACKBONES[0]), BACKBONES)
    check_choice("split", data.get("split", SPLITS[-1]), SPLITS[1:])
    if not all(is_text(data.get(key, "")) for key in ("name", "title", "about")):
        raise TypeError("name, title and about are texts")
    if not 0 < len(data["name"]) < 200 or Path(data["name"]).name != data["name"] or data["name"].startswith("."):
        raise ValueError(f"name is that of the result file, without folders, got {shown(data['name'])}")
    settings = tuple(str(name) for name in _list(data, "settings", ["base"]))
    conditions = [Condition.parse(name) for name in settings]
    if len(set(conditions)) < len(conditions):
        raise ValueError("two settings are the same: leave one of them out")
    methods = tuple(_method(row) for row in _list(data, "rows"))
    labels = [method.label for method in methods]
    repeated = sorted(label for label in set(labels) if labels.count(label) > 1)
    if repeated:
        raise ValueError(f"two rows have the label {repeated[0]!r}: give one of them another label")
    retain = tuple(_fractions(entry) for entry in _list(data, "retain"))
    for method in methods:
        _check_training(method, data.get("protocol", PROTOCOLS[0]), retain)
    return Recipe(
        name=str(data["name"]),
        title=str(data["title"]),
        about=str(data.get("about", "")).strip(),
        protocol=data.get("protocol", PROTOCOLS[0]),
        settings=settings,
        clips=_integer("clips", data["clips"], 1),
        retain=retain,
        seeds=tuple(_integer("a seed", seed, 0) for seed in _list(data, "seeds", [0])),
        methods=methods,
        backbone=data.get("backbone", BACKBONES[0]),
        train=_training(data.get("train", {})),
        split=data.get("split", SPLITS[-1]),
    )


def _check_entries(what: str, data: Mapping[str, Any], known: Iterable[str]) -> None:
    unknown = sorted(map(str, data.keys() - set(known)))
    if unknown:
        raise UsageError(f"unknown {what} {shown(unknown[0])}; {did_you_mean(unknown[0], known)}")


def _list(data: Mapping[str, Any], key: str, default: list[Any] | None = None) -> list[Any]:
    value = data[key] if default is None else data.get(key, default)
    if not isinstance(value, list) or not value:
        raise TypeError(f"{key} is a list of at least one entry, got {shown(value)}")
    return value


def _integer(name: str, value: Any, low: int) -> int:
    if type(value) is not int or not low <= value <= _LARGEST:
        raise ValueError(f"{name} is an integer from {low} to {_LARGEST}, got {shown(value)}")
    return value


def _training(train: Any) -> dict[str, Any]:
    if not isinstance(train, Mapping):
        raise TypeError(f"train is {{steps: N}}, got {shown(train)}")
    _check_entries("key of train", train, ("steps",))
    if "steps" in train:
        _integer("steps of train", train["steps"], 1)
    return dict(train)


def _check_training(method: MethodSpec, protocol: str, retain: tuple[tuple[float, float], ...]) -> None:
    """Raise `UsageError` where the loss or the falling budget of a row can't be."""
    check_choice("loss", method.loss, LOSSES)
    if method.loss == ANSWERS and method.retain_start is None:
        return
    if protocol != PROTOCOLS[1] or method.straight_through or not method.method:
        raise UsageError(
            f"loss and retain_start of {method.label!r} need protocol trained, a method, and no straight_through"
        )
    if method.retain_start is not None:
        for video, audio in retain:
            check_start(method.retain_start, Budget(retain_video=video, retain_audio=audio))


def percent(video: float, audio: float) -> str:
    """Return ``25``, or ``25/100`` where the fractions of video and audio differ."""
    both = f"{100 * video:g}"
    return both if video == audio else f"{both}/{100 * audio:g}"


def _method(row: Mapping[str, Any]) -> MethodSpec:
    if not isinstance(row, Mapping):
        raise TypeError(f"a row is a mapping with the key method, got {shown(row)}")
    _check_entries("key of a row", row, [field.name for field in fields(MethodSpec)])
    check_choice("only", row.get("only", ""), ("", *ONLY))
    if row.get("only") and row.get("method"):
        raise ValueError("a row has a method or only, not both")
    name = "" if row.get("only") or row["method"] is None else row["method"]
    if not is_text(name):
        raise TypeError(f"method of a row is a text, got {shown(name)}")
    method = MethodSpec(**{**row, "method": name})
    if not all(is_text(value) for value in (method.label, method.group, method.selector or "")):
        raise TypeError("selector, label and group of a row are texts")
    if type(method.straight_through) is not bool or type(method.shuffled_video) is not bool:
        raise TypeError("straight_through and shuffled_video of a row are true or false")
    if method.retain_start is not None and type(method.retain_start) is not float:
        raise TypeError(f"retain_start of a row is a number below 1, got {shown(method.retain_start)}")
    if method.selector is not None and Path(method.selector).name != method.selector:
        raise ValueError(f"selector is a name without folders, got {shown(method.selector)}")
    if method.label:
        return method
    name = method.method or (f"{method.only} only" if method.only else ALL_TOKENS)
    label = name if method.selector is None else f"{name} ({method.selector})"
    return MethodSpec(**{**row, "method": method.method, "label": label})


def _fractions(entry: Any) -> tuple[float, float]:
    video, audio = entry if isinstance(entry, (list, tuple)) else (entry, entry)
    Budget(retain_video=float(video), retain_audio=float(audio))
    return float(video), float(audio)
