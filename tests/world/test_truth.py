"""Token labels agree with the pixels and samples that the tokens cover."""

import numpy as np

from omnisift.world import COLORS, KeptEvidence, count_kept, make_question, make_scene, questions, render_images, truth
from omnisift.world.words import COLOR_NAMES, SHAPES, SOUNDS


def test_shapes_of_the_arrays():
    labels = truth(make_scene(0))
    assert labels.video_class.shape == labels.video_shape.shape == (6, 4, 4)
    assert labels.audio_class.shape == labels.audio_owner.shape == labels.visible.shape == (150,)


def test_video_labels_agree_with_pixels():
    """A labelled token shows the colour of its shape; a frame without a shape has no label."""
    for seed in range(20):
        scene = make_scene(seed)
        labels, images = truth(scene), render_images(scene).astype(float)
        for i, shape in enumerate(scene.shapes):
            tokens = labels.shape_tokens[i]
            assert set(tokens[:, 0]) == set(range(shape.start, shape.end)), "seen in every one of its seconds"
            value = 1 + COLOR_NAMES.index(shape.color) * len(SHAPES) + SHAPES.index(shape.form)
            covered = []
            for frame, row, column in tokens:
                assert labels.video_class[frame, row, column] == value
                part = images[2 * frame : 2 * frame + 2, row * 28 : row * 28 + 28, column * 28 : column * 28 + 28]
                covered.append((np.abs(part - COLORS[shape.color]).max(-1) < 70).mean())
            assert np.mean(covered) > 0.1, "a corner token of a triangle shows little, the shape as a whole much"
            np.testing.assert_array_equal(np.argwhere(labels.video_shape == i), tokens)
            np.testing.assert_array_equal(np.flatnonzero(labels.video_shape == i), labels.flat_video(i))
        assert ((labels.video_class > 0) == (labels.video_shape >= 0)).all()


def test_audio_labels_agree_with_the_events():
    for seed in range(20):
        scene = make_scene(seed)
        labels = truth(scene)
        for i, sound in enumerate(scene.sounds):
            tokens = labels.sound_tokens[i]
            assert 2 <= len(tokens) <= 7
            assert tokens[0] / 25 > sound.start - 0.03
            assert (tokens[-1] + 1) / 25 < sound.end + 0.03
            assert (labels.audio_class[tokens] == 1 + SOUNDS.index(sound.name)).all()
            assert (labels.audio_owner[tokens] == (sound.shape + 1 if sound.shape >= 0 else -1)).all()
        for i, shape in enumerate(scene.shapes):
            assert set(np.flatnonzero(labels.visible == i)) == set(range(shape.start * 25, shape.end * 25))
            assert (labels.visible[labels.audio_owner == i + 1] == i).all(), "its sound is heard while it is seen"
        assert (labels.visible[labels.audio_owner == -1] == -1).all(), "distractors sound while nothing is seen"


def test_evidence_of_questions():
    scene = make_scene(2)
    labels = truth(scene)
    for question in questions(scene, np.random.default_rng(0)):
        events = labels.evidence(question)
        assert [event.index for event in events if event.kind == "shape"] == list(question.shapes)
        if question.type != "heard":
            assert [event.index for event in events if event.kind == "sound"] == list(question.sounds)
        assert all(len(event.tokens) > 0 for event in events)


def test_a_token_keeps_its_event():
    scene = make_scene(3)
    shape, sound = truth(scene).evidence(make_question(scene, "sound_with", np.random.default_rng(0)))
    for event, size in ((shape, 96), (sound, 150)):
        everything, nothing, one = np.ones(size, bool), np.zeros(size, bool), np.zeros(size, bool)
        one[event.tokens[-1]] = True
        count = len(event.tokens)
        assert count_kept([event.tokens], everything) == KeptEvidence(count, count, 1, 1)
        assert count_kept([event.tokens], nothing) == KeptEvidence(0, count, 0, 1)
        assert count_kept([event.tokens], one) == KeptEvidence(1, count, 1, 1)
        assert count_kept([event.tokens[:0]], one) == KeptEvidence(0, 0, 0, 0), "an event without tokens"


def test_a_sound_heard_twice_is_one_event():
    asked = [
        (scene, make_question(scene, "heard", np.random.default_rng(scene.seed)))
        for scene in map(make_scene, range(50))
    ]
    scene, question = next(pair for pair in asked if len(pair[1].sounds) > 1)
    (event,) = truth(scene).evidence(question)
    assert set(event.tokens) == {token for i in question.sounds for token in truth(scene).sound_tokens[i]}
