"""English questions on a scene, each with a one-word answer and the events that prove it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from omnisift.errors import UsageError
from omnisift.utils.suggest import meant
from omnisift.world.config import SceneConfig
from omnisift.world.scene import Scene
from omnisift.world.words import COLOR_NAMES, NUMBERS, PLACES, SHAPES, SOUNDS, WORDS

QUESTION_TYPES: tuple[str, ...] = (
    "color_of_shape",
    "shape_of_color",
    "place",
    "heard",
    "sound_with",
    "color_with_sound",
    "count",
    "order",
)
"""Types of the first family."""
WIDE_TYPES: tuple[str, ...] = (*QUESTION_TYPES, "written", "said", "before")
"""Types of the wide family."""
FOLLOWED: tuple[str, ...] = ("follows_video", "follows_audio", "said_as_written", "written_as_said")
"""Types of clips with a conflict, whose accuracies are shares of answers: one question that names no sense, with the
answer of either; and the questions of ``written`` and ``said`` with the answer of the other sense."""

_WIDE_PHRASINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "color_of_shape": (
            "What {colour} is the {x}?",
            "What is the {colour} of the {x}?",
            "Which {colour} does the {x} have?",
            "Which {colour} is the {x}?",
            "What {colour} was the {x}?",
        ),
        "shape_of_color": (
            "What shape is {x}?",
            "Which shape is {x}?",
            "What is the {x} shape?",
            "What shape is the {x} object?",
            "What is the shape of the {x} object?",
        ),
        "place": (
            "Where is the {x}?",
            "Where do you see the {x}?",
            "Where does the {x} appear?",
            "In which corner is the {x}?",
            "Which corner shows the {x}?",
        ),
        "heard": (
            "Is a {x} heard?",
            "Is there a {x}?",
            "Do you hear a {x}?",
            "Can you hear a {x}?",
            "Is there the sound of a {x}?",
        ),
        "sound_with": (
            "Which sound goes with the {x}?",
            "What sound does the {x} make?",
            "Which sound comes with the {x}?",
            "What is heard with the {x}?",
            "What do you hear while you see the {x}?",
        ),
        "color_with_sound": (
            "Which {colour} goes with the {x}?",
            "What {colour} comes with the {x}?",
            "What {colour} is seen with the {x}?",
            "What {colour} do you see while you hear the {x}?",
            "Which {colour} is the shape that makes the {x}?",
        ),
        "count": (
            "How many shapes are there?",
            "How many shapes appear?",
            "How many objects do you see?",
            "How many different shapes are seen?",
            "What is the number of shapes?",
        ),
        "order": (
            "What {colour} is the {x} shape?",
            "What is the {colour} of the {x} shape?",
            "Which {colour} comes {x}?",
            "Which {colour} appears {x}?",
            "What {colour} do you see {x}?",
        ),
        "written": (
            "What word is written?",
            "Which word is written in the picture?",
            "Which word do you see?",
            "What word is shown in the video?",
            "What does the caption show?",
        ),
        "said": (
            "What word is said?",
            "Which word is said in the video?",
            "Which word do you hear?",
            "What word is heard in the clip?",
            "What does the voice say?",
        ),
        "before": (
            "Which comes {x}?",
            "Which appears {x}?",
            "Which do you see {x}?",
            "Which shape comes {x}?",
            "What is shown {x}?",
        ),
    }
)
_NEUTRAL = ("What word?", "Which word?", "What word is in the video?", "Which word is in the video?")
"""Of words that the phrasings of ``written`` and ``said`` have equally often, so that none points at a sense."""
PHRASINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        **_WIDE_PHRASINGS,
        "follows_video": _NEUTRAL,
        "follows_audio": _NEUTRAL,
        "said_as_written": _WIDE_PHRASINGS["written"],
        "written_as_said": _WIDE_PHRASINGS["said"],
    }
)
"""Type -> phrasings. ``{x}`` is what the question is about; ``{colour}`` becomes ``color`` or ``colour``."""


@dataclass(frozen=True)
class Question:
    """One question with its answer and its evidence, the events that a model must see or hear to answer."""

    type: str
    text: str
    answer: str
    """One lower-case word."""
    argument: str | None
    """Word of the text for what the question is about; None for ``count``."""
    shapes: tuple[int, ...] = ()
    """Evidence: indices of ``scene.shapes``, followed by ``scene.titles``; all are needed."""
    sounds: tuple[int, ...] = ()
    """Evidence: indices of ``scene.sounds``; all are needed, except for ``heard``, where any of them proves a yes."""


def questions(
    scene: Scene,
    rng: np.random.Generator,
    types: Sequence[str] | Mapping[str, float] | None = None,
    n: int | None = None,
) -> list[Question]:
    """Make questions on a scene.

    Args:
        scene: The scene.
        rng: Random numbers of the questions.
        types: Question types, or type -> weight; None means all types that fit the scene (`possible_types`).
        n: Number of questions, with types drawn from ``types`` evenly or by weight; None makes one of each type.

    Raises:
        UsageError: A type is unknown or does not fit the scene.
    """
    names = list(possible_types(scene.config) if types is None else types)
    unknown = [name for name in names if name not in PHRASINGS]
    if unknown:
        listed = f"{', '.join(PHRASINGS)}{meant(unknown[0], PHRASINGS)}"
        raise UsageError(f"unknown question type {unknown[0]!r}; known: {listed}")
    if n is not None:
        weights = np.array([types[name] for name in names] if isinstance(types, Mapping) else [1.0] * len(names))
        names = [names[int(i)] for i in rng.choice(len(names), size=n, p=weights / weights.sum())]
    return [make_question(scene, name, rng) for name in names]


def possible_types(config: SceneConfig) -> tuple[str, ...]:
    """Return the question types that fit clips of a configuration: none on shapes or sounds that do not occur."""
    types = QUESTION_TYPES if config.wide is None else WIDE_TYPES
    if config.conflict:
        types += FOLLOWED
    excluded = set() if config.sound else {"heard", "sound_with", "color_with_sound", "said"}
    if config.shapes[1] == 0:
        excluded |= set(QUESTION_TYPES) - {"heard"}
    if config.shapes[0] < 2:
        excluded |= {"before"}
    return tuple(name for name in types if name not in excluded)


def make_question(scene: Scene, type: str, rng: np.random.Generator) -> Question:
    """Make one question of a type, on a random part of the scene, in a random phrasing and spelling.

    Raises:
        UsageError: The type does not fit the scene.
    """
    if type not in possible_types(scene.config):
        known = ", ".join(possible_types(scene.config)) or "nothing"
        raise UsageError(f"questions of type {type!r} do not fit this clip; possible types: {known}")
    phrase, argument, answer, shapes, sounds = _MAKERS[type](scene, rng)
    # With a conflict, types that share a question share its text on a clip.
    count = len(PHRASINGS[type])
    phrasing = PHRASINGS[type][scene.seed % count if scene.config.conflict else int(rng.integers(count))]
    spelling = ("color", "colour")[int(rng.integers(2))]
    return Question(type, phrasing.format(x=phrase, colour=spelling), answer, argument, shapes, sounds)


_Made = tuple[str, "str | None", str, tuple[int, ...], tuple[int, ...]]
"""(phrase in the text, its key word, answer, evidence shapes, evidence sounds)."""


def _any_shape(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.shapes)))


def _named(scene: Scene, index: int, rng: np.random.Generator) -> tuple[str, str]:
    """(phrase, key word) of a shape, by its form (``circle``) or by its colour (``red shape``)."""
    shape = scene.shapes[index]
    return (shape.form, shape.form) if rng.random() < 0.5 else (f"{shape.color} shape", shape.color)


def _color_of_shape(scene: Scene, rng: np.random.Generator) -> _Made:
    i = _any_shape(scene, rng)
    return scene.shapes[i].form, scene.shapes[i].form, scene.shapes[i].color, (i,), ()


def _shape_of_color(scene: Scene, rng: np.random.Generator) -> _Made:
    i = _any_shape(scene, rng)
    return scene.shapes[i].color, scene.shapes[i].color, scene.shapes[i].form, (i,), ()


def _place(scene: Scene, rng: np.random.Generator) -> _Made:
    i = _any_shape(scene, rng)
    return *_named(scene, i, rng), scene.shapes[i].place, (i,), ()


def _heard(scene: Scene, rng: np.random.Generator) -> _Made:
    """Yes or no with equal probability; a no has no evidence."""
    names = [sound.name for sound in scene.sounds]
    present, absent = [n for n in SOUNDS if n in names], [n for n in SOUNDS if n not in names]
    if scene.config.heard == "unseen":  # a yes is about a sound that occurs once and belongs to no shape
        present = [n for n in present if names.count(n) == 1 and names.index(n) >= len(scene.shapes)]
    if present and (rng.random() < 0.5 or not absent):
        name = present[int(rng.integers(len(present)))]
        return name, name, "yes", (), tuple(i for i, sound in enumerate(scene.sounds) if sound.name == name)
    name = absent[int(rng.integers(len(absent)))]
    return name, name, "no", (), ()


def _any_sounding(scene: Scene, rng: np.random.Generator) -> tuple[int, int]:
    """(index of a shape that has a sound, index of the sound)."""
    pairs = [(shape, sound) for shape in range(len(scene.shapes)) if (sound := scene.sound_of(shape)) is not None]
    return pairs[int(rng.integers(len(pairs)))]


def _sound_with(scene: Scene, rng: np.random.Generator) -> _Made:
    i, sound = _any_sounding(scene, rng)
    return *_named(scene, i, rng), scene.sounds[sound].name, (i,), (sound,)


def _color_with_sound(scene: Scene, rng: np.random.Generator) -> _Made:
    i, sound = _any_sounding(scene, rng)
    name = scene.sounds[sound].name
    return name, name, scene.shapes[i].color, (i,), (sound,)


def _count(scene: Scene, rng: np.random.Generator) -> _Made:  # noqa: ARG001 - all makers have one signature
    return "", None, NUMBERS[len(scene.shapes)], tuple(range(len(scene.shapes))), ()


def _order(scene: Scene, rng: np.random.Generator) -> _Made:
    which, i = ("first", 0) if rng.random() < 0.5 else ("last", len(scene.shapes) - 1)
    return which, which, scene.shapes[i].color, (i,), ()


def _written(scene: Scene, rng: np.random.Generator) -> _Made:
    i = int(rng.integers(len(scene.titles)))
    return "", None, scene.titles[i].word, (len(scene.shapes) + i,), ()


def _said(scene: Scene, rng: np.random.Generator) -> _Made:
    words = [i for i, sound in enumerate(scene.sounds) if sound.name in WORDS]
    i = words[int(rng.integers(len(words)))]
    return "", None, scene.sounds[i].name, (), (i,)


def _before(scene: Scene, rng: np.random.Generator) -> _Made:
    """The first or the last of two shapes, named in random order; the answer is the first evidence."""
    pair = [int(i) for i in rng.permutation(len(scene.shapes))[:2]]
    which, answer = ("first", min(pair)) if rng.random() < 0.5 else ("last", max(pair))
    names = [scene.shapes[i].form for i in pair]
    evidence = (answer, *(i for i in pair if i != answer))
    return f"{which}, the {names[0]} or the {names[1]}", which, scene.shapes[answer].form, evidence, ()


_MAKERS: Mapping[str, Callable[[Scene, np.random.Generator], _Made]] = MappingProxyType(
    {
        "color_of_shape": _color_of_shape,
        "shape_of_color": _shape_of_color,
        "place": _place,
        "heard": _heard,
        "sound_with": _sound_with,
        "color_with_sound": _color_with_sound,
        "count": _count,
        "order": _order,
        "written": _written,
        "said": _said,
        "before": _before,
        "follows_video": _written,
        "follows_audio": _said,
        "said_as_written": _said,
        "written_as_said": _written,
    }
)

ANSWERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "color_of_shape": COLOR_NAMES,
        "shape_of_color": SHAPES,
        "place": PLACES,
        "heard": ("yes", "no"),
        "sound_with": SOUNDS,
        "color_with_sound": COLOR_NAMES,
        "count": NUMBERS[2:5],
        "order": COLOR_NAMES,
        "written": WORDS,
        "said": WORDS,
        "before": SHAPES,
        **dict.fromkeys(FOLLOWED, WORDS),
    }
)
"""Type -> possible answers in the default world and in ``wide``."""
