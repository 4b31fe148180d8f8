"""Packed prompts answer like single prompts, with and without compression."""

import numpy as np
import pytest
import torch

from omnisift.budget import kept_count
from omnisift.lab.training.forward import KeptTokens, forward_packed
from omnisift.lab.training.packed import CAPTION, END, make_batch
from omnisift.lab.training.selections import augmented, omnisift_selection, random_selection, stvp_scores, top_indices
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.models.selector import new_selector


@pytest.fixture
def batch(features, writer):
    return make_batch(features, [0, 3], writer, 9, np.random.default_rng(1), captions=1.0, perturb=True)


def single(batch, row, segment):
    """The same question as a single prompt."""
    ids = batch["tail"][row][batch["segment"][row] == segment]
    return {
        "video": batch["video"][row : row + 1],
        "audio": batch["audio"][row : row + 1],
        "tail": ids[None],
        "segment": torch.ones(1, len(ids), dtype=torch.long),
        "offset": torch.arange(len(ids))[None],
    }


@pytest.mark.parametrize("retain", [None, 0.25])
@torch.no_grad()
def test_packed_equals_single(model, layout, batch, retain):
    kept = None if retain is None else random_selection(retain)(batch["video"], batch["audio"])
    packed = forward_packed(model, layout, batch, kept)
    for row, segment in ((0, 1), (1, 4), (1, 10)):
        own = None if kept is None else KeptTokens(kept.video[row : row + 1], kept.audio[row : row + 1])
        alone = forward_packed(model, layout, single(batch, row, segment), own)
        here = packed.last[row, packed.prefix :][batch["segment"][row] == segment]
        assert (here - alone.last[0, alone.prefix :]).abs().max() < 1e-5


@torch.no_grad()
def test_single_equals_the_hosts_forward(model, layout, batch):
    """The language model alone equals the host's forward on the same embeddings."""
    one = single(batch, 0, 2)
    out = forward_packed(model, layout, one)
    ids = torch.cat([layout.ids, one["tail"][0]])[None]
    embeds = model.get_input_embeddings()(ids)
    embeds[0, layout.video], embeds[0, layout.audio] = one["video"][0], one["audio"][0]
    tail = (layout.after + torch.arange(one["tail"].shape[1])).expand(3, -1)
    position = torch.cat([layout.position, tail], dim=1)[:, None]
    host = model.model(inputs_embeds=embeds, position_ids=position, attention_mask=torch.ones_like(ids))
    assert (out.last - host.last_hidden_state).abs().max() < 1e-5


def test_every_segment_has_its_answer_and_its_end(batch, tokenizer):
    labels, kind = batch["labels"], batch["kind"]
    assert ((labels != IGNORE_INDEX) == (kind != IGNORE_INDEX)).all()
    assert int((kind < CAPTION).logical_and(kind != IGNORE_INDEX).sum()) == 2 * 9
    assert int((kind == END).sum()) == 2 * 10
    assert (labels[kind == END] == tokenizer.eos_token_id).all()
    due = (kind < CAPTION) & (kind != IGNORE_INDEX)
    assert (batch["tail"][due] == tokenizer.convert_tokens_to_ids("assistant")).all()


def test_pointers_are_on_labelled_tokens(batch):
    rows, places = torch.nonzero(batch["pointer"].any(-1), as_tuple=True)
    shown = torch.cat([batch["video_class"], batch["audio_class"]], dim=1) > 0
    assert len(rows) > 5
    assert shown[rows][batch["pointer"][rows, places]].all()


def test_the_same_seed_gives_the_same_batch(features, writer):
    one, two = (make_batch(features, [1, 2], writer, 5, np.random.default_rng(7), perturb=True) for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(("total", "retain", "kept"), [(16, 0.25, 4), (16, 0.15, 3), (16, 0.35, 6), (50, 0.25, 13)])
def test_counts_equal_the_librarys(total, retain, kept):
    from omnisift.budget import Budget
    from omnisift.chunks import ChunkShapes

    shapes = ChunkShapes(*(torch.tensor([n]) for n in (total, total, total, 0)))
    assert kept_count(total, retain) == kept
    assert int(Budget(retain_video=retain, retain_audio=retain).counts(shapes).audio) == kept


def test_the_training_selection_equals_the_compressors(layout, features):
    """The fixed shapes of training select the tokens that the library's compressor selects."""
    from omnisift.budget import Budget
    from omnisift.chunks import build_stream
    from omnisift.compressors import make_compressor
    from omnisift.tokens import Modality

    selector = new_selector(128, True, 3).eval()
    video, audio = features.video[:1].float(), features.audio[:1].float()
    kept = omnisift_selection(selector, 0.25)(video, audio)
    modality = torch.zeros(len(layout.ids), dtype=torch.int8)
    modality[layout.video], modality[layout.audio] = int(Modality.VIDEO), int(Modality.AUDIO)
    embeds = torch.zeros(len(layout.ids), 128)
    embeds[layout.video], embeds[layout.audio] = video[0], audio[0]
    stream = build_stream(embeds, modality, layout.position, torch.zeros(len(layout.ids)), 0.04)
    compressor = make_compressor("omnisift", Budget(retain_video=0.25, retain_audio=0.25), selector=selector).eval()
    with torch.no_grad():
        keep = compressor(stream).keep
    assert torch.equal(torch.nonzero(keep[layout.video]).flatten(), kept.video[0])
    assert torch.equal(torch.nonzero(keep[layout.audio]).flatten(), kept.audio[0])


def test_augmentation_keeps_equal_numbers_in_ascending_order(features):
    video, audio = features.video[:4].float(), features.audio[:4].float()
    for seed in range(12):
        kept = augmented(video, audio, (0.5, 0.15), np.random.default_rng(seed), new_selector(128, True, 0))
        assert kept.video.shape[0] == 4
        assert kept.video.shape[1] in (48, 18)
        assert (kept.audio.diff(dim=1) > 0).all()


def test_top_keeps_the_lowest_index_of_equal_scores():
    assert top_indices(torch.zeros(1, 2, 4), 2).tolist() == [[0, 1, 4, 5]]
    assert top_indices(stvp_scores(torch.randn(2, 96, 8)), 4).shape == (2, 24)
