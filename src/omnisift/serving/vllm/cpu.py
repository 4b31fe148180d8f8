"""Choose the plugin's own worker on CPUs (`omnisift.serving.vllm.worker`), through vLLM's option for it."""

from __future__ import annotations

from typing import Any

from omnisift.errors import UsageError
from omnisift.serving.vllm.internals import MODELS_CONFIG_MAP, VerifyAndUpdateConfig, current_platform

WORKER = "omnisift.serving.vllm.worker.CpuWorker"
"""Named and not imported: importing vLLM's CPU worker changes PyTorch, which is for vLLM's own processes only."""


class ChooseWorker(VerifyAndUpdateConfig):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Completes the engine's configuration; vLLM finds this class by the model's architecture."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Set ``worker_cls``. Raises `UsageError` if another worker was requested."""
        parallel = vllm_config.parallel_config
        if parallel.worker_cls not in ("auto", WORKER):
            raise UsageError(f"on a CPU the plugin needs its own worker, got {parallel.worker_cls}; leave it out")
        parallel.worker_cls = WORKER


def choose_worker(architecture: str) -> None:
    """Register `ChooseWorker` for the model of ``architecture``; does nothing on other platforms."""
    if current_platform.is_cpu():
        MODELS_CONFIG_MAP[architecture] = ChooseWorker
