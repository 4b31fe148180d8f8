"""vLLM's worker for GPUs, which encodes the clips of a step together."""

from __future__ import annotations

from typing import Any

from omnisift.serving.vllm.internals import Worker


def encode_together(runner: Any) -> None:
    """Let vLLM's first model runner pass all clips of a step to the model in one call.

    In vLLM 0.32 its flag for pruning means two things: the model writes positions, and videos are encoded one at a
    time, because a step is filled by kept tokens. Here `encoding` bounds the encoders' work, so the flag is off while
    they run. vLLM's second model runner reads no flag there.

    Args:
        runner: a ``GPUModelRunner`` of ``vllm.v1.worker.gpu_model_runner`` or of a subclass.
    """
    encode = runner._execute_mm_encoder

    def encode_all(scheduler_output: Any) -> Any:
        prunes = runner.is_multimodal_pruning_enabled
        runner.is_multimodal_pruning_enabled = False
        try:
            return encode(scheduler_output)
        finally:
            runner.is_multimodal_pruning_enabled = prunes

    runner._execute_mm_encoder = encode_all


class GpuWorker(Worker):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Makes a runner that encodes the clips of a step together."""

    def _make_model_runner(self) -> Any:
        runner = super()._make_model_runner()
        if not self.use_v2_model_runner:
            encode_together(runner)
        return runner
