"""Self-distillation of packed prompts: the teacher's own greedy answers, the KL, and a budget that falls."""

import numpy as np
import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import UsageError
from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.training import protocol
from omnisift.lab.training.forward import forward_packed
from omnisift.lab.training.losses import answer_losses
from omnisift.lab.training.packed import make_batch
from omnisift.lab.training.self_distillation import distillation_losses, own_answers
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.pipeline.loading import load_host
from omnisift.training.curriculum import check_start, falling_budget
from omnisift.training.losses import SELF_DISTILLATION
from omnisift.utils.assets import nano_path
from omnisift.world import make_scene


@pytest.fixture(scope="module")
def tuned():
    clips = encode_scenes(load_host("nano", "cpu", None, None), [make_scene(seed, "train") for seed in range(9)])
    made = protocol.TrainedProtocol(nano_path(), clips)
    made.settings = type(made.settings).small()
    return made


@pytest.fixture(scope="module")
def model(tuned):
    return tuned.model().eval()


@pytest.fixture(scope="module")
def batch(tuned):
    return make_batch(tuned.features, [0, 4], tuned.writer, 4, np.random.default_rng(0), captions=1.0)


def greedy(model, tuned, batch, row, places):
    """The answer at these labels, token by token: each is appended before the next is asked for."""
    tail, answer = batch["tail"].clone(), []
    for place in places:
        out = forward_packed(model, tuned.layout, {**batch, "tail": tail})
        answer.append(int(model.lm_head(out.last[row, out.prefix + place]).argmax()))
        if answer[-1] == tuned.writer.end:
            break
        if place + 1 in places:
            tail[row, place + 1] = answer[-1]
    return answer


@pytest.mark.parametrize("wrong", [False, True])
def test_own_answers_are_the_greedy_ones_whatever_the_data_say(tuned, model, batch, wrong):
    """A weaker teacher differs from the data in many words, and a caption of 20 words follows its own words."""
    if wrong:
        with torch.no_grad():
            model.lm_head.weight.add_(
                torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
            )
    own, differing = own_answers(model, tuned.layout, batch, tuned.writer.end), 0
    for row in range(2):
        for segment in range(1, int(batch["segment"][row].max()) + 1):
            inside = (batch["segment"][row] == segment) & (batch["labels"][row] != IGNORE_INDEX)
            places = torch.nonzero(inside).flatten().tolist()
            expected = greedy(model, tuned, {**batch, "tail": own["tail"]}, row, places)
            found = [int(own["labels"][row, place]) for place in places]
            assert found == expected + [IGNORE_INDEX] * (len(places) - len(expected))
            differing += found != [int(batch["labels"][row, place]) for place in places]
    prompt = (batch["labels"] == IGNORE_INDEX) & (batch["labels"].roll(1, dims=1) == IGNORE_INDEX)
    assert torch.equal(own["tail"][prompt], batch["tail"][prompt])
    assert differing > (5 if wrong else 0) or not wrong
    if wrong:
        model.load_state_dict(tuned.model().state_dict())


def test_the_divergence_is_zero_with_all_tokens_and_positive_without(tuned, model, batch):
    batch = batch | own_answers(model, tuned.layout, batch, tuned.writer.end)
    full = distillation_losses(model, forward_packed(model, tuned.layout, batch), batch)
    assert full.keys() == answer_losses(model, forward_packed(model, tuned.layout, batch), batch).keys()
    assert all(abs(float(value)) < 1e-5 for value in full.values())
    tenth = Budget(retain_video=0.05, retain_audio=0.05)
    cut = protocol.BatchCompressor(make_compressor("random", tenth), tuned.clips, tuned.layout)(batch, [0, 4], 0)
    losses = distillation_losses(model, forward_packed(model, tuned.layout, cut), cut)
    assert float(losses["answer"]) > 1e-3


def test_tuning_by_self_distillation_under_a_falling_budget(tuned, tmp_path, monkeypatch):
    kept = []
    original = protocol.BatchCompressor.__call__

    def call(self, batch, clips, step):
        result = original(self, batch, clips, step)
        kept.append((step, result["places"].shape[1]))
        return result

    monkeypatch.setattr(protocol.BatchCompressor, "__call__", call)
    budget = Budget(retain_video=0.1, retain_audio=0.1)
    after = tuned.tune(make_compressor("resift", budget), 4, tmp_path / "steps", SELF_DISTILLATION, 0.5)
    assert [step for step, _ in kept] == [0, 1, 2, 3]
    assert kept[0][1] > kept[1][1] > kept[2][1] == kept[3][1]
    before = tuned.model().state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in after.state_dict().items())


def test_a_budget_falls_linearly_and_then_stays():
    end = Budget(retain=0.1, compress_audio=True)
    fractions = [falling_budget(end, 0.5, step / 8, 0.5).retain for step in range(9)]
    assert fractions == pytest.approx([0.5, 0.4, 0.3, 0.2, *[0.1] * 5])
    assert falling_budget(end, 0.5, 0).compress_audio
    assert falling_budget(end, None, 0) is end
    both = falling_budget(Budget(retain_video=0.1, retain_audio=0.7), 0.5, 0.25)
    assert (both.retain_video, both.retain_audio) == pytest.approx((0.3, 0.7))
    for start, budget in ((0.1, end), (1.0, end), (float("nan"), end), (0.5, Budget(tokens=9))):
        with pytest.raises(UsageError, match="retain_start"):
            check_start(start, budget)
