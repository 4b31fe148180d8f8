"""Evidence is counted event by event: an event is kept if any of its tokens is."""

import numpy as np

from omnisift.lab.benchmark.evidence import count_kept
from omnisift.world import make_question, make_scene, questions, truth


def scene_and_questions():
    scene = make_scene(3)
    return scene, truth(scene), questions(scene, np.random.default_rng(1))


def test_all_and_nothing():
    _, facts, asked = scene_and_questions()
    everything = count_kept(facts, asked, np.ones(96, bool), np.ones(151, bool)).as_dict()
    assert all(everything[name] == everything[f"{name}_all"] > 0 for name in everything if not name.endswith("_all"))
    assert everything["audio_all"] == 151
    nothing = count_kept(facts, asked, np.zeros(96, bool), np.zeros(151, bool)).as_dict()
    assert all(nothing[name] == 0 for name in nothing if not name.endswith("_all"))


def test_one_token_keeps_one_event():
    scene, facts, _ = scene_and_questions()
    rng = np.random.default_rng(0)
    question = make_question(scene, "sound_with", rng)
    video, audio = np.zeros(96, bool), np.zeros(150, bool)
    video[facts.flat_video(question.shapes[0])[-1]] = True
    kept = count_kept(facts, [question], video, audio)
    assert (kept.shape_events, kept.shape_events_all) == (1, 1)
    assert (kept.sound_events, kept.sound_events_all) == (0, 1)
    audio[facts.sound_tokens[question.sounds[0]][0]] = True
    kept = count_kept(facts, [question], video, audio)
    assert (kept.sound_events, kept.tied_tokens, kept.distractor_tokens) == (1, 1, 0)


def test_a_sound_heard_twice_is_one_event():
    for seed in range(50):
        scene = make_scene(seed)
        question = make_question(scene, "heard", np.random.default_rng(seed))
        if len(question.sounds) > 1:
            break
    facts, audio = truth(scene), np.zeros(150, bool)
    audio[facts.sound_tokens[question.sounds[-1]][0]] = True
    kept = count_kept(facts, [question], np.zeros(96, bool), audio)
    assert (kept.sound_events, kept.sound_events_all) == (1, 1)
