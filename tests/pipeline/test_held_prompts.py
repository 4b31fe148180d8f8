"""Later questions about an encoded clip read their own tokens alone, and are answered as if they read all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family

import omnisift
from omnisift import Pipeline
from omnisift.models import adapter_for
from omnisift.world import make_scene, write_clip

QUESTIONS = [
    "What colour is the circle?",
    "Which sound?",
    "What happens in the clip at the end of it, and what is heard?",
]
METHODS = [None, "v_cast", "tome", "evs"]
STATES = ["qwen3_5", "qwen3_5_moe"]
TOLERANCE = 1e-4
"""Of logits, whose own size is about 5 to 20: sums of other lengths are added in another order."""


@pytest.fixture(scope="module")
def pipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """A pipeline of each family without a compressor, made when it is asked for; nano is Qwen2.5-Omni."""
    root, made = tmp_path_factory.mktemp("families"), dict[str, Pipeline]()

    def pipe(name: str) -> Pipeline:
        if name not in made:
            model = "nano" if name == "nano" else save_family(name, root / name)
            made[name] = omnisift.load(model, compressor=None)
        return made[name]

    return pipe


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    for seed in (3, 4):
        write_clip(make_scene(seed, split="test"), folder / f"{seed}.mp4")
    return [folder / "3.mp4", folder / "4.mp4"]


def size_of(name: str) -> dict[str, int]:
    return {"max_pixels": 16 * FACTORS.get(name, 28) ** 2}


@contextmanager
def watched(pipe: Pipeline) -> Iterator[tuple[list[torch.Tensor], list[int]]]:
    """The logits of every step, and the tokens that the language model is given."""
    logits, lengths = [], []
    language_model = adapter_for(pipe.host.thinker).parts.language_model
    hooks = [
        pipe.host.thinker.register_forward_hook(lambda _m, _a, output: logits.append(output.logits[:, -1].clone())),
        language_model.register_forward_hook(lambda _m, _a, output: lengths.append(output.last_hidden_state.shape[1])),
    ]
    yield logits, lengths
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_later_questions_equal_those_without_held_prompts(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], name: str, method: str | None
) -> None:
    pipe = pipe_of(name).with_compressor(method)
    plain = pipe.encode(clips[0], **size_of(name), hold_bytes=0)
    holding = pipe.encode(clips[0], **size_of(name))
    for number, question in enumerate([*QUESTIONS, QUESTIONS[0]]):
        with watched(pipe) as (expected, lengths):
            wanted = pipe.ask(plain, question, max_new_tokens=4)
        with watched(pipe) as (logits, own):
            answer = pipe.ask(holding, question, max_new_tokens=4)
        assert answer.text == wanted.text
        assert answer.report.tokens == wanted.report.tokens
        assert answer.report.notices == wanted.report.notices
        assert max(float((a - b).abs().max()) for a, b in zip(logits, expected, strict=True)) < TOLERANCE
        assert wanted.report.cached_tokens == 0
        cached = answer.report.cached_tokens
        assert (cached > 0) == (number > 0)
        assert answer.report.tokens.prompt_kept == lengths[0]
        if number:
            assert own[0] == lengths[0] - cached < 70
            assert answer.report.seconds.encode == 0
