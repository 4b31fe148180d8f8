"""On CPUs an engine needs a worker of our own (`omnisift.serving.vllm.worker`): chosen here, by vLLM's own option."""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.platforms import current_platform

from omnisift.errors import UsageError
from omnisift.serving.vllm import ARCHITECTURE

WORKER = "omnisift.serving.vllm.worker.CpuWorker"
"""Named, not imported: vLLM's CPU worker changes PyTorch when it is imported, which is for its own processes alone."""


class ChooseWorker(VerifyAndUpdateConfig):  # type: ignore[misc]  # vLLM is not there when types are checked
    """With a class like this, found by the name of an architecture, a model completes its engine's configuration."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Set ``worker_cls``. Raises `UsageError` if another than ours was asked for."""
        parallel = vllm_config.parallel_config
        if parallel.worker_cls not in ("auto", WORKER):
            raise UsageError(
                f"on a CPU the plugin has its own worker, got worker_cls={parallel.worker_cls}: leave it out"
            )
        parallel.worker_cls = WORKER


def choose_worker() -> None:
    """Enter `ChooseWorker` in vLLM's list, for our model alone; nothing on other platforms."""
    if current_platform.is_cpu():
        MODELS_CONFIG_MAP[ARCHITECTURE] = ChooseWorker
