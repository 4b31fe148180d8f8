"""vLLM's runner for CPUs forgets one flag. The only place of the project that changes another library."""

from __future__ import annotations

from typing import Any


def mend_cpu_runner() -> None:
    """Let the CPU runner ask the model for positions, as the GPU runner does.

    In vLLM 0.32 ``CPUModelRunner.load_model`` replaces the GPU runner's method without its last step, so a model that
    prunes never gets to write its positions. Nothing is changed on other platforms.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    original = CPUModelRunner.load_model
    if getattr(original, "mended", False):
        return

    def load_model(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        config = self.model_config.multimodal_config
        prunes = config is not None and config.is_multimodal_pruning_enabled()
        self.is_multimodal_pruning_enabled = prunes and supports_multimodal_pruning(self.get_model())

    load_model.mended = True  # type: ignore[attr-defined]
    CPUModelRunner.load_model = load_model
