"""The plugin in other engine configurations: chunks, little memory, other methods, a separate process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.serving.asking import LENGTH, Prompt, Reference, Video, long_video
from tests.serving.engines import engine, sampling

from omnisift.budget import Budget
from omnisift.errors import CompressorError, UsageError
from omnisift.utils.assets import nano_path
from omnisift.utils.safetensors_files import read_prefixed

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("_inside")]


@pytest.fixture
def prompts(videos: list[Video]) -> list[Prompt]:
    return [
        Prompt(videos=(videos[0],)),
        Prompt("how many shapes are there ?", videos=(videos[1], videos[2])),
        Prompt(videos=(videos[3].muted,)),
        Prompt("what sound comes with the red shape ?", videos=(videos[4].first(6, 3.0),)),
    ]


@pytest.mark.parametrize("caching", [False, True])
def test_prompts_read_in_chunks(model: Path, reference: Reference, prompts: list[Prompt], caching: bool) -> None:
    """With 32 tokens per step each clip is read in several parts, from several requests at once."""
    options = {"max_num_batched_tokens": 32, "max_num_seqs": 4, "enable_prefix_caching": caching}
    with engine(model, reference.processor, {"retain": 0.5}, **options) as vllm:
        expected = [reference.tokens(prompt, Budget(retain=0.5)) for prompt in prompts]
        assert vllm.tokens(*prompts) == expected
        again = vllm.outputs(*prompts)
        assert [list(output.outputs[0].token_ids) for output in again] == expected
        assert any(output.num_cached_tokens for output in again) == caching


def test_a_clip_longer_than_a_step(model: Path, reference: Reference, videos: list[Video]) -> None:
    """vLLM would size the encoder cache for 14 images or for one step, and refuse longer videos."""
    prompt = Prompt(videos=(long_video(videos, seconds=144),))
    with engine(model, reference.processor, {"retain": 0.5}, max_num_batched_tokens=1024, max_num_seqs=4) as vllm:
        result = vllm.outputs(prompt)[0]
        assert len(result.prompt_token_ids) > 2000
        assert list(result.outputs[0].token_ids) == reference.tokens(prompt, Budget(retain=0.5))


def test_a_number_of_tokens_for_all_requests(model: Path, reference: Reference, videos: list[Video]) -> None:
    """The server's own number, also below the frames of a clip, and requests above the limit."""
    with engine(model, reference.processor, {"tokens": 30, "max_retain": 0.6}, max_num_seqs=4) as vllm:
        prompts = [Prompt(videos=(video,)) for video in (*videos[:2], long_video(videos, seconds=144))]
        assert vllm.tokens(*prompts) == [reference.tokens(prompt, Budget(tokens=30)) for prompt in prompts]
        with pytest.raises(ValueError, match=r"above this server's limit of 0\.6"):
            vllm.tokens(prompts[0], tokens=10**6)
        few = [reference.tokens(prompt, Budget(tokens=1)) for prompt in prompts[:2]]
        assert vllm.tokens(*prompts[:2], tokens=1) == few
        assert vllm.tokens(prompts[0], tokens=100) == [reference.tokens(prompts[0], Budget(tokens=100))]


def test_preempted_requests(model: Path, reference: Reference, prompts: list[Prompt]) -> None:
    """Twelve requests in a cache for about five: some are preempted and read again."""
    many = [prompts[index % 4] for index in range(12)]
    options = {"num_gpu_blocks_override": 32, "enable_prefix_caching": False, "max_model_len": 512}
    greedy = sampling(max_tokens=200, min_tokens=200)
    with engine(model, reference.processor, disable_log_stats=False, **options) as vllm:
        given = [prompt.for_vllm(vllm.processor) for prompt in many]
        result = vllm.llm.generate(given, greedy, use_tqdm=False)
        preempted = {metric.name: metric for metric in vllm.llm.get_metrics()}["vllm:num_preemptions"].value
        assert preempted > 0
        alone = [vllm.llm.generate([one.for_vllm(vllm.processor)], greedy, use_tqdm=False)[0] for one in prompts]
    assert [list(output.outputs[0].token_ids)[:LENGTH] for output in result] == [
        reference.tokens(prompt) for prompt in many
    ]
    for index, output in enumerate(result):
        assert output.outputs[0].token_ids == alone[index % 4].outputs[0].token_ids


@pytest.mark.parametrize("method", ["auto", "resift:causal=true"])
def test_the_default_method_of_plain_weights(
    model: Path, reference: Reference, prompts: list[Prompt], tmp_path: Path, method: str
) -> None:
    """`resift`, which merges dropped tokens into kept ones, also at the budgets of requests."""
    plain = tmp_path / "plain"
    shutil.copytree(model, plain, ignore=shutil.ignore_patterns("selector*"))
    expected = "resift" if method == "auto" else method
    with engine(plain, reference.processor, {"compressor": method, "retain": 0.5}) as vllm:
        for request, budget in (
            ({}, Budget(retain=0.5)),
            ({"retain": 0.1}, Budget(retain=0.1)),
            ({"tokens": 60}, Budget(tokens=60)),
        ):
            result = vllm.tokens(*prompts, **request)
            assert result == [reference.tokens(prompt, budget, expected) for prompt in prompts]


@pytest.mark.parametrize("method", ["stvp", "random", "dycoke", "none"])
def test_weights_without_a_selector(
    model: Path, reference: Reference, prompts: list[Prompt], tmp_path: Path, method: str
) -> None:
    """Plain Qwen2.5-Omni can be served with training-free methods, also one that merges, and without a method."""
    plain = tmp_path / "plain"
    shutil.copytree(model, plain, ignore=shutil.ignore_patterns("selector*"))
    with engine(plain, reference.processor, {"compressor": method, "retain": 0.5}) as vllm:
        result = vllm.tokens(*prompts)
        if method == "dycoke":
            with pytest.raises(ValueError, match="dycoke"):
                vllm.tokens(prompts[0], retain=0.05)
            assert vllm.tokens(prompts[0]) == result[:1], "the engine continues"
    expected = [
        reference.tokens(prompt, Budget(retain=1.0)) if method == "none" else
        reference.tokens(prompt, Budget(retain=0.5), method) for prompt in prompts
    ]  # fmt: skip
    if method == "random":  # it samples by the clip's index in its prompt, which is 0 for every clip in the engine
        del result[1], expected[1]
    assert result == expected


def test_a_selector_in_the_released_layout(
    model: Path, reference: Reference, prompts: list[Prompt], tmp_path: Path
) -> None:
    """``thinker.compressor.*`` among the tensors of the model."""
    from safetensors.torch import load_file, save_file

    from omnisift.vgas import VGAS

    released = tmp_path / "released"
    shutil.copytree(model, released, ignore=shutil.ignore_patterns("selector*"))
    selector = VGAS.from_pretrained(str(nano_path() / "selector")).state_dict()
    tensors = load_file(model / "model.safetensors") | {f"thinker.compressor.{k}": v for k, v in selector.items()}
    save_file(tensors, released / "model.safetensors", metadata={"format": "pt"})
    assert read_prefixed(released, "thinker.compressor.")
    with engine(released, reference.processor) as vllm:
        assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_no_selector_no_start(model: Path, reference: Reference, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(model, plain, ignore=shutil.ignore_patterns("selector*"))
    refusal = pytest.raises(CompressorError, match=r"has no selector weights; .*--compressor v_cast")
    with refusal, engine(plain, reference.processor, {"compressor": "omnisift"}):
        pass


def test_an_engine_in_a_separate_process(
    model: Path, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with engine(model, reference.processor) as vllm:
        assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_compiled(model: Path, reference: Reference, prompts: list[Prompt]) -> None:
    """With torch.compile, in chunks."""
    with engine(model, reference.processor, enforce_eager=False, max_num_batched_tokens=96, max_num_seqs=4) as vllm:
        assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_another_worker_on_a_cpu(model: Path, reference: Reference) -> None:
    """The plugin chooses its own worker; with vLLM's, positions would be lost."""
    refusal = pytest.raises(UsageError, match="leave it out")
    with refusal, engine(model, reference.processor, worker_cls="vllm.v1.worker.cpu_worker.CPUWorker"):
        pass


def test_videos_need_the_audio_encoder(model: Path, reference: Reference) -> None:
    """vLLM would not load it, and the first video with sound would end the engine."""
    refusal = pytest.raises(UsageError, match="leave it out")
    with refusal, engine(model, reference.processor, limit_mm_per_prompt={"video": 1, "audio": 0}):
        pass
