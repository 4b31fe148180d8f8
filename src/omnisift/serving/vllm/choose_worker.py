"""Choose the plugin's own worker on CPUs and GPUs, through vLLM's option for it."""

from __future__ import annotations

import logging
from typing import Any

from omnisift.errors import UsageError
from omnisift.serving.vllm.internals import MODELS_CONFIG_MAP, VerifyAndUpdateConfig, current_platform

CPU_WORKER = "omnisift.serving.vllm.cpu_worker.CpuWorker"
"""Named and not imported: importing vLLM's CPU worker changes PyTorch, which is for vLLM's own processes only."""
GPU_WORKER = "omnisift.serving.vllm.worker.GpuWorker"

logger = logging.getLogger(__name__)


class ChooseCpuWorker(VerifyAndUpdateConfig):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Completes the engine's configuration; vLLM finds this class by the model's architecture."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Set ``worker_cls``. Raises `UsageError` if another worker was requested."""
        parallel = vllm_config.parallel_config
        if parallel.worker_cls not in ("auto", CPU_WORKER):
            raise UsageError(f"on a CPU the plugin needs its own worker, got {parallel.worker_cls}; leave it out")
        parallel.worker_cls = CPU_WORKER


class ChooseGpuWorker(VerifyAndUpdateConfig):  # type: ignore[misc]
    """The same for NVIDIA and AMD GPUs, where the plugin also works with another worker."""

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Set ``worker_cls``, unless another worker was requested."""
        parallel = vllm_config.parallel_config
        if parallel.worker_cls in ("auto", GPU_WORKER):
            parallel.worker_cls = GPU_WORKER
        elif not vllm_config.use_v2_model_runner:
            logger.warning("with the worker %s videos are encoded one at a time; leave it out", parallel.worker_cls)


def choose_worker(architecture: str) -> None:
    """Register the choice for the model of ``architecture``; vLLM's workers for other platforms stay."""
    if current_platform.is_cpu():
        MODELS_CONFIG_MAP[architecture] = ChooseCpuWorker
    elif current_platform.is_cuda_alike():
        MODELS_CONFIG_MAP[architecture] = ChooseGpuWorker
