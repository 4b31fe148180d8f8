"""Subtitles of generated clips: one line per sound, in time, and what their degradations change."""

import dataclasses

import pytest

from omnisift.errors import UsageError
from omnisift.world import SETTINGS, SOUNDS, WIDE_SETTINGS, WORDS, make_scene, subtitles, world_setting

WIDE = WIDE_SETTINGS["wide"].config
SCENES = [make_scene(seed, "test", WIDE) for seed in range(60)]


def kind(name):
    return next(kind for kind in (WORDS, SOUNDS) if name in kind)


def test_lines_depend_on_split_seed_and_setting_alone():
    again = [subtitles(make_scene(seed, "test", WIDE)) for seed in range(len(SCENES))]
    assert again == [subtitles(scene) for scene in SCENES]
    assert subtitles(make_scene(0, "validation", WIDE)) != again[0]
    first = [(line.start, line.end, line.text) for line in again[0]]
    assert first == FIRST


def test_each_sound_has_a_line_in_its_time():
    for scene in SCENES:
        lines = subtitles(scene)
        assert sorted(line.text for line in lines) == sorted(sound.name for sound in scene.sounds)
        assert [line.start for line in lines] == sorted(line.start for line in lines)
        for sound in scene.sounds:
            near = [line for line in lines if line.text == sound.name and -0.11 < line.start - sound.start < 0.26]
            assert near, (sound, lines)
            assert all(line.start >= 0 and line.end > max(sound.end, line.start + 0.79) for line in near)


def test_wrong_lines_name_another_word_or_sound_in_the_same_places():
    replaced = set()
    for scene in SCENES:
        right, wrong = ({(line.start, line.end): line.text for line in subtitles(scene, d)} for d in (None, "wrong"))
        assert right.keys() == wrong.keys()
        for place, text in right.items():
            assert wrong[place] != text
            assert kind(wrong[place]) == kind(text)
            replaced.add(wrong[place])
    assert replaced == {*WORDS, *SOUNDS}


def test_late_lines_are_two_seconds_late():
    for scene in SCENES:
        right = [line for line in subtitles(scene) if line.start < 4]
        for line, late in zip(right, subtitles(scene, "late"), strict=True):
            assert late.text == line.text
            assert (late.start - line.start, late.end - line.end) == pytest.approx((2, 2))


def test_late_sound_takes_its_lines_with_it():
    late = make_scene(3, "test", world_setting("wide+late").config)
    for ours, theirs in zip(subtitles(late), subtitles(dataclasses.replace(late, config=WIDE)), strict=True):
        assert ours.start - theirs.start == pytest.approx(0.2)


def test_a_clip_without_sound_has_no_lines():
    assert subtitles(make_scene(0, "test", SETTINGS["silent"].config)) == ()
    assert subtitles(make_scene(0, "test", SETTINGS["base"].config)) != ()


def test_an_unknown_degradation_is_refused():
    with pytest.raises(UsageError, match="the degradation of subtitles"):
        subtitles(SCENES[0], "early")


FIRST = [(0.096, 0.896, "beep"), (2.78, 3.58, "sale"), (5.206, 6.006, "fall")]
