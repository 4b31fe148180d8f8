"""vLLM's worker for CPUs with a flag set that its runner leaves unset (docs/upstream.md), and checked weights."""

from __future__ import annotations

from typing import Any

import torch

from omnisift.errors import UsageError
from omnisift.serving.vllm.internals import (
    CPUWorker,
    LinearBase,
    UnquantizedLinearMethod,
    supports_multimodal_pruning,
)
from omnisift.serving.vllm.worker import encode_together


def check_products(model: Any, dtype: torch.dtype) -> None:
    """Multiply a vector by the weights of one quantised layer of each kind.

    vLLM's builds for older CPUs lack the operations for some quantised weights. Without this check they would start,
    and the first request would end the engine.

    Args:
        model: vLLM's model with its weights.
        dtype: of the activations.

    Raises:
        UsageError: the operation is missing or fails.
    """
    tried = set()
    for name, layer in model.named_modules():
        if not isinstance(layer, LinearBase) or isinstance(layer.quant_method, UnquantizedLinearMethod):
            continue
        kind = (type(layer.quant_method), type(getattr(layer, "scheme", None)))
        if kind in tried:
            continue
        tried.add(kind)
        size = getattr(layer, "input_size_per_partition", layer.input_size)
        try:
            layer.quant_method.apply(layer, torch.zeros(1, size, dtype=dtype))
        except (AttributeError, RuntimeError) as error:
            raise UsageError(
                f"vLLM can't multiply by the weights of {name} on this CPU ({error}); use another quantisation, "
                "for example int8 (docs/small-machines.md)"
            ) from error


class CpuWorker(CPUWorker):  # type: ignore[misc]  # vLLM is not installed when types are checked
    """Lets the model write its positions, as the worker for GPUs does, and encodes the clips of a step together.

    In vLLM 0.32 ``CPUModelRunner.load_model`` overrides the GPU runner's method without its last step, so a model with
    pruning is never called for its positions.
    """

    def load_model(self, **kwargs: Any) -> None:
        """Load the model, check its weights, then set the flag."""
        super().load_model(**kwargs)
        runner = self.model_runner
        config = runner.model_config.multimodal_config
        check_products(runner.get_model(), runner.model_config.dtype)
        prunes = config is not None and config.is_multimodal_pruning_enabled()
        runner.is_multimodal_pruning_enabled = prunes and supports_multimodal_pruning(runner.get_model())
        if not self.use_v2_model_runner:
            encode_together(runner)
