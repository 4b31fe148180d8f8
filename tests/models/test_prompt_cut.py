"""`PromptCut` against a loop that a reader can check."""

from __future__ import annotations

import pytest
import torch

from omnisift.models.prompt_cut import IGNORE_INDEX, PromptCut
from omnisift.tokens import Selection


def random_batch(rows: int, length: int, side: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    keep = torch.rand(rows, length, generator=random) < 0.5
    keep[:, [0, -1]] = True
    real = torch.ones(rows, length, dtype=torch.bool)
    for row, pads in enumerate(torch.randint(0, length // 2, (rows,), generator=random).tolist()):
        real[row, slice(0, pads) if side == "left" else slice(length - pads, length)] = False
    keep |= ~real
    keep[:, length // 2] = True
    return keep, real


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("seed", range(20))
def test_a_cut_is_the_kept_tokens_of_each_row_and_padding_on_the_old_side(side: str, seed: int) -> None:
    rows, length = 3, 17
    keep, real = random_batch(rows, length, side, seed)
    embeds, labels = torch.randn(rows, length, 4), torch.arange(rows * length).view(rows, length)
    positions = torch.randint(0, 99, (3, rows, length))
    cut = PromptCut.plan(keep, real)
    kept = [[j for j in range(length) if keep[i, j] and real[i, j]] for i in range(rows)]
    width = max(map(len, kept))
    assert cut.width == width
    left = bool(real[:, -1].all())
    got = cut.inputs_embeds(embeds, Selection(keep.flatten()))
    for i, row in enumerate(kept):
        columns = slice(width - len(row), width) if left else slice(0, len(row))
        assert cut.mask[i].sum() == len(row)
        assert cut.mask[i, columns].all()
        assert torch.equal(got[i, columns], embeds[i, row])
        assert torch.equal(cut.position_ids(positions)[:, i, columns], positions[:, i, row])
        assert torch.equal(cut.labels(labels)[i, columns], labels[i, row])
        assert (cut.labels(labels)[i][~cut.mask[i]] == IGNORE_INDEX).all()
    assert cut.padded == any(len(row) < width for row in kept)
    assert cut.dropped.tolist() == [int(real[i].sum()) - len(row) for i, row in enumerate(kept)]


def test_the_text_row_has_no_gaps_and_restarts_for_each_packed_sequence() -> None:
    keep = torch.tensor([[1, 0, 1, 1, 1, 0, 0, 1]], dtype=torch.bool)
    text = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    rotary = torch.tensor([[5, 5, 5, 6, 7, 7, 8, 9]])
    cut = PromptCut.plan(keep, torch.ones_like(keep))
    positions = cut.position_ids(torch.stack([text, rotary, rotary, rotary]))
    assert positions[0].tolist() == [[0, 1, 2, 0, 1]]
    assert positions[1].tolist() == [[5, 5, 6, 7, 9]]


def test_the_text_row_counts_from_the_first_token_after_padding() -> None:
    real = torch.tensor([[0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    keep = torch.tensor([[1, 1, 1, 0, 1, 1]], dtype=torch.bool)
    other = torch.ones(1, 6, dtype=torch.bool)
    text = torch.tensor([[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    cut = PromptCut.plan(torch.cat([keep, other]), torch.cat([real, other]))
    assert cut.position_ids(text.expand(4, 2, 6))[0].tolist() == [[0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5]]


def test_merged_embeddings_replace_the_kept_ones_in_their_order() -> None:
    keep = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    new = torch.arange(4.0).view(4, 1)
    cut = PromptCut.plan(keep, torch.ones_like(keep))
    got = cut.inputs_embeds(torch.zeros(2, 3, 1), Selection(keep.flatten(), embeds=new))
    assert got.flatten().tolist() == [0, 1, 2, 3]


def test_lengths_of_packed_sequences_follow_the_cut() -> None:
    keep = torch.tensor([[1, 0, 1, 1, 1, 0, 0, 1]], dtype=torch.bool)
    cut = PromptCut.plan(keep, torch.ones_like(keep))
    cu_seq_lens = cut.cu_seq_lens(torch.tensor([0, 4, 8], dtype=torch.int32))
    assert cu_seq_lens.tolist() == [0, 3, 5]
    assert cu_seq_lens.dtype == torch.int32
