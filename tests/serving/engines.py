"""vLLM inside this process, on a full model."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.serving.asking import LENGTH, Prompt
from torch import Tensor

from omnisift.serving.families import SERVED


class Engine:
    """An offline engine that answers `Prompt`s with token ids."""

    def __init__(self, llm: Any, processor: Any) -> None:
        self.llm = llm
        self.processor = processor

    def outputs(self, *prompts: Prompt, **kwargs: Any) -> list[Any]:
        """vLLM's results; ``kwargs`` are arguments of the requests."""
        return self.llm.generate(  # type: ignore[no-any-return]
            [prompt.for_vllm(self.processor, **kwargs) for prompt in prompts], sampling(), use_tqdm=False
        )

    def tokens(self, *prompts: Prompt, **kwargs: Any) -> list[list[int]]:
        return [list(output.outputs[0].token_ids) for output in self.outputs(*prompts, **kwargs)]


def sampling(**options: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{"temperature": 0, "max_tokens": LENGTH, "min_tokens": LENGTH, **options})


def architecture_of(model: Path) -> str:
    """The plugin's model class for a checkpoint."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return SERVED[config["model_type"]].architecture


class Spy:
    """What an engine's encoders are called with, and the clips that `embed_multimodal` returns."""

    def __init__(self, vllm: Engine, patch: pytest.MonkeyPatch) -> None:
        self.llm = vllm.llm
        self.runner = vllm.llm.llm_engine.model_executor.driver_worker.worker.model_runner
        self.model = self.runner.get_model()
        self.videos: list[list[int]] = []
        """Video tokens of each clip, call by call."""
        self.audio_calls = 0
        self.clips: list[Tensor] = []
        encode_videos, encode_audio = self.model._process_video_input, self.model._process_audio_input
        embed = self.model.embed_multimodal

        def videos(inputs: Any) -> Any:
            result = encode_videos(inputs)
            self.videos.append([len(video) for video in result])
            return result

        def audio(inputs: Any) -> Any:
            self.audio_calls += 1
            return encode_audio(inputs)

        def embed_multimodal(**inputs: Any) -> Any:
            result = embed(**inputs)
            if "video_grid_thw" in inputs:
                self.clips.extend(result)
            return result

        patch.setattr(self.model, "_process_video_input", videos)
        patch.setattr(self.model, "_process_audio_input", audio)
        patch.setattr(self.model, "embed_multimodal", embed_multimodal)

    def forget(self) -> None:
        """Empty all caches of the engine and what was noted."""
        assert self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.videos, self.audio_calls, self.clips = [], 0, []


@contextmanager
def engine(model: Path, processor: Any, settings: dict[str, Any] | None = None, **options: Any) -> Iterator[Engine]:
    """An engine with the settings of `omnisift.serving.vllm.settings`; ``options`` are vLLM's."""
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    defaults: dict[str, Any] = {
        "dtype": "float32", "max_model_len": 4096, "max_num_batched_tokens": 4096, "max_num_seqs": 20,
        "enforce_eager": True, "block_size": 32, "limit_mm_per_prompt": {"image": 2, "video": 2, "audio": 2},
        "hf_overrides": {"architectures": [architecture_of(model)], "omnisift": settings or {}},
    }  # fmt: skip
    # An engine that was refused leaves its groups of processes, which may lack those of experts.
    cleanup_dist_env_and_memory()
    llm = LLM(str(model), **{**defaults, **options})
    try:
        yield Engine(llm, processor)
    finally:
        stop(llm)


def stop(llm: Any) -> None:
    """End an engine and free its memory, so that another can start."""
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm.llm_engine.engine_core.shutdown()
    llm.llm_engine = None
    gc.collect()
    cleanup_dist_env_and_memory()


def in_process(patch: pytest.MonkeyPatch) -> None:
    """The engine in this process, with one gigabyte for its cache."""
    patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    patch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    patch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
