"""What a release of vLLM that was not tested finds under the plugin's architectures: one sentence.

Without it vLLM would list the hundreds of models that it knows, or look for another implementation.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omnisift.errors import UsageError
from omnisift.serving.vllm.internals import supported_words


def refuse(*_: Any, **__: Any) -> None:
    """Raise `UsageError` with the installed release and those that are supported."""
    import vllm

    raise UsageError(
        f"vLLM {vllm.__version__} is installed, but omnisift's plugin needs {supported_words()}; install that, or "
        "serve the model without the plugin"
    )


class RefusedConfig:
    """Refuses the engine's configuration, in releases that look for one by architecture."""

    verify_and_update_config = staticmethod(refuse)
    verify_and_update_model_config = staticmethod(refuse)


class RefusedModel(nn.Module):
    """Refuses to be made. It has the methods by which releases tell a model that generates text."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:  # noqa: ARG002
        super().__init__()
        refuse()

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """Return nothing; it is never called."""
        raise NotImplementedError

    get_input_embeddings = embed_input_ids

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Return nothing; it is never called."""
        raise NotImplementedError

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """Return nothing; it is never called."""
        raise NotImplementedError


def refuse_architecture(architecture: str) -> None:
    """Register the refusal under ``architecture``, by what releases from 0.8 on have."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(architecture, f"{__name__}:{RefusedModel.__name__}")
    try:
        from vllm.model_executor.models.config import MODELS_CONFIG_MAP
    except ImportError:
        return
    MODELS_CONFIG_MAP[architecture] = RefusedConfig
