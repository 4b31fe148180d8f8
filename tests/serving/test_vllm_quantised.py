"""Quantised language models in vLLM: the same tokens are kept, and the answers are those of the stored weights.

Which forms and caches vLLM runs depends on the CPU (docs/small-machines.md); each runs or is refused in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.serving.asking import Prompt, Reference, Video
from tests.serving.engines import Engine, Spy, engine, sampling, stop
from tests.serving.over_http import QUESTION, data_url, serving, tokens
from tests.serving.quantised import quantise

from omnisift.errors import UsageError
from omnisift.pipeline.prompt import read_for
from omnisift.serving.offline import OfflineEngine
from omnisift.serving.position_columns import detach_columns
from omnisift.serving.vllm.settings import Settings
from omnisift.utils.assets import nano_path

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("_inside")]
WIDTH = 128
"""Of nano's embeddings."""
FLAGS = ("--enforce-eager", "--block-size", "32", "--max-model-len", "4096")
LARGEST_SHIFT = {"int8": 0.6, "fp8": 0.3}
"""Of the log probability of an answer, from float32; 0.47 and 0.21 were measured."""
NO_FP8_CACHE = "vLLM does not start: FP8 KV cache on CPU requires x86 with AVX-512 or AMX"
HAS_AVX512 = " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
NO_4_BIT = r"vLLM can't multiply by the weights of language_model\.\S+ on this CPU .*cpu_gemm_wna16.*; use another"


@dataclass(frozen=True)
class Outcome:
    """What an engine makes of some prompts."""

    clips: Sequence[torch.Tensor]
    """Kept rows of each clip, with their positions."""
    answers: Sequence[int]
    """The first token of each answer; nano's answers to these questions are one word."""
    logprobs: Sequence[float]

    @property
    def positions(self) -> list[torch.Tensor]:
        """Of the kept tokens of each clip."""
        return [columns.position_ids for _, columns in (detach_columns(rows, WIDTH) for rows in self.clips) if columns]

    @classmethod
    def of(cls, vllm: Engine, prompts: Sequence[Prompt], patch: pytest.MonkeyPatch) -> Outcome:
        spy = Spy(vllm, patch)
        given = [prompt.for_vllm(vllm.processor) for prompt in prompts]
        outputs = [output.outputs[0] for output in vllm.llm.generate(given, sampling(logprobs=1), use_tqdm=False)]
        answers = [output.token_ids[0] for output in outputs]
        logprobs = [output.logprobs[0][answer].logprob for output, answer in zip(outputs, answers, strict=True)]
        return cls(spy.clips, answers, logprobs)


@pytest.fixture(scope="module")
def prompts(videos: list[Video]) -> list[Prompt]:
    """Twelve questions with answers of one word."""
    return [
        Prompt(question, videos=(video,)) for video in videos for question in (QUESTION, "how many shapes are there ?")
    ]


@pytest.fixture(scope="module")
def plain(model: Path, reference: Reference, prompts: list[Prompt], _inside: None) -> Outcome:
    """The weights as stored, in float32."""
    with engine(model, reference.processor) as vllm, pytest.MonkeyPatch.context() as patch:
        return Outcome.of(vllm, prompts, patch)


@pytest.fixture(scope="module")
def int8(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantise(model, tmp_path_factory.mktemp("models") / "int8", "int8")


@pytest.mark.parametrize("form", ["int8", "fp8"])
def test_a_quantised_language_model(
    model: Path, reference: Reference, prompts: list[Prompt], plain: Outcome, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, form: str,
) -> None:  # fmt: skip
    """Encoders are as stored, so the kept rows are equal; answers are those of Transformers with these weights."""
    quantised = quantise(model, tmp_path / form, form)
    with engine(quantised, reference.processor) as vllm:
        outcome = Outcome.of(vllm, prompts, monkeypatch)
    assert len(outcome.clips) == len(prompts) / 2, "each clip is encoded once for its two questions"
    assert all(torch.equal(*pair) for pair in zip(outcome.clips, plain.clips, strict=True))
    assert outcome.answers == plain.answers
    transformers = Reference(str(quantise(nano_path(), tmp_path / "thinker", form)))
    assert outcome.answers == [transformers.tokens(prompt)[0] for prompt in prompts]
    shift = max(abs(one - other) for one, other in zip(outcome.logprobs, plain.logprobs, strict=True))
    assert 0 < shift < LARGEST_SHIFT[form], "not 0: the layers are quantised"
    assert all(math.isfinite(value) for value in outcome.logprobs)


@pytest.mark.parametrize(
    ("form", "flags", "message"),
    [
        ("int8", ("--quantization", "compressed-tensors"), None),
        ("int4", (), NO_4_BIT),
        ("gptq", ("--dtype", "bfloat16"), NO_4_BIT),
        ("awq", ("--dtype", "bfloat16"), NO_4_BIT),
        ("int8", ("--kv-cache-dtype", "fp8"), NO_FP8_CACHE),
    ],
)
def test_the_engine_of_run(
    model: Path, reference: Reference, plain: Outcome, tmp_path: Path,
    form: str, flags: tuple[str, ...], message: str | None,
) -> None:  # fmt: skip
    """The answer to a prompt, or one sentence before any prompt where the CPU lacks the instructions."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    quantised = quantise(model, tmp_path / form, form)
    start = partial(OfflineEngine, str(quantised), Settings(), vllm_args=(*FLAGS, *flags))
    cleanup_dist_env_and_memory()  # of an engine that was refused
    if message is not None and not HAS_AVX512:
        with pytest.raises(UsageError, match=f"^{message}") as refusal:
            start()
        assert "\n" not in str(refusal.value)
        return
    made = start()
    Video.of_world(tmp_path, 0)
    try:
        answer = made.ask([(read_for(reference.processor, tmp_path / "0.mp4"), [QUESTION])], 1)[0]
    finally:
        stop(made.llm)
    assert not isinstance(answer, Exception), answer
    assert answer[0].text == reference.processor.tokenizer.decode(plain.answers[0])


def test_the_encoders_stay_as_they_are(
    model: Path, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights quantised by vLLM while it loads: without an exception for encoders, other tokens are kept."""
    apart = {"quantization_config": {"ignore": ["re:visual.*"]}}
    outcomes = []
    for more in ({}, {"quantization": "fp8_per_channel", **apart}, {"quantization": "fp8_per_channel"}):
        with engine(model, reference.processor, dtype="bfloat16", **more) as vllm:
            outcomes.append(Outcome.of(vllm, prompts, monkeypatch))
    plain, language_model, all_layers = outcomes
    assert all(torch.equal(*pair) for pair in zip(language_model.clips, plain.clips, strict=True))
    assert plain.answers == language_model.answers
    assert plain.logprobs != language_model.logprobs
    assert not all(torch.equal(*pair) for pair in zip(all_layers.positions, plain.positions, strict=True))


def test_served_over_http(int8: Path, plain: Outcome, tmp_path: Path) -> None:
    """`omnisift serve` of the checkpoint, with the flag of vLLM that names its form."""
    Video.of_world(tmp_path, 1)
    with serving([], ["--quantization", "compressed-tensors"], tmp_path / "log.txt", str(int8)) as server:
        status, body = server.ask(data_url(tmp_path / "1.mp4"))
    assert status == 200, body
    assert tokens(body)[0] == plain.answers[2]
