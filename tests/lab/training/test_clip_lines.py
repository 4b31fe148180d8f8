"""Lines in packed prompts: their places, their positions, and what the language model sees of them."""

import numpy as np
import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import UsageError
from omnisift.lab.training.clip_lines import NOWHERE, LinePlaces, line_batch, modality_of
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens, forward_packed
from omnisift.lab.training.losses import answer_losses
from omnisift.lab.training.nano_model import WIDTH, build_model, language_model_of
from omnisift.lab.training.packed import WIDE_WEIGHTS, Writer, clip_layout, make_batch
from omnisift.lab.training.text_batches import IDS, Prompts, TextBatches, any_budget, some_lines
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.media.lines import Line
from omnisift.world import WIDE_TYPES, subtitles, vocabulary

LINES = (
    [Line(0.0, 1.0, "beep"), Line(1.999, 3.0, "open"), Line(2.0, 3.0, "hum"), Line(2.0, 3.0, "news")],
    [Line(3.37, 4.0, "fall"), Line(5.99, 7.0, "exit"), Line(7.5, 8.0, "hum")],
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(vocabulary(WIDE_TYPES))


@pytest.fixture(scope="module")
def wide(tokenizer):
    return build_model(tokenizer).eval()


@pytest.fixture(scope="module")
def features():
    torch.manual_seed(0)
    return FeatureCache("train", 0, torch.randn(3, 600, WIDTH).half(), torch.randn(3, 150, WIDTH).half(), "wide")


@pytest.fixture(scope="module", params=[True, False], ids=["sound", "no sound"])
def prompts(request, wide, tokenizer, features):
    layout = clip_layout(wide, tokenizer, 6, request.param, 10)
    return Prompts(features.scenes, layout, LinePlaces.of(modality_of(layout), layout.position[0], 1 / IDS), tokenizer)


def plain_prompt(layout, tokenizer, lines, kept):
    """(kept tokens and lines in order, their rotary ids), by a loop over the tokens; a token is its number, a line its
    text."""
    modality = modality_of(layout)
    clip = [place for place in range(len(layout.ids)) if modality[place] > 0]
    begin = min(int(layout.position[0, place]) for place in clip)
    seconds = {place: (int(layout.position[0, place]) - begin) / 25 for place in clip}
    tokens, rows, free = [], [], 0
    for place in range(len(layout.ids)):
        if place in kept:
            tokens.append(place)
            rows.append(layout.position[:, place].tolist())
        if place not in clip:
            continue
        # The last token of two seconds, of which the last two have all later lines.
        chunk = min(int(seconds[place] // 2), 2)
        if place != max(other for other in clip if min(int(seconds[other] // 2), 2) == chunk):
            continue
        for line in lines:
            if min(int(line.start // 2), 2) == chunk:
                latest = max(int(layout.position[0, other]) for other in clip if seconds[other] <= line.start)
                free = max(latest, free)
                tokens.append(line.text)
                rows.append([free] * 3)
                free += 1
    # The text behind the clip is behind the last line, too.
    shift = max(0, free - int(layout.position[0, max(clip) + 1]))
    rows = [[p + shift for p in row] if not isinstance(t, str) and t > max(clip) else row
            for t, row in zip(tokens, rows, strict=True)]  # fmt: skip
    return tokens, torch.tensor(rows).T, shift


@pytest.mark.parametrize("retain", [None, 0.1])
@torch.no_grad()
def test_lines_are_read_at_their_places(wide, prompts, features, retain):
    """Rows of different length in one batch answer like prompts that were put together one by one."""
    layout, tokenizer, language = prompts.layout, prompts.tokenizer, language_model_of(wide)
    batch = make_batch(features, [0, 1], Writer(tokenizer), 3, np.random.default_rng(0), types=WIDE_WEIGHTS)
    batch = prompts.lined(batch, LINES)
    if retain is not None:
        batch = prompts.compressed(batch, make_compressor("resift:merge=false", Budget(retain=retain)))
        assert batch["places"].shape[1] < 120
    out = forward_packed(wide, layout, batch)
    for row, lines in enumerate(LINES):
        kept = set(batch["places"][row].tolist()) if retain is not None else set(range(len(layout.ids)))
        tokens, position, shift = plain_prompt(layout, tokenizer, lines, kept)
        full = language.embed_tokens(layout.ids)
        full[layout.video], full[layout.audio] = batch["video"][row], batch["audio"][row]
        words = [language.embed_tokens(torch.tensor(tokenizer.convert_tokens_to_ids(t)))
                 if isinstance(t, str) else full[t] for t in tokens]  # fmt: skip
        real = torch.cat([torch.ones(len(tokens)), torch.zeros(out.prefix - len(tokens))]).bool()
        assert torch.equal(out.position[:, row, : out.prefix][:, real], position)
        first = batch["segment"][row] == 1
        question = language.embed_tokens(batch["tail"][row][first])
        after = (layout.after + shift + torch.arange(len(question))).expand(3, -1)
        alone = language(
            inputs_embeds=torch.cat([torch.stack(words), question])[None],
            position_ids=torch.cat([position, after], dim=1)[:, None],
        ).last_hidden_state[0]
        seen = out.last[row, out.prefix :][first]
        assert (seen - alone[len(tokens) :]).abs().max() < 1e-5
        assert (out.last[row, : out.prefix][real] - alone[: len(tokens)]).abs().max() < 1e-5


@torch.no_grad()
def test_without_lines_nothing_changes(wide, prompts, features):
    batch = make_batch(features, [0, 1], Writer(prompts.tokenizer), 2, np.random.default_rng(0), types=WIDE_WEIGHTS)
    plain = {**batch, "audio": batch["audio"][:, : len(prompts.layout.audio)]}
    out, empty = (forward_packed(wide, prompts.layout, b) for b in (plain, prompts.lined(batch, [[], []])))
    assert torch.equal(out.last, empty.last)


@torch.no_grad()
def test_kept_tokens_are_found_among_lines(wide, prompts, features):
    """The places of kept tokens, which auxiliary losses read, are those that they have behind the lines before them."""
    batch = make_batch(features, [0, 1], Writer(prompts.tokenizer), 2, np.random.default_rng(0), types=WIDE_WEIGHTS)
    kept = KeptTokens(torch.tensor([[0, 250, 599]] * 2), torch.zeros(2, 0, dtype=torch.int64))
    out = forward_packed(wide, prompts.layout, prompts.lined(batch, LINES), kept)
    for row in range(2):
        expected = prompts.layout.position[:, prompts.layout.video[kept.video[row]]]
        assert torch.equal(out.position[:, row, out.video_at[row]], expected)
    plain = forward_packed(wide, prompts.layout, prompts.lined(batch, [[], []]), kept)
    assert (out.video_at - plain.video_at).tolist() == [[0, 2, 4], [0, 0, 1]]


def test_a_line_is_one_word(prompts):
    with pytest.raises(UsageError, match="'red circle' has 2 tokens"):
        line_batch([[Line(0.0, 1.0, "red circle")]], prompts.places, prompts.tokenizer)


def test_rows_are_padded_behind_everything(prompts):
    batch = line_batch(LINES, prompts.places, prompts.tokenizer)
    assert (batch["line_after"] == NOWHERE).sum(dim=1).tolist() == [0, 1]
    assert prompts.tokenizer.convert_ids_to_tokens(batch["line_ids"][1, :2].tolist()) == ["fall", "exit"]


def test_what_clips_have_in_training(features):
    rng = np.random.default_rng(0)
    rows = [some_lines(features.scenes[0], 0.5, rng) for _ in range(600)]
    other = set(subtitles(features.scenes[0], "wrong"))
    lined = [row for row in rows if row]
    assert 0.42 < len(lined) / len(rows) < 0.58
    wrong = [row for row in lined if other.issuperset(row)]
    assert 0.04 < len(wrong) / len(lined) < 0.18
    assert any(0 < len(row) < len(subtitles(features.scenes[0])) for row in lined)
    budgets = [any_budget(True, rng) for _ in range(300)]
    assert 50 < sum(budget is None for budget in budgets) < 140
    assert {budget.retain for budget in budgets if budget} == {None, 0.5, 0.25, 0.15, 0.1, 0.05}
    assert {budget.retain_audio for budget in budgets if budget} >= {0.02, 0.05, 0.5}


def test_a_training_step_learns_through_lines(wide, prompts, features):
    make = {
        False: lambda budget: make_compressor("resift", budget),
        True: lambda budget: make_compressor("random", budget),
    }
    batches = TextBatches([prompts], lambda budget, trained: make[trained](budget))
    batch = make_batch(features, [0, 2], Writer(prompts.tokenizer), 4, np.random.default_rng(0), types=WIDE_WEIGHTS)
    batch["source"] = torch.tensor(0)
    found = [batches(batch, [0, 2], step) for step in range(12)]
    again = batches(batch, [0, 2], 3)
    assert all(torch.equal(again[name], value) for name, value in found[3].items())
    assert {"places" in b for b in found} == {True, False}
    assert max(b["line_ids"].shape[1] for b in found) > 2
    step = next(b for b in found if "places" in b and b["line_ids"].shape[1] > 2)
    wide.requires_grad_(True)
    losses = answer_losses(wide, forward_packed(wide, prompts.layout, step), step)
    sum(losses.values()).backward()
    assert all(float(p.grad.abs().max()) > 0 for p in language_model_of(wide).layers.parameters())
    wide.zero_grad()
    wide.requires_grad_(False)


def test_accuracies_with_lines(wide, prompts, features):
    """What is measured with lines is what the batch has."""
    seen = []

    def prepare(batch, clips):
        seen.append(clips)
        return prompts.lined(batch, [subtitles(features.scenes[clip]) for clip in clips])

    result = accuracies(
        wide, prompts.layout, Writer(prompts.tokenizer), features, clips=3, types=("said",), prepare=prepare
    )
    assert seen == [[0, 1, 2]]
    assert set(result) == {"said", "mean"}
