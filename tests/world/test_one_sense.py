"""Clips without audio, and clips without visible shapes."""

import numpy as np
import pytest

from omnisift import media
from omnisift.errors import UsageError
from omnisift.world import (
    SETTINGS,
    SceneConfig,
    caption,
    make_question,
    make_scene,
    possible_types,
    questions,
    render_audio,
    render_images,
    score_caption,
    truth,
    write_clip,
)


def scenes(name, count=100):
    return [make_scene(seed, "test", SETTINGS[name].config) for seed in range(count)]


def test_silent_has_no_sound_and_the_video_of_base(tmp_path):
    for scene in scenes("silent"):
        assert scene.sounds == ()
        assert scene.shapes == make_scene(scene.seed).shapes
        assert render_audio(scene).shape == (0,)
        assert {q.type for q in questions(scene, np.random.default_rng(0))} == set(SETTINGS["silent"].types)
    np.testing.assert_array_equal(render_images(scene), render_images(make_scene(scene.seed)))
    assert caption(scene).startswith(f"at {scene.shapes[0].start} {scene.shapes[0].color} {scene.shapes[0].form}")
    invented = caption(make_scene(scene.seed))
    assert score_caption(invented, scene).matched == len(scene.shapes), "a sound is not judged"
    write_clip(scene, tmp_path / "silent.mp4")
    read = media.read(tmp_path / "silent.mp4", fps=2.0)
    assert not read.has_audio
    assert read.waveform is None
    assert len(read.images) == 12


def test_blank_shows_nothing_and_sounds_in_every_second():
    for scene in scenes("blank"):
        assert scene.shapes == ()
        assert {int(sound.start) for sound in scene.sounds} == set(range(scene.config.seconds))
        assert all(sound.shape == -1 for sound in scene.sounds)
        assert (truth(scene).video_shape == -1).all()
        assert (truth(scene).visible == -1).all()
        assert caption(scene) == "."
    for scene in scenes("blank", 10):
        images = render_images(scene).astype(float)
        middle = np.median(images, axis=0)
        spread = np.abs(images - middle)
        assert spread.max() < 70, "noise, nothing else"
        assert spread.mean() < 10


@pytest.mark.parametrize(("name", "type"), [("silent", "heard"), ("silent", "sound_with"), ("blank", "count")])
def test_questions_about_what_is_not_there_are_refused(name, type):
    scene = make_scene(0, config=SETTINGS[name].config)
    assert type not in possible_types(scene.config)
    with pytest.raises(UsageError, match=f"of type '{type}' do not fit this clip; possible types: "):
        make_question(scene, type, np.random.default_rng(0))


def test_a_clip_without_any_sound_of_note_only_gets_a_no():
    scene = make_scene(0, config=SceneConfig(shapes=(0, 0), distractors=(0, 0)))
    asked = questions(scene, np.random.default_rng(0), n=20)
    assert {(q.type, q.answer) for q in asked} == {("heard", "no")}
