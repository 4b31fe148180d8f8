"""Captions can be read back, and a wrong one loses exactly what is wrong in it."""

import pytest

from omnisift.world import caption, caption_events, make_scene, parse_caption, score_caption, split_words, vocabulary


@pytest.mark.parametrize("seed", range(10))
def test_round_trip(seed):
    scene = make_scene(seed)
    text = caption(scene)
    assert parse_caption(text) == caption_events(scene)
    assert parse_caption(text.upper().replace(",", " , ")) == caption_events(scene)
    score = score_caption(text, scene)
    assert (score.precision, score.recall) == (1, 1)
    assert score.matched_second == score.actual == len(scene.shapes)
    assert set(split_words(text)) <= set(vocabulary())


def test_mistakes_are_counted():
    scene = next(s for s in map(make_scene, range(50)) if len(s.shapes) == 4)
    first, *rest = caption(scene).rstrip(".").split(", ")
    assert score_caption(first, scene).recall == 0.25
    assert score_caption(first, scene).precision == 1
    twice = score_caption(f"{first}, {first}", scene)
    assert (twice.stated, twice.matched) == (2, 1)
    wrong = scene.sounds[0].name, scene.sounds[1].name
    assert score_caption(", ".join([first.replace(*wrong), *rest]), scene).precision == 0.75
    late = score_caption(first.replace(f"at {scene.shapes[0].start}", "at 9"), scene)
    assert (late.matched, late.matched_second) == (1, 0)
    nothing = score_caption("a red thing", scene)
    assert (nothing.stated, nothing.precision, nothing.recall) == (0, 0, 0)
