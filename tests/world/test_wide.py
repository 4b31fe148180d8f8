"""The wide family: what a clip shows and says is what its description, labels and answers state."""

import dataclasses
from collections import Counter, defaultdict

import numpy as np
import pytest

from omnisift.errors import UsageError
from omnisift.world import (
    ANSWERS,
    COLOR_NAMES,
    FIRST_TITLE_CLASS,
    NUMBERS,
    QUESTION_TYPES,
    SETTINGS,
    SHAPES,
    SOUNDS,
    WIDE_SETTINGS,
    WIDE_TYPES,
    WORDS,
    SceneConfig,
    WideConfig,
    caption,
    caption_events,
    make_scene,
    parse_caption,
    questions,
    render_audio,
    render_frames,
    render_images,
    split_words,
    truth,
    vocabulary,
)
from omnisift.world.letters import title_box
from omnisift.world.scenery import changes
from omnisift.world.speech import ambience, speak

WIDE = WIDE_SETTINGS["wide"].config
MANY = 80


def scenes(name="wide", count=MANY, split="test"):
    return [make_scene(seed, split, WIDE_SETTINGS[name].config) for seed in range(count)]


def answer_again(scene, question):
    """The answer, derived from the words of the text and the events of each second."""
    words, kind = split_words(question.text), question.type
    sounds = [s for s in scene.sounds if s.name in SOUNDS]
    shown = {s: [p for p in scene.shapes if p.start <= int(s.start) < p.end] for s in sounds}
    named = [p for p in scene.shapes if p.color in words or p.form in words]
    if kind == "written":
        return scene.titles[0].word
    if kind == "said":
        (spoken,) = [s.name for s in scene.sounds if s.name in WORDS]
        return spoken
    if kind == "before":
        first, last = sorted(named, key=lambda p: p.start)
        return (first if "first" in words else last).form
    if kind == "heard":
        return "yes" if any(s.name in words for s in sounds) else "no"
    if kind == "count":
        return NUMBERS[len(scene.shapes)]
    if kind == "order":
        return (min if "first" in words else max)(scene.shapes, key=lambda p: p.start).color
    if kind == "color_with_sound":
        (only,) = {p for s in sounds if s.name in words for p in shown[s]}
        return only.color
    if kind == "sound_with":
        (name,) = {s.name for s in sounds if shown[s] == named}
        return name
    return {"color_of_shape": named[0].color, "shape_of_color": named[0].form, "place": named[0].place}[kind]


def test_the_family_is_apart():
    assert tuple(WIDE_SETTINGS) == ("wide", "decoys", "wide20", "wide60")
    assert [s.config.seconds for s in WIDE_SETTINGS.values()] == [6, 6, 20, 60]
    assert not WIDE_SETTINGS.keys() & SETTINGS.keys()
    for name, setting in WIDE_SETTINGS.items():
        assert setting.name == name
        assert setting.types == WIDE_TYPES == (*QUESTION_TYPES, "written", "said", "before")
        assert setting.config.size == 280
        labels = truth(scenes(name, 1)[0])
        assert labels.video_class.size == 4 * len(labels.audio_class)
    assert not {"written", "taxi"} & set(vocabulary())


@pytest.mark.parametrize("name", WIDE_SETTINGS)
def test_every_answer_is_true_and_proven(name):
    known, given = set(vocabulary(WIDE_TYPES)), defaultdict(Counter)
    for scene in scenes(name):
        labels, rng = truth(scene), np.random.default_rng(scene.seed)
        for question in questions(scene, rng) + questions(scene, rng, n=6):
            assert question.answer == answer_again(scene, question), (scene, question)
            assert question.answer in ANSWERS[question.type]
            assert {question.answer, *split_words(question.text)} <= known
            events = labels.evidence(question)
            assert all(len(event.tokens) for event in events)
            assert events or question.answer == "no"
            given[question.type][question.answer] += 1
        assert parse_caption(caption(scene)) == caption_events(scene)
    for kind in ("written", "said", "before"):
        assert set(given[kind]) == set(ANSWERS[kind]), "every word and form is an answer"
        assert max(given[kind].values()) < 3 * min(given[kind].values())


def test_what_clips_hold():
    shapes = [shape for scene in scenes(count=200) for shape in scene.shapes]
    area = {"circle": 3.1, "square": 3.1, "triangle": 1.8, "cross": 2.2}
    shares = np.array([area[s.form] * s.radius**2 / 280**2 for s in shapes])
    assert 0.0095 < shares.min() < 0.012
    assert 0.05 < shares.max() < 0.063
    assert 0.2 < np.mean([s.dull for s in shapes]) < 0.4
    silent, together, overlapping = [], [], []
    for scene in scenes(count=200):
        heard = [scene.sound_of(i) is not None for i in range(len(scene.shapes))]
        assert any(heard)
        silent += [not h for h in heard]
        shown = [sum(s.start <= t < s.end for s in scene.shapes) for t in range(6)]
        together.append(max(shown))
        (word,) = [s for s in scene.sounds if s.name in WORDS]
        assert int(word.start) == int(word.end), "inside one second, a window of the audio encoder"
        overlapping.append(any(s.start < word.end and word.start < s.end for s in scene.sounds if s is not word))
        (title,) = scene.titles
        assert 0 <= title.start < title.end <= 6
    assert 0.1 < np.mean(silent) < 0.3
    assert set(together) == {2}
    assert np.mean(overlapping) > 0.2


def test_pixels_agree_with_labels():
    """Labels are those of the moment between the two images of a frame; shapes, titles and their tokens are there."""
    for scene in scenes(count=12):
        labels, images = truth(scene), render_images(scene).astype(float)
        (title,) = scene.titles
        left, top, right, bottom = title_box(title, 280)
        for k in range(12):
            part = images[k, top:bottom, left:right]
            light, dark = (part.min(-1) > 190).mean(), (part.max(-1) < 70).mean()
            assert (light > 0.2 and dark > 0.4) == (title.start <= k / 2 < title.end)
        classes = FIRST_TITLE_CLASS + WORDS.index(title.word)
        written = np.argwhere(labels.video_class == classes)
        np.testing.assert_array_equal(written, labels.shape_tokens[len(scene.shapes)])
        assert set(written[:, 0]) == set(range(title.start, title.end))
        assert set(written[:, 1]) == {9}
        for i, shape in enumerate(scene.shapes):
            tokens = labels.shape_tokens[i]
            assert set(tokens[:, 0]) == set(range(shape.start, shape.end))
            kind = COLOR_NAMES.index(shape.color) * len(SHAPES) + SHAPES.index(shape.form) + 1
            here = labels.video_class[tuple(tokens.T)]
            assert set(here) <= {kind, classes}


def test_sounds_agree_with_labels():
    for scene in scenes(count=30):
        labels = truth(scene)
        for i, sound in enumerate(scene.sounds):
            tokens = labels.sound_tokens[i]
            assert len(tokens) >= 2
            assert abs(tokens[0] / 25 - sound.start) < 0.04
            if sound.name in WORDS:  # drawn last: nothing hides it
                assert (labels.audio_class[tokens] == 1 + len(SOUNDS) + WORDS.index(sound.name)).all()
                assert (labels.audio_owner[tokens] == 0).all()


@pytest.mark.parametrize("name", ["wide", "wide20"])
def test_same_seed_same_clip(name):
    one, two = (scenes(name, 2)[1] for _ in range(2))
    assert one == two
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != scenes(name, 2, "train")[1].fingerprint()
    frames = render_frames(one)
    assert frames.shape == (10 * one.config.seconds, 280, 280, 3)
    np.testing.assert_array_equal(frames[::5], render_images(two))
    np.testing.assert_array_equal(render_audio(one), render_audio(two))


def test_the_camera_moves_and_places_change():
    kinds, moved = Counter(), []
    for scene in scenes(count=20):
        kinds[len(changes(scene))] += 1
        images = render_images(scene).astype(float)
        for second, fades in changes(scene):
            k = 2 * second
            jump = np.abs(images[k] - images[k - 1]).mean()
            assert jump < 40 if fades else jump > 12, (scene.seed, second, fades)
        moved.append(np.abs(images[1] - images[0]).mean())
    assert set(kinds) == {0, 1, 2}
    assert np.median(moved) > 6, "noise of the sensor alone makes 5"


def test_levels_of_sound():
    """The continuous background is 0 to 10 dB below the quietest event."""
    config = dataclasses.replace(WIDE, wide=WideConfig(snr=(10.0, 10.0)))
    loud = dataclasses.replace(WIDE, wide=WideConfig(snr=(0.0, 0.0)))
    for seed in range(10):
        quiet = np.ones(96000, bool)
        scene = make_scene(seed, config=config)
        for sound in scene.sounds:
            quiet[int(sound.start * 16000) : int(sound.end * 16000)] = False
        soft, strong = render_audio(scene), render_audio(make_scene(seed, config=loud))
        assert strong[quiet].std() / soft[quiet].std() == pytest.approx(10**0.5, rel=0.01)
        assert np.abs(strong).max() <= 1
        for sound in scene.sounds:
            part = soft[int(sound.start * 16000) : int(sound.end * 16000)]
            assert part.std() > 1.5 * soft[quiet].std()


def spectrogram(wave):
    """[12 x 8] log energies: twelve parts of equal length, eight bands."""
    parts = wave[: len(wave) // 12 * 12].reshape(12, -1)
    power = np.abs(np.fft.rfft(parts * np.hanning(parts.shape[1]))) ** 2
    edges = np.searchsorted(np.fft.rfftfreq(parts.shape[1], 1 / 16000), (0, 300, 600, 900, 1300, 1800, 2600, 4000))
    return np.log(np.add.reduceat(power, edges, axis=1) + 1e-3).ravel()


def test_words_are_told_apart_across_voices():
    rng = np.random.default_rng(0)
    spoken = {w: [spectrogram(speak(w, rng.uniform(0.42, 0.6), 16000, rng)) for _ in range(12)] for w in WORDS}
    means = {word: np.mean(rows[:6], axis=0) for word, rows in spoken.items()}
    right = [
        min(WORDS, key=lambda w, row=row: np.linalg.norm(row - means[w])) == word
        for word, rows in spoken.items()
        for row in rows[6:]
    ]
    assert np.mean(right) > 0.9
    wave = speak("taxi", 0.5, 16000, np.random.default_rng(1))
    assert len(wave) == 8000
    assert np.abs(wave).max() == pytest.approx(1)
    with pytest.raises(ValueError, match="moo"):
        speak("moo", 0.5, 16000, rng)


def test_backgrounds_never_stop():
    for seed in range(6):
        wave = ambience(64000, 16000, np.random.default_rng(seed))
        assert wave.std() == pytest.approx(1)
        assert wave.reshape(16, -1).std(axis=1).min() > 0.2


def test_impossible_clips_are_refused():
    for options in ({"size": 112}, {"seconds": 2}, {"shapes": (0, 0)}, {"drift": (0.0, 4.0)}, {"distractor_gain": 2.0}):
        with pytest.raises(UsageError):
            dataclasses.replace(WIDE, **options)
    assert SceneConfig().wide is None
