"""The depth video of docs/add-a-modality.md: the page's own blocks, and what must hold of them."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.test_doc_blocks import blocks
from torch import Tensor

import omnisift
from omnisift.errors import CompressorError

PAGE = Path(__file__).parents[2] / "docs" / "add-a-modality.md"
VIDEO = int(omnisift.Modality.VIDEO)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """The names that the blocks of the page define."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(PAGE):
        code = compile(block.code, f"{block.page}:{block.line}", "exec", dont_inherit=True)
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, names)
    return names


def compressor_of(page: dict[str, Any], method: str, budget: omnisift.Budget) -> omnisift.Compressor:
    compressor = omnisift.make_compressor(method, budget)
    compressor.tracks = (*compressor.tracks, page["DepthTrack"]())
    return compressor


def batch_of(page: dict[str, Any]) -> dict[str, Any]:
    """Two rows, of which the second has two pairs of videos and the first is padded on the left."""
    one = page["inputs"]
    long = torch.cat([one["input_ids"], one["input_ids"]], dim=1)
    ids = torch.cat([torch.nn.functional.pad(one["input_ids"], (one["input_ids"].shape[1], 0)), long])
    padding = torch.zeros_like(one["input_ids"])
    draw = torch.Generator().manual_seed(1)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([torch.cat([padding, padding + 1], dim=1), torch.ones_like(long)]),
        "mm_token_type_ids": 2 * (ids == 2).long(),
        "video_grid_thw": one["video_grid_thw"][:1].repeat(6, 1),
        "second_per_grid_ts": [1.0] * 6,
        "pixel_values_videos": torch.randn(6 * 4 * 8 * 8, 3 * 2 * 4 * 4, generator=draw),
    }


def kept_pairs(page: dict[str, Any], last: omnisift.Compression, row: int) -> tuple[Tensor, Tensor]:
    """[places] bool: what was kept of the videos of a row, and of their depth."""
    kept, modality = last.keep[row], last.modality[row]
    return kept[modality == VIDEO], kept[modality == page["DEPTH"]]


def test_the_page_keeps_the_same_places_of_both_videos(page: dict[str, Any]) -> None:
    video, depth = kept_pairs(page, page["last"], 0)
    assert len(video) == len(depth) == 64
    assert torch.equal(video, depth)
    assert int(video.sum()) == 16
    assert page["last"].keep[0].sum() == page["ids"].shape[1] - 2 * 48
    assert (page["last"].n_video, page["last"].n_text) == (64, 0)
    assert page["output"].shape[1] == page["ids"].shape[1] + 6


@pytest.mark.parametrize("method", ["v_cast", "stvp", "random", "tome", "resift", "divprune+uniform"])
@pytest.mark.parametrize("budget", [omnisift.Budget(0.3), omnisift.Budget(tokens=23)], ids=["ratio", "number"])
def test_any_method_chooses_the_places(page: dict[str, Any], method: str, budget: omnisift.Budget) -> None:
    compressor = compressor_of(page, method, budget)
    with omnisift.attach(page["model"], compressor, adapter=page["DepthAdapter"]) as attachment, torch.no_grad():
        page["model"](**page["inputs"])
    video, depth = kept_pairs(page, attachment.last, 0)
    assert torch.equal(video, depth)
    assert 0 < int(video.sum()) < 64
    if budget.tokens:
        assert int(video.sum()) == 23


def test_the_choice_of_the_video_is_that_without_the_depth_track(page: dict[str, Any]) -> None:
    """The adapter of the library takes both videos for clips: the first is compressed alike."""
    model, inputs = page["model"], page["inputs"]
    with omnisift.attach(model, omnisift.make_compressor("resift", 0.25)) as attachment, torch.no_grad():
        model(**inputs)
    first = attachment.last.keep[0][attachment.last.modality[0] == VIDEO][:64]
    assert torch.equal(first, kept_pairs(page, page["last"], 0)[0])


def test_the_cut_prompt_is_read_as_the_masked_one(page: dict[str, Any]) -> None:
    model, inputs, ids = page["model"], page["inputs"], page["ids"]
    compressor = compressor_of(page, "v_cast", omnisift.Budget(0.25))  # merges nothing
    with omnisift.attach(model, compressor, adapter=page["DepthAdapter"]) as attachment, torch.no_grad():
        cut = model(**inputs).logits[0]
    kept = attachment.last.keep[0]
    length = len(kept)
    seen = torch.ones(length, length).tril().bool() & (kept | torch.eye(length).bool())
    mask = torch.zeros(length, length).masked_fill(~seen, torch.finfo(torch.float32).min)
    more = {"video_grid_thw": inputs["video_grid_thw"], "second_per_grid_ts": inputs["second_per_grid_ts"]}
    positions = model.model.get_rope_index(ids, inputs["mm_token_type_ids"], **more)[0]
    with torch.no_grad():
        masked = model(**{**inputs, "attention_mask": mask[None, None]}, position_ids=positions).logits[0, kept]
    assert (cut - masked).abs().max() < 1e-4 < (cut[1:] - masked[:-1]).abs().max()


def test_batches_and_beams_keep_the_places_of_each_clip(page: dict[str, Any]) -> None:
    model, inputs = page["model"], batch_of(page)
    compressor = compressor_of(page, "resift", omnisift.Budget(0.25))
    with omnisift.attach(model, compressor, adapter=page["DepthAdapter"]) as attachment, torch.no_grad():
        model(**inputs)
        single = attachment.last
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=2)
    for last, rows in ((single, (1, 2)), (attachment.last, (1, 1, 2, 2))):
        for row, pairs in enumerate(rows):
            video, depth = kept_pairs(page, last, row)
            assert len(video) == 64 * pairs
            assert torch.equal(video, depth)
            assert int(video.sum()) == 16 * pairs
    assert output.shape[1] == inputs["input_ids"].shape[1] + 4


def test_the_modality_needs_its_track(page: dict[str, Any]) -> None:
    with (
        omnisift.attach(page["model"], "resift", retain=0.25, adapter=page["DepthAdapter"]),
        torch.no_grad(),
        pytest.raises(CompressorError, match=r"modality 4 in clips, and compressor 'resift' has no track"),
    ):
        page["model"](**page["inputs"])
