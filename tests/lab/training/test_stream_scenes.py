"""Events of one scene in several clips: no event is lost, and no clip between changes an answer."""

import numpy as np
import pytest

from omnisift.lab.training.stream_scenes import (
    FILLERS,
    OF_ALL,
    Mixture,
    filler_scene,
    part_of,
    split_scene,
    stream_questions,
    stream_types,
    whole_scene,
)
from omnisift.world import WORDS, make_scene, render_audio, render_images, world_setting


@pytest.mark.parametrize("setting", ["base", "wide"])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_split_scene_has_the_events_of_the_scene(setting, parts):
    config = world_setting(setting).config
    for seed in range(12):
        scene = make_scene(seed, "validation", config)
        if len(scene.shapes) < parts:
            continue
        clips = split_scene(scene, parts, np.random.default_rng(seed))
        assert len(clips) == parts
        assert all(clip.shapes for clip in clips)
        whole = whole_scene(clips, [6 * i for i in range(parts)])
        assert {s.form for s in whole.shapes} == {s.form for s in scene.shapes}
        assert [s.start for s in whole.shapes] == sorted(s.start for s in whole.shapes)
        # Every shape has the sound and the colour that it had, and every word is there once.
        for shape in whole.shapes:
            before = next(i for i, s in enumerate(scene.shapes) if s.form == shape.form)
            after = whole.sound_of(whole.shapes.index(shape))
            sound = scene.sound_of(before)
            assert shape.color == scene.shapes[before].color
            assert (None if after is None else whole.sounds[after].name) == (
                None if sound is None else scene.sounds[sound].name
            )
        words = [s.name for s in scene.sounds if s.name in WORDS]
        assert [s.name for s in whole.sounds if s.name in WORDS] == words
        assert [t.word for t in whole.titles] == [t.word for t in scene.titles]


def test_order_is_that_of_the_stream():
    scene = next(s for s in (make_scene(seed, "train") for seed in range(50)) if len(s.shapes) == 2)
    late, early = part_of(scene, (0,)), part_of(scene, (1,))
    whole = whole_scene([early, late], [0, 60])
    answers = {q.argument: q.answer for s in range(20) for q in stream_questions(whole, None, rng(s), ("order",))}
    assert answers == {"first": scene.shapes[1].color, "last": scene.shapes[0].color}


@pytest.mark.parametrize("setting", ["base", "wide"])
@pytest.mark.parametrize("kind", FILLERS)
def test_fillers_change_no_answer(setting, kind):
    config = world_setting(setting).config
    fillers = [filler_scene(kind, i, "train", setting) for i in range(24)]
    found = 0
    for seed in range(20):
        events = make_scene(seed, "train", config)
        mixture = Mixture.of(kind, events, fillers, rng(seed))
        found += len(mixture.numbers)
        for number in mixture.numbers:
            assert not {s.form for s in fillers[number].shapes} & {s.form for s in events.shapes}
            assert not {s.color for s in fillers[number].shapes} & {s.color for s in events.shapes}
            tied = {s.name for s in events.sounds}
            assert not tied & {s.name for s in fillers[number].sounds}
            assert not fillers[number].titles
        if not mixture.numbers:
            continue
        for question in stream_questions(events, mixture, rng(seed), n=30):
            assert kind != "shapes" or question.type not in OF_ALL
            if question.type == "heard" and question.answer == "no":
                assert question.argument not in mixture.sounds
    assert found


@pytest.mark.parametrize("setting", ["base", "wide"])
def test_fillers_can_be_rendered(setting):
    for number, kind in enumerate(FILLERS):
        scene = filler_scene(kind, number, "test", setting)
        assert len(scene.shapes) == (kind == "shapes")
        assert render_images(scene).shape[0] == 12
        assert render_audio(scene).shape == (96_000,)
    assert not filler_scene("quiet", 0, "test", setting).sounds
    assert {s.name for s in filler_scene("sounds", 3, "test", setting).sounds} == {"rise"}


def test_questions_need_what_they_compare():
    scene = part_of(make_scene(0, "train", world_setting("wide").config), (0,), words=False, distractors=False)
    assert "before" not in stream_types(scene, None)
    assert "sound_with" not in stream_types(part_of(scene, ()), None)


def rng(seed):
    return np.random.default_rng(seed)
