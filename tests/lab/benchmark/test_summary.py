"""Tables say what the records say."""

import pytest

from omnisift.lab.benchmark.summary import (
    accuracy_table,
    caption_table,
    comparison_table,
    evidence_table,
    key,
    summarise,
)
from omnisift.world import QUESTION_TYPES, caption, make_scene

TRUE = ["red", "circle", "top-left", "yes", "beep", "blue", "two", "red"]
KEPT = {"video": 24, "video_all": 96, "audio": 39, "audio_all": 150, "shape_events": 9, "shape_events_all": 10}
KEPT |= {"sound_events": 1, "sound_events_all": 2, "tied_tokens": 3, "tied_tokens_all": 4}
KEPT |= {"distractor_tokens": 5, "distractor_tokens_all": 10}


def records(count=40):
    """All right with all tokens; omnisift wrong on places; random wrong on every second clip."""
    ours = [*TRUE[:2], "top-right", *TRUE[3:]]
    for seed in range(count):
        chance = TRUE if seed % 2 else ["?"] * 8
        answers = {"full": TRUE, key("omnisift", 0.25): ours, key("random", 0.25): chance}
        written = caption(make_scene(seed, "test"))
        captions = {"full": written, "omnisift@25": written.split(",")[0], "random@25": ""}
        kept = {"omnisift@25": KEPT, "random@25": KEPT}
        yield {"seed": seed, "truth": TRUE, "answers": answers, "kept": kept, "captions": captions}


def test_rows():
    full, ours, chance = summarise(list(records()), "test")
    assert [row["row"] for row in (full, ours, chance)] == ["full", "omnisift@25", "random@25"]
    assert full["mean"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert ours["mean"]["value"] == 7 / 8
    assert {kind: ours["by_type"][kind]["value"] for kind in QUESTION_TYPES} == {
        kind: float(kind != "place") for kind in QUESTION_TYPES
    }
    assert ours["against_full"]["difference"]["value"] == -1 / 8
    assert ours["against_random"]["difference"]["value"] == pytest.approx(7 / 8 - 1 / 2)
    assert ours["against_random"]["clustered_p"] < 0.01
    assert "against_random" not in chance
    assert chance["mean"]["low"] < 0.45 < 0.55 < chance["mean"]["high"], "half of the clips, all or nothing: wide"
    assert ours["kept"]["tokens"] == pytest.approx(63 / 246)
    assert ours["kept"]["sound_events"] == 0.5
    assert full["captions"]["recall_with_second"]["value"] == 1
    assert ours["captions"]["precision"]["value"] == 1
    assert ours["captions"]["recall"]["value"] < 0.6
    assert chance["captions"]["precision"]["value"] == 0


def test_tables_are_rectangular_markdown():
    rows = summarise(list(records()), "test")
    for table in (accuracy_table(rows), comparison_table(rows), evidence_table(rows), caption_table(rows)):
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert "| omnisift@25 | 25.0 / 26.0 | 87.5 (87.5 to 87.5) | 100.0 | 100.0 | 0.0 |" in accuracy_table(rows)
    assert "-12.5 (-12.5 to -12.5)" in comparison_table(rows)


def test_no_captions_no_table():
    bare = [{**record, "captions": None} for record in records()]
    assert caption_table(summarise(bare, "test")) == ""
