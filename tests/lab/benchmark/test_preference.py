"""Tables of which sense answers follow: shares of a small result, computed here by hand."""

import json

import numpy as np
import pytest

from omnisift.lab.benchmark.preference import preference_tables, shares
from omnisift.lab.benchmark.quality import pack
from omnisift.lab.benchmark.results import read_result
from omnisift.lab.benchmark.results_tables import as_csv
from omnisift.world import CONFLICT

RIGHT = {
    "all tokens": [[1, 1, 1, 0, 0, 0]] * 4,
    "evs@25": [[1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0], [0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]],
    "video only@25": [[1, 0, 1, 0, 0, 1]] * 4,
}
"""Row -> by clip: written, said, follows video, follows audio, said as written, written as said."""


@pytest.fixture
def result(tmp_path):
    recipe = {"name": "preference", "settings": [CONFLICT.name], "backbone": "wide", "protocol": "training-free",
              "ways": [{"label": "evs", "group": ""}, {"label": "video only", "group": ""}]}  # fmt: skip
    kept = {name: [1, 4] for name in ("video", "audio", "shape_tokens", "sound_tokens", "shape_events", "sound_events")}
    lines = [{"settings": {"recipe": recipe}}]
    for row, right in RIGHT.items():
        key = f"{CONFLICT.name}/{row}"
        lines.append({"row": key, "first": 0, "clips": 4, "right": pack(np.array(right, bool)), "kept": kept, "ms": 1})
    path = tmp_path / "preference.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_result(path)


def test_shares_add_up_and_have_intervals(result):
    video, audio, neither = shares(result, result.row(CONFLICT.name, "evs", "25"))
    assert (video.value, audio.value, neither.value) == (0.25, 0.5, 0.25)
    assert 0 <= video.low < video.value < video.high <= 1
    full = shares(result, result.full(CONFLICT.name))
    assert [share.value for share in full] == [1, 0, 0]
    assert (full[0].low, full[0].high) == (1, 1)


def test_tables(result):
    text = preference_tables(result, CONFLICT.name)
    assert text.count("25 % of the video and 25 % of the audio:") == 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows] == ["tokens", "---", "all tokens", "video only", "method", "---", "evs"]
    assert rows[2] == [
        "all tokens",
        "100.0 (100.0 to 100.0)",
        "0.0 (0.0 to 0.0)",
        "0.0",
        "100.0",
        "0.0",
        "100.0",
        "0.0",
    ]
    assert rows[-1][3:] == ["25.0", "50.0", "25.0", "50.0", "25.0"]


def test_the_csv_has_every_share(result):
    head, *lines = as_csv(result).splitlines()
    assert head.split(",")[-7:-1] == list(CONFLICT.types)
    assert lines[1].split(",")[-7:-1] == ["50.00", "50.00", "25.00", "50.00", "25.00", "25.00"]
