"""Interface between `attach` and one family of Hugging Face models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from omnisift.models.attention_probe import AttentionProbe
from omnisift.models.own_hooks import OwnHook
from omnisift.models.prompt_cut import PromptCut


@dataclass(frozen=True)
class Parts:
    """Modules of a host that get hooks. Two of them may be the same module."""

    head: nn.Module
    """Takes ``labels``, returns logits and loss."""
    core: nn.Module
    """Takes ``input_ids``, merges the media embeddings and calls the language model once."""
    language_model: nn.Module
    """Takes ``inputs_embeds``, ``position_ids``, ``attention_mask`` and the cache, all by name."""
    vision_encoder: nn.Module | None = None
    """Not hooked by `attach`: stages are timed here, and training freezes it."""
    audio_encoder: nn.Module | None = None
    """As ``vision_encoder``."""

    def __post_init__(self) -> None:
        # `torch.compile` wraps a module: the hooks belong on the one inside, whose code is compiled.
        for name, module in vars(self).items():
            object.__setattr__(self, name, getattr(module, "_orig_mod", module))


class HasCut(Protocol):
    """What `Adapter.extra_hooks` reads of an `Attachment`."""

    cut: PromptCut | None
    """The latest cut; None if nothing was dropped."""


class Adapter(ABC):
    """One family of Hugging Face models. An adapter reads the host and never changes it (docs/add-a-model.md)."""

    model_types: ClassVar[frozenset[str]]
    """Values of ``config.model_type`` that this adapter accepts."""
    model_class: ClassVar[str]
    """Name of the class in Transformers that `omnisift.load` loads: the part of the model that generates text."""
    supplies: ClassVar[frozenset[str]] = frozenset()
    """Names of the `TokenStream.extras` that its `attention_probes` can provide."""

    def __init__(self, model: nn.Module) -> None:
        """Find the parts of ``model``.

        Raises:
            UnsupportedModel: the model type matches, but the modules are missing.
        """
        self.parts = self.find_parts(model)

    @abstractmethod
    def find_parts(self, model: nn.Module) -> Parts:
        """Return the modules to hook, for every known layout of the family.

        Args:
            model: the host, without wrappers.

        Raises:
            UnsupportedModel: the modules are missing.
        """

    @abstractmethod
    def modality(self, input_ids: Tensor) -> Tensor:
        """Classify the tokens of a prompt.

        Args:
            input_ids: [B, S] int64 on the CPU.

        Returns:
            [B, S] int8 on the CPU, values of `Modality`. Audio outside a video counts as AUDIO here.
        """

    @abstractmethod
    def position_ids(self, input_ids: Tensor, attention_mask: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """Compute rotary positions by the host's own rule, for callers that passed none.

        Args:
            input_ids: [B, S] int64 on the CPU.
            attention_mask: [B, S] bool on the CPU, False on padding.
            arguments: those of the call to ``parts.core``, by name.

        Returns:
            [3, B, S] int64: time, height and width of each token.

        Raises:
            UnsupportedCall: ``arguments`` do not determine the positions.
        """

    @property
    @abstractmethod
    def seconds_per_position(self) -> float:
        """Duration of one temporal rotary position, in seconds."""

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:  # noqa: ARG002
        """Hook further modules that read the cut prompt. The attachment removes the hooks when it is detached."""
        return []

    def attention_probes(self, needs: frozenset[str]) -> list[AttentionProbe]:  # noqa: ARG002
        """Return probes for the extras in ``needs`` (all of them in `supplies`), without hooking anything yet."""
        return []
