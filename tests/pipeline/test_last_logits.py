"""`ask` and `ask_batch` compute the logits of the last position alone, and answer as with those of the whole prompt."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.family_folders import save_family
from torch import Tensor

from omnisift.models.last_logits import last_logits
from omnisift.pipeline import Pipeline, generation, load
from omnisift.pipeline.generation import FiniteLogits

QUESTIONS = ["What colour is the circle?", "Which sound is heard first?", "What happens in the clip at the end?"]
OMNI = "qwen3_omni_moe_thinker"


@pytest.fixture(scope="module", params=["nano", OMNI])
def pipeline(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    if request.param == "nano":
        return load("nano", retain=0.25)
    return load(str(save_family(OMNI, tmp_path_factory.mktemp("omni"))), compressor="v_cast", device="cpu")


def answers(pipe: Pipeline, prompts: list[Any], monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], Tensor, int]:
    """Texts, the logits that `generate` chooses from, and the most positions whose logits one call computes."""
    scores, rows = list[Tensor](), list[int]()
    monkeypatch.setattr(FiniteLogits, "__call__", lambda _, _ids, logits: scores.append(logits.clone()) or logits)
    head = pipe.host.thinker.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, _args, output: rows.append(output.shape[1]))
    texts = [answer.text for answer in pipe.ask_batch(prompts, max_new_tokens=8, max_pixels=16 * 32**2)]
    hook.remove()
    return texts, torch.cat(scores), max(rows)


@pytest.mark.parametrize("keeps_all", [False, True])
@pytest.mark.parametrize("count", [1, 3])
def test_answers_and_logits_are_those_of_the_whole_prompt(
    pipeline: Pipeline, clips: list[Path], keeps_all: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = Pipeline(pipeline.host, None) if keeps_all else pipeline
    prompts = list(zip(clips, QUESTIONS, strict=True))[:count]
    texts, scores, rows = answers(pipe, prompts, monkeypatch)
    monkeypatch.setattr(generation, "last_logits", lambda _model: nullcontext())
    whole_texts, whole_scores, whole_rows = answers(pipe, prompts, monkeypatch)
    assert texts == whole_texts
    torch.testing.assert_close(
        scores, whole_scores, rtol=0, atol=1e-5 * float(whole_scores[whole_scores.isfinite()].abs().max())
    )
    assert rows == 1 < whole_rows


def test_the_hook_is_removed(pipeline: Pipeline) -> None:
    head = pipeline.host.thinker.get_output_embeddings()
    with last_logits(pipeline.host.thinker):
        assert len(head._forward_pre_hooks) == 1
    assert not head._forward_pre_hooks


def test_hosts_with_logits_to_keep_are_left_alone(tmp_path: Path) -> None:
    thinker = load(str(save_family("qwen2_5_vl", tmp_path)), compressor=None, device="cpu").host.thinker
    with last_logits(thinker):
        assert not thinker.get_output_embeddings()._forward_pre_hooks
