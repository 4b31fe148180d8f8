"""Long streams of the generated world: the events of one scene spread over several clips, with other clips between.

A scene's shapes all differ in form, colour and sound. So its events can be shown minutes apart and every question keeps
one answer, as long as the clips between show other forms and colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from omnisift.world import (
    SOUNDS,
    WORDS,
    Question,
    Scene,
    SceneConfig,
    Shape,
    make_scene,
    possible_types,
    questions,
    world_setting,
)

CLIP_SECONDS = 6
"""Length of every clip of a stream."""
FILLERS = ("quiet", "sounds", "shapes")
"""Kinds of clips without events that a question is about: nothing happens; one kind of sound without a shape; one shape
with its sound."""
OF_ALL = ("count", "order", "before")
"""Question types that compare all shapes of a stream: not asked where fillers show shapes."""


def part_of(scene: Scene, shapes: Sequence[int], words: bool = True, distractors: bool = True) -> Scene:
    """Return a scene with some of its events.

    Args:
        scene: The scene.
        shapes: Which of its shapes stay, with their sounds.
        words: Whether its title and its spoken word stay.
        distractors: Whether the sounds without a shape stay.
    """
    number = {old: new for new, old in enumerate(shapes)}
    sounds = []
    for sound in scene.sounds:
        if sound.shape in number:
            sounds.append(replace(sound, shape=number[sound.shape]))
        elif sound.shape < 0 and (words if sound.name in WORDS else distractors):
            sounds.append(sound)
    titles = scene.titles if words else ()
    return replace(scene, shapes=tuple(scene.shapes[i] for i in shapes), sounds=tuple(sounds), titles=titles)


def split_scene(scene: Scene, parts: int, rng: np.random.Generator) -> list[Scene]:
    """Spread the shapes of a scene over ``parts`` clips, in random order; words are in one of them.

    Args:
        scene: The scene, with at least one shape for each part.
        parts: Number of clips.
        rng: Random numbers of the split.
    """
    if parts == 1:
        return [scene]
    order = [int(i) for i in rng.permutation(len(scene.shapes))]
    cuts = sorted(int(i) + 1 for i in rng.permutation(len(order) - 1)[: parts - 1])
    groups = [sorted(order[a:b]) for a, b in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    speaker = int(rng.integers(parts))
    return [part_of(scene, group, words=i == speaker, distractors=i == speaker) for i, group in enumerate(groups)]


def whole_scene(parts: Sequence[Scene], starts: Sequence[int]) -> Scene:
    """Return one scene with the events of all ``parts``, for questions; it can't be rendered.

    Args:
        parts: Clips, in order of time.
        starts: Second of the stream at which each begins.
    """
    shapes: list[Shape] = []
    sounds, titles = [], []
    for part, start in zip(parts, starts, strict=True):
        first = len(shapes)
        shapes += [replace(shape, start=shape.start + start) for shape in part.shapes]
        for sound in part.sounds:
            shape = sound.shape + first if sound.shape >= 0 else -1
            sounds.append(replace(sound, start=sound.start + start, shape=shape))
        titles += [replace(title, start=title.start + start) for title in part.titles]
    return replace(parts[0], shapes=tuple(shapes), sounds=tuple(sounds), titles=tuple(titles))


def filler_scene(kind: str, number: int, split: str, setting: str) -> Scene:
    """Return a clip without events that a question is about.

    Args:
        kind: One of `FILLERS`.
        number: Which one; it decides the kind of sound, and the form and colour.
        split: Split of the world.
        setting: Setting of the world whose pictures it has, ``base`` or ``wide``.
    """
    config = world_setting(setting).config
    scene = make_scene(100_000 + number, split, config)
    if kind == "quiet":
        return part_of(scene, (), words=False, distractors=False)
    if kind == "shapes":
        return part_of(scene, (number % len(scene.shapes),), words=False, distractors=False)
    # One kind of sound, so that a stream can leave kinds out; that of the base world, which has such clips.
    base = SceneConfig(shapes=(0, 0), distractors=(1, 2), sound_pool=1)
    name = SOUNDS[number % len(SOUNDS)]
    sounds = tuple(replace(sound, name=name) for sound in make_scene(100_000 + number, split, base).sounds)
    return replace(part_of(scene, (), words=False, distractors=False), sounds=sounds)


@dataclass(frozen=True)
class Mixture:
    """Fillers that can stand between the events of a scene: none of them changes the answer to a question about it."""

    kind: str
    """One of `FILLERS`."""
    numbers: tuple[int, ...]
    """Indices of the fillers of this kind."""
    sounds: frozenset[str]
    """Kinds of sound that occur in them."""

    @classmethod
    def of(cls, kind: str, events: Scene, fillers: Sequence[Scene], rng: np.random.Generator, most: int = 3) -> Mixture:
        """Choose fillers for the events of a scene.

        Args:
            kind: Kind of the fillers.
            events: The scene.
            fillers: All fillers of this kind.
            rng: Random numbers of the choice.
            most: Kinds of sound at most.
        """
        if kind == "quiet":
            return cls(kind, tuple(range(len(fillers))), frozenset())
        tied = {sound.name for sound in events.sounds}
        free = [name for name in SOUNDS if name not in tied]
        allowed = {free[int(i)] for i in rng.permutation(len(free))[:most]}
        forms, colors = {s.form for s in events.shapes}, {s.color for s in events.shapes}
        fitting = [
            i
            for i, filler in enumerate(fillers)
            if {sound.name for sound in filler.sounds} <= allowed
            and not forms & {s.form for s in filler.shapes}
            and not colors & {s.color for s in filler.shapes}
        ]
        heard = {sound.name for i in fitting for sound in fillers[i].sounds}
        return cls(kind, tuple(fitting), frozenset(heard))


def stream_types(events: Scene, mixture: Mixture | None) -> tuple[str, ...]:
    """Question types that have one answer for these events among these fillers."""
    types = possible_types(events.config)
    if len(events.shapes) < 2:
        types = tuple(name for name in types if name != "before")
    if mixture is not None and mixture.kind == "shapes":
        types = tuple(name for name in types if name not in OF_ALL)
    if not any(sound.shape >= 0 for sound in events.sounds):
        types = tuple(name for name in types if name not in ("sound_with", "color_with_sound"))
    return types


def stream_questions(
    events: Scene,
    mixture: Mixture | None,
    rng: np.random.Generator,
    types: Mapping[str, float] | Sequence[str] | None = None,
    n: int | None = None,
) -> list[Question]:
    """Questions about the events of a stream; none asks for a sound that only fillers have.

    Args:
        events: The scene of all events.
        mixture: The fillers; None for a stream of events alone.
        rng: Random numbers of the questions.
        types: Types or their weights; those that don't fit the stream are left out. None takes all that fit.
        n: Number of questions; None asks one of each type.
    """
    fitting = stream_types(events, mixture)
    chosen: Mapping[str, float] | Sequence[str]
    if isinstance(types, Mapping):
        chosen = {name: types[name] for name in fitting if name in types}
    else:
        chosen = fitting if types is None else tuple(name for name in types if name in fitting)
    other = mixture.sounds if mixture is not None else frozenset()
    result = []
    for question in questions(events, rng, chosen, n):
        asked = question
        while asked.type == "heard" and asked.answer == "no" and asked.argument in other:
            (asked,) = questions(events, rng, ("heard",))
        result.append(asked)
    return result
