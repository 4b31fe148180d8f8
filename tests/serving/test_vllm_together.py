"""Clips of one step are encoded together and come out as if each were alone; vLLM's runners pass them together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.serving.asking import Prompt, Reference, Video
from tests.serving.engines import Engine, Spy, engine
from torch import Tensor

from omnisift.budget import Budget
from omnisift.serving.position_columns import detach_columns

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("_inside")]
WIDTH = 128
"""Of nano's embeddings."""


@pytest.fixture(scope="module")
def vllm(model: Path, reference: Reference, _inside: None) -> Iterator[Engine]:
    with engine(model, reference.processor) as made:
        yield made


@pytest.fixture
def spy(vllm: Engine, monkeypatch: pytest.MonkeyPatch) -> Spy:
    made = Spy(vllm, monkeypatch)
    made.forget()
    return made


@pytest.fixture
def prompts(videos: list[Video]) -> list[Prompt]:
    """Different lengths and grids, with and without audio, two clips in a prompt, and an image."""
    from PIL import Image

    image = Image.fromarray(videos[4].images[0])
    small = Video(videos[2].images[:6, ::2, ::2], 2.0, videos[2].audio)
    return [
        Prompt(videos=(videos[0],)),
        Prompt("how many shapes are there ?", images=(image,), videos=(videos[1].first(6, 3.0),)),
        Prompt(videos=(videos[3].muted,)),
        Prompt("how many shapes are there ?", videos=(small, videos[5].first(4, 1.2))),
        Prompt("what sound comes with the red shape ?", videos=(videos[4].first(7, 5.0),)),
    ]


def test_together_is_as_one_by_one(vllm: Engine, reference: Reference, prompts: list[Prompt], spy: Spy) -> None:
    expected = [reference.tokens(prompt) for prompt in prompts]
    assert vllm.tokens(*prompts) == expected
    (sizes,), together = spy.videos, spy.clips
    assert len(sizes) == len(together) == 6
    assert len(set(sizes)) > 2, "clips of different sizes"
    assert spy.audio_calls == 1
    spy.forget()
    assert [vllm.tokens(prompt)[0] for prompt in prompts] == expected
    assert len(spy.videos) == len(prompts)
    for clip, alone in zip(together, spy.clips, strict=True):
        (embeds, columns), (expected_embeds, expected_columns) = (detach_columns(rows, WIDTH) for rows in (clip, alone))
        assert columns is not None
        assert expected_columns is not None
        assert torch.equal(columns.position_ids, expected_columns.position_ids), "the same tokens are kept"
        torch.testing.assert_close(embeds, expected_embeds, rtol=1e-5, atol=1e-5)
        assert embeds.abs().mean() > 0.01


def test_vllms_own_way_encodes_one_by_one(
    vllm: Engine, reference: Reference, prompts: list[Prompt], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `encode_together` the same step makes a call for each clip; `spy` can tell."""
    monkeypatch.delattr(spy.runner, "_execute_mm_encoder")
    assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]
    assert [len(sizes) for sizes in spy.videos] == [1] * 6


def test_generated_tokens_cost_no_search_of_the_prompt(
    vllm: Engine, reference: Reference, prompts: list[Prompt], spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM asks for positions at each of sixteen steps, and only the first reads media."""
    from omnisift.serving.vllm import model

    lengths: list[int] = []
    search = model.media_runs
    monkeypatch.setattr(model, "media_runs", lambda ids, labels: lengths.append(len(ids)) or search(ids, labels))
    assert vllm.tokens(prompts[0]) == [reference.tokens(prompts[0])]
    assert len(lengths) == 1


def test_a_step_is_encoded_in_bounded_parts(
    model: Path, reference: Reference, videos: list[Video], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 10 % a step takes ten times the tokens before compression that its budget says."""
    prompts = [Prompt(videos=(video.first(8, 4.0),)) for video in videos]
    limit = 400
    options = {"max_num_batched_tokens": limit, "max_model_len": limit}
    with engine(model, reference.processor, {"retain": 0.1}, **options) as vllm:
        spy = Spy(vllm, monkeypatch)
        assert vllm.tokens(*prompts) == [reference.tokens(prompt, Budget(retain=0.1)) for prompt in prompts]
    assert sum(len(sizes) for sizes in spy.videos) == len(videos)
    assert spy.audio_calls == len(spy.videos) < len(videos)
    audio_tokens = 100
    assert all(sum(sizes) + audio_tokens * len(sizes) <= limit for sizes in spy.videos)
    assert max(len(sizes) for sizes in spy.videos) > 1


# --- vLLM's runners for GPUs, without a GPU ---------------------------------------------------------------------------


class FakeModel:
    """Notes how many videos it gets in a call."""

    supports_multimodal_pruning = True

    def __init__(self) -> None:
        self.calls: list[int] = []

    def embed_multimodal(self, video_grid_thw: Tensor) -> tuple[Tensor, ...]:
        self.calls.append(len(video_grid_thw))
        return tuple(torch.ones(2, 4) * grid[0] for grid in video_grid_thw)


def three_videos() -> list[tuple[str, Any]]:
    from transformers import BatchFeature
    from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems

    fields = {"video_grid_thw": MultiModalFieldConfig.batched("video")}
    inputs = BatchFeature({"video_grid_thw": torch.tensor([[1, 2, 2], [2, 2, 2], [3, 2, 2]])})
    return [("video", item) for item in MultiModalKwargsItems.from_hf_inputs(inputs, fields)["video"]]


def fake_runner(model: FakeModel) -> Any:
    """vLLM's first runner for GPUs, with what its encoder step reads; the flag is that of its ``load_model``."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    runner = GPUModelRunner.__new__(GPUModelRunner)
    items = three_videos()
    names = [f"hash-{index}" for index in range(len(items))]
    runner.__dict__ |= {
        "model": model, "device": torch.device("cpu"), "lora_config": None, "observability_config": None,
        "is_multimodal_pruning_enabled": True, "requires_sequential_video_encoding": False,
        "encoder_cudagraph_manager": None, "encoder_cache": {},
        "_batch_mm_inputs_from_scheduler": lambda _: (names, items, [("request", None)] * len(items)),
        "maybe_save_ec_to_connector": lambda *_: None,
    }  # fmt: skip
    return runner


STEP = SimpleNamespace(scheduled_encoder_inputs={}, ec_manager_metadata=None, free_encoder_mm_hashes=[])


@pytest.mark.parametrize("second_runner", [False, True])
def test_the_worker_for_gpus(monkeypatch: pytest.MonkeyPatch, second_runner: bool) -> None:
    """Its first runner passes all videos at once and still asks for positions; the second is left as it is."""
    from vllm.v1.worker.gpu_worker import Worker

    from omnisift.serving.vllm.worker import GpuWorker

    model = FakeModel()
    monkeypatch.setattr(Worker, "_make_model_runner", lambda _: fake_runner(model))
    worker = GpuWorker.__new__(GpuWorker)
    worker.use_v2_model_runner = second_runner
    runner = worker._make_model_runner()
    outputs = runner._execute_mm_encoder(STEP)
    assert model.calls == ([1, 1, 1] if second_runner else [3])
    assert [int(output[0, 0]) for output in outputs] == [1, 2, 3]
    assert [int(output[0, 0]) for output in runner.encoder_cache.values()] == [1, 2, 3]
    assert runner.is_multimodal_pruning_enabled, "the model is asked for positions"


def test_the_flag_returns_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from omnisift.serving.vllm.worker import encode_together

    runner = fake_runner(FakeModel())
    monkeypatch.setattr(runner.model, "embed_multimodal", lambda **_: 1 / 0)
    encode_together(runner)
    with pytest.raises(ZeroDivisionError):
        runner._execute_mm_encoder(STEP)
    assert runner.is_multimodal_pruning_enabled


def test_vllms_second_runner_passes_videos_together() -> None:
    from vllm.v1.worker.gpu.mm.encoder_runner import EncoderRunner

    model = FakeModel()
    runner = EncoderRunner.__new__(EncoderRunner)
    runner.__dict__ |= {"model": model, "device": torch.device("cpu"), "cudagraph_manager": None}
    outputs = runner.execute_mm_encoder(three_videos())
    assert model.calls == [3]
    assert [int(output[0, 0]) for output in outputs] == [1, 2, 3]


def test_the_model_does_not_ask_for_single_videos() -> None:
    """vLLM's runner looks for this attribute and would encode one by one."""
    from omnisift.serving.vllm.model import OmniSiftThinker

    assert not hasattr(OmniSiftThinker, "requires_sequential_video_encoding")


def test_the_worker_is_chosen_on_gpus(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    from vllm.utils.import_utils import resolve_obj_by_qualname

    from omnisift.serving.vllm import choose_worker
    from omnisift.serving.vllm.worker import GpuWorker

    gpu = SimpleNamespace(is_cpu=lambda: False, is_cuda_alike=lambda: True)
    monkeypatch.setattr(choose_worker, "current_platform", gpu)
    monkeypatch.setitem(MODELS_CONFIG_MAP, "AModel", None)
    choose_worker.choose_worker("AModel")
    config = SimpleNamespace(parallel_config=SimpleNamespace(worker_cls="auto"), use_v2_model_runner=False)
    MODELS_CONFIG_MAP["AModel"].verify_and_update_config(config)
    assert resolve_obj_by_qualname(config.parallel_config.worker_cls) is GpuWorker
    MODELS_CONFIG_MAP["AModel"].verify_and_update_config(config)
    assert not caplog.records
    config.parallel_config.worker_cls = "other.Worker"
    MODELS_CONFIG_MAP["AModel"].verify_and_update_config(config)
    assert config.parallel_config.worker_cls == "other.Worker"
    assert "one at a time" in caplog.text
