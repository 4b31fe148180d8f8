"""vLLM's worker for CPUs with a flag set that its runner leaves unset (docs/upstream.md)."""

from __future__ import annotations

from typing import Any

from omnisift.serving.vllm.internals import CPUWorker, supports_multimodal_pruning
from omnisift.serving.vllm.worker import encode_together


class CpuWorker(CPUWorker):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Lets the model write its positions, as the worker for GPUs does, and encodes the clips of a step together.

    In vLLM 0.32 ``CPUModelRunner.load_model`` overrides the GPU runner's method without its last step, so a model with
    pruning is never called for its positions.
    """

    def load_model(self, **kwargs: Any) -> None:
        """Load the model, then set the flag."""
        super().load_model(**kwargs)
        runner = self.model_runner
        config = runner.model_config.multimodal_config
        prunes = config is not None and config.is_multimodal_pruning_enabled()
        runner.is_multimodal_pruning_enabled = prunes and supports_multimodal_pruning(runner.get_model())
        if not self.use_v2_model_runner:
            encode_together(runner)
