"""Clips, times and places of media tokens, against loops over hand-made prompts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.helpers.models import AUDIO, VIDEO, Audio, Image, Part, Video, prompt, thinker
from torch import Tensor

from omnisift.errors import UnsupportedCall
from omnisift.models import Layout, Prompt, adapter_for
from omnisift.models.layout import PromptLines, repeated_videos, rows_of_lines
from omnisift.tokens import Modality

MODEL = thinker()
ADAPTER = adapter_for(MODEL)


def layout_of(inputs: dict[str, Any]) -> Layout:
    ids = inputs["input_ids"]
    return ADAPTER.layout(Prompt(ids, inputs["attention_mask"].bool(), ADAPTER.modality(ids, inputs), inputs))


def host_ids(inputs: dict[str, Any]) -> Tensor:
    """[3, B, S]: rotary ids by the host's own rule."""
    mel = inputs.get("feature_attention_mask")
    core: Any = ADAPTER.parts.core
    position_ids: Tensor = core.get_rope_index(
        inputs["input_ids"],
        image_grid_thw=inputs.get("image_grid_thw"),
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=inputs["attention_mask"],
        use_audio_in_video=inputs["use_audio_in_video"],
        audio_seqlens=None if mel is None else mel.sum(dim=1),
        second_per_grids=inputs["video_second_per_grid"],
    )[0]
    return position_ids


ROWS: dict[str, list[list[Part]]] = {
    "one": [[5, Video(4, 2, 3, audio=90), 6]],
    "batch": [[5, Video(4, 2, 3, audio=90), 6], [9, Video(3, 2, 2, audio=40), 21], [30]],
    "two clips": [[3, Video(4, 3, 3, audio=70), 2, Video(8, audio=180), 4]],
    "image and audio apart": [[3, Audio(30), 2, Video(5, 2, 3), 4, Image(3, 2), 1, Video(1), 6]],
}


@pytest.mark.parametrize("pad", ["left", "right"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_places_are_those_of_the_hosts_rotary_ids(rows: list[list[Part]], pad: str) -> None:
    inputs = prompt(*rows, pad=pad)
    layout, rotary = layout_of(inputs), host_ids(inputs)
    for number in range(int(layout.clip.max()) + 1):
        inside = layout.clip == number
        video = inside & (inputs["input_ids"] == VIDEO)
        time = rotary[0, inside] - rotary[0, inside].min()
        assert torch.equal(layout.position[0, inside], 40_000 * time)
        for axis in (1, 2):
            place = rotary[axis, video]
            assert torch.equal(layout.position[axis, video], place - place.min())
    outside = layout.clip < 0
    assert not layout.position[:, outside].any()
    assert (inputs["input_ids"][outside] != VIDEO).all()
    clips = [part for row in rows for part in row if isinstance(part, Video)]
    assert int(layout.clip.max()) + 1 == len(clips)
    in_clip = ((inputs["input_ids"] == AUDIO) & ~outside).sum()
    assert int(in_clip) == sum(part.audio for part in clips)


def test_grids_of_another_prompt_are_refused() -> None:
    inputs = prompt([5, Video(4, 2, 3), 6])
    with pytest.raises(UnsupportedCall, match="24 video tokens, but the grids are of 12"):
        layout_of({**inputs, "video_grid_thw": torch.tensor([[2, 4, 6]])})
    with pytest.raises(UnsupportedCall, match="3 video_second_per_grid for 2 videos"):
        layout_of({**prompt([5, Video(), 2, Video(), 6]), "video_second_per_grid": torch.ones(3)})
    with pytest.raises(UnsupportedCall, match="without video_grid_thw"):
        layout_of({name: value for name, value in inputs.items() if name != "video_grid_thw"})


def test_rotary_positions_do_where_no_grids_are_known() -> None:
    inputs = prompt([5, Video(4, 2, 3, audio=90), 6], [9, Video(3, 2, 2, audio=40), 21])
    expected = layout_of(inputs)
    bare = {name: value for name, value in inputs.items() if name != "video_grid_thw"}
    found = layout_of({**bare, "position_ids": host_ids(inputs)})
    assert torch.equal(found.clip, expected.clip)
    assert torch.equal(found.position, expected.position)


@pytest.mark.parametrize(
    ("sizes", "counts", "expected"),
    [
        ([6, 4], [6, 4], [0, 1]),
        ([6, 4], [10], [0, 1]),
        ([6, 4, 8], [10, 10, 8, 8], [0, 1, 0, 1, 2, 2]),
        ([6, 4], [6, 6, 6, 0, 0, 0, 4, 4, 4], [0, 0, 0, 1, 1, 1]),
        ([6, 4], [6, 5], [0, 1]),  # of another prompt: refused by the number of tokens
    ],
)
def test_rows_repeated_for_beams_have_the_videos_of_their_prompt(
    sizes: list[int], counts: list[int], expected: list[int]
) -> None:
    assert repeated_videos(torch.tensor(sizes), torch.tensor(counts)).tolist() == expected


def test_types_of_the_call_decide_over_placeholder_ids() -> None:
    ids = torch.tensor([[30, VIDEO, AUDIO, 3, 31]])
    kinds = [Modality.TEXT, Modality.VIDEO, Modality.AUDIO, Modality.TEXT, Modality.TEXT]
    assert ADAPTER.modality(ids).tolist() == [kinds]
    types = torch.tensor([[0, 1, 3, 2, 0]])
    decided = [Modality.TEXT, Modality.TEXT, Modality.AUDIO, Modality.VIDEO, Modality.TEXT]
    assert ADAPTER.modality(ids, {"mm_token_type_ids": types}).tolist() == [decided]
    assert ADAPTER.modality(ids, {"mm_token_type_ids": types[:, :2]}).tolist() == [kinds]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((-5, (1,), (0,)), "whole numbers"),
        ((5, (-1,), (0,)), "whole numbers"),
        ((5, (1,), (0.4,)), "whole numbers"),
        ((5, (1, 2), (0,)), "a length and a time each"),
        ((5, (1, 2), (3, 0)), "in order of their times"),
    ],
)
def test_wrong_lines_are_refused(fields: Any, message: str) -> None:
    with pytest.raises(UnsupportedCall, match=message):
        PromptLines(*fields)


def test_lines_have_an_entry_for_each_prompt() -> None:
    one: Any = PromptLines(5, (1,), (0,))
    assert rows_of_lines([one, None], 4) == [one, one, None, None]
    for wrong in (one, [(5, (1,), (0,))], [one, None, one]):
        with pytest.raises(UnsupportedCall, match="for each prompt"):
            rows_of_lines(wrong, 2)
