"""Each setting keeps its promise in every clip, and every question in it is answered by its evidence alone."""

import itertools
from types import MappingProxyType

import numpy as np
import pytest

from omnisift.errors import UsageError
from omnisift.world import (
    ANSWERS,
    NUMBERS,
    QUESTION_TYPES,
    SETTINGS,
    SOUNDS,
    SceneConfig,
    Setting,
    caption,
    caption_events,
    make_scene,
    parse_caption,
    questions,
    render_audio,
    render_images,
    score_caption,
    split_words,
    truth,
    world_setting,
)

NAMES = ("base", "long", "crowd", "camera", "cuts", "loud", "unseen", "silent", "blank")
MANY = 100


def scenes(name, count=MANY, split="test"):
    return [make_scene(seed, split, SETTINGS[name].config) for seed in range(count)]


def visible(scene, second):
    return [i for i, shape in enumerate(scene.shapes) if shape.start <= second < shape.end]


def answer_again(scene, question):
    """The answer, derived independently from the words of the text and the events of each second."""
    words, kind = split_words(question.text), question.type
    if kind == "heard":
        return "yes" if any(s.name in words for s in scene.sounds) else "no"
    if kind == "count":
        return NUMBERS[len(scene.shapes)]
    if kind == "order":
        return (min if "first" in words else max)(scene.shapes, key=lambda s: s.start).color
    if kind == "color_with_sound":
        (only,) = {i for s in scene.sounds if s.name in words for i in visible(scene, int(s.start))}
        return scene.shapes[only].color
    (i,) = [i for i, s in enumerate(scene.shapes) if s.color in words or s.form in words]
    if kind == "sound_with":
        (name,) = {s.name for s in scene.sounds if visible(scene, int(s.start)) == [i]}
        return name
    shape = scene.shapes[i]
    return {"color_of_shape": shape.color, "shape_of_color": shape.form, "place": shape.place}[kind]


def test_the_list():
    assert tuple(SETTINGS) == NAMES
    assert isinstance(SETTINGS, MappingProxyType)
    assert SETTINGS["base"].config == SceneConfig()
    for name, setting in SETTINGS.items():
        assert world_setting(name) is setting
        assert setting.name == name
        assert setting.idea
        assert setting.note.endswith(".")
        assert setting.config.seconds % 2 == 0, "whole chunks"
    types = {name: setting.types for name, setting in SETTINGS.items()}
    assert types.pop("unseen") == types.pop("blank") == ("heard",)
    assert types.pop("silent") == ("color_of_shape", "shape_of_color", "place", "count", "order")
    assert set(types.values()) == {QUESTION_TYPES}


def test_an_unknown_name_and_wrong_types_are_refused():
    with pytest.raises(UsageError, match=r"unknown setting 'dark'; choose one of: base, long, .*, blank"):
        world_setting("dark")
    with pytest.raises(UsageError, match="needs types among: heard"):
        Setting("x", "", SETTINGS["blank"].config, ("heard", "count"), "")
    with pytest.raises(UsageError, match="needs types"):
        Setting("x", "", SceneConfig(), (), "")


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_clip(name):
    one, two = scenes(name, 3), scenes(name, 3)
    assert one == two
    assert len({scene.fingerprint() for n in NAMES for scene in scenes(n, 3)}) == 3 * len(NAMES)
    np.testing.assert_array_equal(render_images(one[2]), render_images(two[2]))
    np.testing.assert_array_equal(render_audio(one[2]), render_audio(two[2]))


@pytest.mark.parametrize("name", NAMES)
def test_every_question_is_answered_by_its_evidence(name):
    answers = set()
    for scene in scenes(name):
        rng, labels = np.random.default_rng(scene.seed), truth(scene)
        for question in questions(scene, rng, SETTINGS[name].types) + questions(scene, rng, SETTINGS[name].types, n=4):
            assert question.answer == answer_again(scene, question), (scene, question)
            assert question.answer in ANSWERS[question.type]
            answers.add((question.type, question.answer))
            events = labels.evidence(question)
            assert all(len(event.tokens) > 0 for event in events)
            assert question.answer == "no" or events, "a yes is proven, a no can't be"
            check_evidence(scene, question)
    assert answers == {(kind, word) for kind in SETTINGS[name].types for word in ANSWERS[kind]}


def check_evidence(scene, question):
    shapes, sounds = [scene.shapes[i] for i in question.shapes], [scene.sounds[i] for i in question.sounds]
    if question.type == "heard":
        assert sounds == [s for s in scene.sounds if s.name == question.argument]
        assert not shapes
    elif question.type in ("sound_with", "color_with_sound"):
        assert [sounds[0].shape] == list(question.shapes) == visible(scene, int(sounds[0].start))
    elif question.type == "count":
        assert shapes == list(scene.shapes)
    else:
        assert not sounds
        assert question.answer in (shapes[0].color, shapes[0].form, shapes[0].place)


@pytest.mark.parametrize("name", NAMES)
def test_truth_and_captions_hold(name):
    for scene in scenes(name, 30):
        config, labels = scene.config, truth(scene)
        tokens = config.seconds * 25 if config.sound else 0
        assert labels.video_class.shape == (config.seconds, 4, 4)
        assert labels.audio_class.shape == labels.audio_owner.shape == labels.visible.shape == (tokens,)
        first = [visible(scene, second)[:1] or [-1] for second in range(config.seconds)]
        np.testing.assert_array_equal(labels.visible, np.repeat(first, 25)[:tokens])
        for i, shape in enumerate(scene.shapes):
            assert set(labels.shape_tokens[i][:, 0]) == set(range(shape.start, shape.end))
            np.testing.assert_array_equal(np.argwhere(labels.video_shape == i), labels.shape_tokens[i])
        for i, sound in enumerate(scene.sounds):
            assert (labels.audio_sound[labels.sound_tokens[i]] == i).all()
            assert (labels.audio_owner[labels.sound_tokens[i]] == (sound.shape + 1 or -1)).all()
        score = score_caption(caption(scene), scene)
        assert score.matched_second == score.stated == score.actual == len(scene.shapes)
        assert score.recall == 1
        assert parse_caption(caption(scene), sound=config.sound) == caption_events(scene)


def test_long_is_mostly_empty():
    for scene in scenes("long"):
        assert sum(shape.seconds for shape in scene.shapes) <= 8
        assert len(scene.sounds) - len(scene.shapes) >= 3 * 16
        assert all(a.end <= b.start for a, b in itertools.pairwise(scene.shapes))


def test_crowd_shows_two_at_most_and_each_has_a_second_of_its_own():
    for scene in scenes("crowd", 3 * MANY):
        shown = [visible(scene, second) for second in range(scene.config.seconds)]
        assert max(len(s) for s in shown) == 2
        assert [] in shown
        assert all(len({scene.shapes[i].place for i in s}) == len(s) for s in shown)
        starts = [shape.start for shape in scene.shapes]
        assert starts == sorted(set(starts))
        assert scene.shapes[-1].end == max(shape.end for shape in scene.shapes) <= scene.config.seconds
        for i, sound in enumerate(scene.sounds[: len(scene.shapes)]):
            assert shown[int(sound.start)] == [i] == [sound.shape]
            assert sound.end < int(sound.start) + 1
        for sound in scene.sounds[len(scene.shapes) :]:
            assert sound.shape == -1
            assert not shown[int(sound.start)]


def test_loud_distractors_are_louder():
    """Kind by kind in the waveform; and against the same sounds without the gain."""
    config = SETTINGS["loud"].config
    plain = SceneConfig(distractors=config.distractors)
    power = {name: ([], []) for name in SOUNDS}
    for seed in range(MANY):
        scene = make_scene(seed, config=config)
        wave, soft = render_audio(scene), render_audio(make_scene(seed, config=plain))
        assert np.abs(wave).max() <= 1
        gained = np.zeros(len(wave), bool)
        for sound in scene.sounds:
            part = slice(int(sound.start * 16000), int(sound.end * 16000))
            power[sound.name][sound.shape < 0].append(wave[part].std())
            gained[part] |= sound.shape < 0
        np.testing.assert_array_equal(wave[~gained], soft[~gained])
        assert wave[gained].std() > 2 * soft[gained].std()
        busy = sum(shape.seconds for shape in scene.shapes)
        assert 4 <= (len(scene.sounds) - len(scene.shapes)) / (config.seconds - busy) <= 5
    for name, (tied, loose) in power.items():
        assert np.mean(loose) > 2 * np.mean(tied), name


def test_unseen_asks_only_for_what_is_heard_once_and_not_seen():
    answers = []
    for scene in scenes("unseen", 2 * MANY):
        kinds = [sound.name for sound in scene.sounds]
        assert len(set(kinds)) == len(kinds), "no kind twice"
        assert len(kinds) - len(scene.shapes) == scene.config.seconds - sum(s.seconds for s in scene.shapes) >= 3
        rng = np.random.default_rng(scene.seed)
        for question in questions(scene, rng, ("heard",), n=10):
            answers.append(question.answer)
            assert kinds.count(question.argument) == (1 if question.answer == "yes" else 0)
            assert all(not visible(scene, int(scene.sounds[i].start)) for i in question.sounds)
    assert 0.45 < answers.count("yes") / len(answers) < 0.55


def test_unseen_kinds_may_run_out_but_never_repeat():
    config = SceneConfig(seconds=24, heard="unseen", distractors=(2, 3))
    for seed in range(20):
        kinds = [sound.name for sound in make_scene(seed, config=config).sounds]
        assert len(set(kinds)) == len(kinds) == config.sound_pool
