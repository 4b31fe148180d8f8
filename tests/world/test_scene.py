"""Scenes are the same on every machine, obey their own rules, and the splits never meet."""

import dataclasses
import itertools

import numpy as np
import pytest

from omnisift.errors import UsageError
from omnisift.world import NUMBERS, SPLITS, SceneConfig, make_scene, scene_number

MANY = 300


def test_golden_fingerprints():
    """A change here changes every published number: raise it only with the benchmark's results."""
    assert make_scene(0, "test").fingerprint() == "99ef437113da08b5a5c31dfcf01f0fdd160de2bc8820de553a00ec8daf44ac5e"
    assert make_scene(7, "train").fingerprint() == "25fd0c2c88788f30c05cc527399cc9d312b78a41d79bc60d2d7f52a7816caba7"


def test_same_seed_same_scene():
    assert make_scene(5, "test") == make_scene(5, "test")
    assert make_scene(5, "test") != make_scene(6, "test")


def test_splits_are_disjoint():
    numbers = {split: {scene_number(split, seed) for seed in range(MANY)} for split in SPLITS}
    assert sum(len(part) for part in numbers.values()) == len(set().union(*numbers.values())) == 3 * MANY
    # For all seeds, not only these: each split owns one remainder.
    assert [{number % 3 for number in numbers[split]} for split in SPLITS] == [{0}, {1}, {2}]
    seen = {repr(make_scene(seed, split).shapes) for split in SPLITS for seed in range(MANY)}
    assert len(seen) == 3 * MANY


@pytest.mark.parametrize(("seed", "split", "says"), [(-1, "test", "got -1"), (0, "tests", "unknown split 'tests'")])
def test_wrong_seed_or_split_is_refused(seed, split, says):
    with pytest.raises(UsageError, match=says):
        make_scene(seed, split)


def test_rules_of_the_world():
    counts = set()
    for seed in range(MANY):
        scene = make_scene(seed, "train")
        shapes, config = scene.shapes, scene.config
        counts.add(len(shapes))
        assert len({s.color for s in shapes}) == len({s.form for s in shapes}) == len(shapes)
        assert all(a.end <= b.start for a, b in itertools.pairwise(shapes)), "one visible at a time"
        assert shapes[-1].end <= config.seconds
        tied = scene.sounds[: len(shapes)]
        assert [s.shape for s in tied] == list(range(len(shapes)))
        assert len({s.name for s in tied}) == len(shapes)
        for shape, sound in zip(shapes, tied, strict=True):
            assert shape.start < sound.start < sound.end < shape.end
        busy = {second for s in shapes for second in range(s.start, s.end)}
        for second in set(range(config.seconds)) - busy:
            inside = [s for s in scene.sounds if second <= s.start < second + 1]
            assert all(s.shape == -1 and s.end < second + 1 for s in inside)
            assert 3 <= len(inside) <= 4
        assert all(0.12 <= s.seconds <= 0.24 for s in scene.sounds)
    assert counts == {2, 3, 4}


def test_counts_and_places_are_balanced():
    scenes = [make_scene(seed) for seed in range(1200)]
    for n in (2, 3, 4):
        share = np.mean([len(s.shapes) == n for s in scenes])
        assert 0.28 < share < 0.39, NUMBERS[n]
    places = [shape.place for s in scenes for shape in s.shapes]
    assert all(0.22 < places.count(p) / len(places) < 0.28 for p in set(places))


def test_harder_settings_are_possible():
    config = SceneConfig(seconds=12, size=224, shapes=(3, 4), shape_seconds=(2, 3), distractors=(5, 6), empty_seconds=3)
    scene = make_scene(1, "train", config)
    assert 3 <= len(scene.shapes) <= 4
    assert scene.shapes[-1].end <= 12
    distractors = [s for s in scene.sounds if s.shape < 0]
    assert len(distractors) >= 3 * 5
    assert all(s.seconds > 0 and a.end < b.start for a, b in itertools.pairwise(distractors) for s in (a, b))


@pytest.mark.parametrize(
    "change",
    [
        {"shapes": (2, 5)},
        {"shapes": (0, 2)},
        {"seconds": 5, "empty_seconds": 2},
        {"size": 100},
        {"file_fps": 9},
        {"sound_pool": 3},
        {"distractors": (4, 3)},
        {"distractors": (3, 9)},
        {"together": 3},
        {"together": 2},
        {"together": 2, "shape_seconds": (2, 3), "empty_seconds": 1},
        {"drift": (4.0, 2.0)},
        {"drift": (-1.0, 2.0)},
        {"drift": (0.0, float("nan"))},
        {"cuts": (1, 6)},
        {"cuts": (3, 2)},
        {"distractor_gain": 0.0},
        {"distractor_gain": float("nan")},
        {"heard": "seen"},
        {"heard": "unseen", "sound": False},
        {"heard": "unseen", "distractors": (0, 1)},
        {"heard": "unseen", "empty_seconds": 0},
        {"heard": "unseen", "sound_pool": 4},
    ],
)
def test_impossible_settings_are_refused(change):
    with pytest.raises(UsageError) as caught:
        dataclasses.replace(SceneConfig(), **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"seconds": 8}, {"seconds": 6, "empty_seconds": 0, "shapes": (4, 4)}])
def test_a_tight_crowd_still_fits(change):
    config = SceneConfig(**{"together": 2, "shape_seconds": (2, 2), **change})
    for seed in range(30):
        scene = make_scene(seed, config=config)
        assert any(a.end > b.start for a, b in itertools.pairwise(scene.shapes))
        assert scene.shapes[-1].end <= config.seconds
