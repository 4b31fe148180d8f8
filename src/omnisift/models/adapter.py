"""What a model family must tell: its parts, which tokens are video and sound, and how long a position lasts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.models.attention_probe import AttentionProbe

if TYPE_CHECKING:
    from omnisift.models.attachment import Attachment


@dataclass(frozen=True)
class Parts:
    """The modules of a host that get hooks. Two of them may be the same module."""

    head: nn.Module
    """Takes ``labels``, returns logits and loss."""
    core: nn.Module
    """Takes ``input_ids``, merges the media embeddings, calls the language model once."""
    language_model: nn.Module
    """Takes ``inputs_embeds``, ``position_ids``, ``attention_mask``, ``past_key_values``, all by name."""


class Adapter(ABC):
    """One family of Hugging Face models. Reads the host and never changes it. See docs/add-a-model.md."""

    model_types: ClassVar[frozenset[str]]
    """Values of ``config.model_type`` that this adapter takes."""
    supplies: ClassVar[frozenset[str]] = frozenset()
    """Names of the extras that its `listeners` can give to a compressor."""

    def __init__(self, model: nn.Module) -> None:
        """Find the parts. Raises `UnsupportedModel` if ``model`` has the right type name but not its modules."""
        self.parts = self.find(model)

    @abstractmethod
    def find(self, model: nn.Module) -> Parts:
        """Probe the known layouts of the family."""

    @abstractmethod
    def modality(self, input_ids: Tensor) -> Tensor:
        """[B, S] int8 on the CPU: `Modality` of each token of ``input_ids`` (CPU), plain audio still marked AUDIO."""

    @abstractmethod
    def rotary(self, input_ids: Tensor, real: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """[3, B, S] int64: rotary ids of a prompt for which the caller handed none that tell frames apart.

        ``arguments`` are those of the call to ``parts.core``. Raises `UnsupportedCall` if they don't suffice.
        """

    @property
    @abstractmethod
    def seconds_per_position(self) -> float:
        """How long one temporal rotary id lasts, in seconds."""

    def more_hooks(self, attachment: Attachment) -> list[RemovableHandle]:  # noqa: ARG002
        """Hooks on further modules that must know of the cut. The attachment removes them when it is detached."""
        return []

    def listeners(self, needs: frozenset[str]) -> list[AttentionProbe]:  # noqa: ARG002
        """What hears the extras in ``needs`` (all of them in `supplies`) while the encoders run. Hooks nothing yet."""
        return []
