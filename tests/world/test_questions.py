"""Questions are plain English, their answers are true, and nothing but the clip gives the answer away."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from omnisift.errors import UsageError
from omnisift.world import ANSWERS, NUMBERS, PHRASINGS, QUESTION_TYPES, make_scene, questions, split_words, vocabulary


def all_questions(scenes=200, rounds=3, split="test"):
    for seed in range(scenes):
        scene, rng = make_scene(seed, split), np.random.default_rng(seed)
        for _ in range(rounds):
            for question in questions(scene, rng):
                yield scene, question


def answer_again(scene, question):
    """The answer, derived independently from the words of the text and the scene."""
    words = split_words(question.text)
    shape = next((s for s in scene.shapes if s.color in words or s.form in words), None)
    heard = [s for s in scene.sounds if s.name in words]
    visible = [p for s in heard for p in scene.shapes if p.start <= s.start < p.end]
    kind = question.type
    if kind == "heard":
        return "yes" if heard else "no"
    if kind == "count":
        return NUMBERS[len(scene.shapes)]
    if kind == "order":
        return (min if "first" in words else max)(scene.shapes, key=lambda s: s.start).color
    if kind == "color_with_sound":
        (only,) = visible
        return only.color
    if kind == "sound_with":
        (only,) = [s for s in scene.sounds if shape.start <= s.start < shape.end]
        return only.name
    return {"color_of_shape": shape.color, "shape_of_color": shape.form, "place": shape.place}[kind]


def test_every_answer_is_true_and_one_known_word():
    known = set(vocabulary())
    for scene, question in all_questions():
        assert question.answer == answer_again(scene, question), (scene, question)
        assert question.answer in ANSWERS[question.type]
        assert set(split_words(question.text)) <= known
        assert question.answer in known
        assert question.text[0].isupper()
        assert question.text.endswith("?")
        assert "{" not in question.text
        assert question.argument is None or question.argument in split_words(question.text)


def test_evidence_points_at_the_right_events():
    for scene, question in all_questions(60):
        shapes, sounds = [scene.shapes[i] for i in question.shapes], [scene.sounds[i] for i in question.sounds]
        words = split_words(question.text)
        if question.type in ("color_of_shape", "shape_of_color", "place"):
            assert not sounds
            assert question.argument in (shapes[0].color, shapes[0].form)
        elif question.type in ("sound_with", "color_with_sound"):
            assert sounds[0].shape == question.shapes[0]
            assert shapes[0].start < sounds[0].start < shapes[0].end
        elif question.type == "heard":
            assert not shapes
            assert [s.name for s in sounds] == [s.name for s in scene.sounds if s.name in words]
            assert bool(sounds) == (question.answer == "yes")
        elif question.type == "count":
            assert shapes == list(scene.shapes)
        else:
            assert shapes == [scene.shapes[0 if question.argument == "first" else -1]]


def test_answers_are_balanced():
    given = defaultdict(Counter)
    for _, question in all_questions(500, 2):
        given[question.type][question.answer] += 1
    for kind, counts in given.items():
        fair = 1 / len(ANSWERS[kind])
        for word in ANSWERS[kind]:
            assert 0.75 * fair < counts[word] / sum(counts.values()) < 1.25 * fair, (kind, word, counts)


def test_each_type_has_phrasings_in_both_spellings():
    seen = defaultdict(set)
    for _, question in all_questions(100):
        seen[question.type].add(question.text)
    assert set(seen) == set(QUESTION_TYPES)
    for kind in QUESTION_TYPES:
        assert len(PHRASINGS[kind]) >= 4
        if any("{colour}" in phrasing for phrasing in PHRASINGS[kind]):
            assert any("color" in text for text in seen[kind])
            assert any("colour" in text for text in seen[kind])


def test_no_text_belongs_to_two_types():
    texts = defaultdict(set)
    for _, question in all_questions(150):
        texts[question.text].add(question.type)
    assert not [text for text, kinds in texts.items() if len(kinds) > 1]


def test_choice_of_types():
    scene, rng = make_scene(0), np.random.default_rng(0)
    assert [q.type for q in questions(scene, rng)] == list(QUESTION_TYPES)
    assert [q.type for q in questions(scene, rng, ["count", "heard"])] == ["count", "heard"]
    drawn = questions(scene, rng, {"heard": 3.0, "count": 1.0}, n=400)
    assert len(drawn) == 400
    assert 0.68 < np.mean([q.type == "heard" for q in drawn]) < 0.82
    with pytest.raises(UsageError, match="smell"):
        questions(scene, rng, ["smell"])


def test_same_generator_same_questions():
    scene = make_scene(3)
    assert questions(scene, np.random.default_rng(4), n=9) == questions(scene, np.random.default_rng(4), n=9)
