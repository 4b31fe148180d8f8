"""Clips in which the voice contradicts the title: nothing else differs from ``wide``; each answer has one source."""

import json
from collections import Counter

import numpy as np
import pytest

from omnisift.errors import UsageError
from omnisift.world import (
    CONFLICT,
    FOLLOWED,
    PHRASINGS,
    SETTINGS,
    WIDE_SETTINGS,
    WIDE_TYPES,
    WORDS,
    SceneConfig,
    WideConfig,
    make_scene,
    questions,
    render_audio,
    render_images,
    split_words,
    vocabulary,
    world_setting,
)
from omnisift.world.dataset import write_dataset

CLIPS = [make_scene(seed, "test", CONFLICT.config) for seed in range(60)]


def test_only_the_voice_differs_from_wide():
    for scene in CLIPS:
        plain = make_scene(scene.seed, "test", WIDE_SETTINGS["wide"].config)
        assert (scene.shapes, scene.titles, scene.sounds[:-1]) == (plain.shapes, plain.titles, plain.sounds[:-1])
    np.testing.assert_array_equal(
        render_images(CLIPS[2]), render_images(make_scene(2, "test", world_setting("wide").config))
    )
    assert render_audio(CLIPS[2]).any()


def test_voice_and_title_disagree_at_the_same_time():
    pairs = Counter()
    for scene in CLIPS:
        (title,), word = scene.titles, scene.sounds[-1]
        assert word.name in WORDS
        assert word.name != title.word
        assert title.start <= word.start < word.end < title.end
        assert int(word.start) == int(word.end), "inside one second, as in wide"
        pairs[title.word, word.name] += 1
    assert {title for title, _ in pairs} == {word for _, word in pairs} == set(WORDS)


def test_each_answer_is_of_one_sense():
    known, texts = set(vocabulary(WIDE_TYPES)), set()
    for scene in CLIPS:
        asked = {q.type: q for q in questions(scene, np.random.default_rng(scene.seed), CONFLICT.types)}
        assert set(asked) == {"written", "said", *FOLLOWED}
        title, word = scene.titles[0].word, scene.sounds[-1].name
        by_text = [("follows_video", "follows_audio"), ("written", "said_as_written"), ("written_as_said", "said")]
        for by_video, by_audio in by_text:
            assert asked[by_video].text == asked[by_audio].text
            assert (asked[by_video].answer, asked[by_audio].answer) == (title, word)
            assert asked[by_video].shapes == (len(scene.shapes),)
            assert asked[by_audio].sounds == (len(scene.sounds) - 1,)
        assert set(split_words(asked["follows_video"].text)) <= known
        texts.add(asked["follows_video"].text)
    assert texts == set(PHRASINGS["follows_video"])


def test_the_neutral_question_points_at_no_sense():
    """Every word of it occurs as often in questions about the written word as in those about the spoken one."""
    seen, heard = (Counter(split_words(" ".join(PHRASINGS[kind]))) for kind in ("written", "said"))
    for word in split_words(" ".join(PHRASINGS["follows_video"])):
        assert seen[word] == heard[word] > 0, word


def test_no_other_setting_has_these_questions():
    for setting in (*SETTINGS.values(), *WIDE_SETTINGS.values()):
        assert not set(setting.types) & set(FOLLOWED)
    assert world_setting("conflict+dark").types == CONFLICT.types


@pytest.mark.parametrize("options", [{}, {"wide": WideConfig(), "size": 280, "sound": False}])
def test_a_conflict_needs_both_senses(options):
    with pytest.raises(UsageError, match="a title and a voice"):
        SceneConfig(conflict=True, **options)


def test_training_data_never_has_one_question_with_two_answers(tmp_path):
    write_dataset(tmp_path, 1, 0, 12, lambda: None, "conflict")
    (row,) = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    answers = dict.fromkeys((pair["question"], pair["answer"]) for pair in row["qa"])
    assert len({question for question, _ in answers}) == len(answers) == 2
