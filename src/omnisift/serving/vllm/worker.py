"""vLLM's worker for CPUs, whose runner forgets one flag (docs/upstream.md)."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.interfaces import supports_multimodal_pruning
from vllm.v1.worker.cpu_worker import CPUWorker


class CpuWorker(CPUWorker):  # type: ignore[misc]  # vLLM is not there when types are checked
    """Asks the model for positions, as the worker for GPUs does.

    In vLLM 0.32 ``CPUModelRunner.load_model`` replaces the GPU runner's method without its last step, so a model that
    prunes never gets to write its positions.
    """

    def load_model(self, **how: Any) -> None:
        """Load the model, then do that step."""
        super().load_model(**how)
        runner = self.model_runner
        config = runner.model_config.multimodal_config
        prunes = config is not None and config.is_multimodal_pruning_enabled()
        runner.is_multimodal_pruning_enabled = prunes and supports_multimodal_pruning(runner.get_model())
