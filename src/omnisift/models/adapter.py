"""Interface between `attach` and one family of Hugging Face models."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from omnisift.errors import UnsupportedModel
from omnisift.models.attention_probe import AttentionProbe
from omnisift.models.host_arguments import bind_arguments, cut_mask
from omnisift.models.layout import Layout, PromptLines
from omnisift.models.own_hooks import OwnHook
from omnisift.models.prompt_cut import PromptCut
from omnisift.models.side_inputs import Side
from omnisift.tokens import Modality

if TYPE_CHECKING:
    from typing_extensions import Self

_ATTRIBUTE = "omnisift_geometry"
_VISION_ENCODERS = ("visual", "vision_tower", "vision_model", "embed_vision")
_AUDIO_ENCODERS = ("audio_tower", "embed_audio")
"""Names that hosts give to their encoders; those without encoders embed patches and pieces of the waveform."""
_NO_ARGUMENTS: Mapping[str, Any] = {}


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
    """Its arguments tell the sizes of the videos. Stages are timed here, and training freezes it."""
    audio_encoder: nn.Module | None = None
    """Not hooked by `attach`; otherwise as ``vision_encoder``."""

    @property
    def encoders(self) -> tuple[nn.Module, ...]:
        """Those of the two encoders that the host has."""
        return tuple(part for part in (self.vision_encoder, self.audio_encoder) if part is not None)

    def __post_init__(self) -> None:
        # `torch.compile` wraps a module: the hooks belong on the one inside, whose code is compiled.
        for name, module in vars(self).items():
            object.__setattr__(self, name, getattr(module, "_orig_mod", module))


class HasCut(Protocol):
    """What `Adapter.extra_hooks` reads of an `Attachment`."""

    cut: PromptCut | None
    """The latest cut; None if nothing was dropped."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with video or audio on its way to the language model: ``B`` rows of ``S`` tokens, on the CPU."""

    input_ids: Tensor
    """[B, S] int64."""
    attention_mask: Tensor
    """[B, S] bool, False on padding."""
    modality: Tensor
    """[B, S] int8, from `Adapter.modality`."""
    arguments: Mapping[str, Any]
    """Those of the call to ``Parts.core``, by name."""
    frame_seconds: Sequence[float] | None = None
    """Seconds of a frame of each video, for hosts that are not told; None if unknown."""
    compress_audio: bool = False
    """Whether audio outside a video is a clip too; else it is outside clips. Only then a prompt may lack video."""
    lines: Sequence[PromptLines | None] = ()
    """Lines of text of each row; empty without any."""

    def tensor(self, name: str) -> Tensor | None:
        """An argument on the CPU; None if it was not passed."""
        value = self.arguments.get(name)
        return None if value is None else torch.as_tensor(value).cpu()

    def encoded_with(self, name: str) -> Tensor | None:
        """An argument of the vision encoder, on the CPU, if it encoded the videos before this call; else None.

        ``generate`` encodes first, and passes neither pixels nor grids on.
        """
        value: Tensor | None = getattr(self._encoded, _ATTRIBUTE, {}).get(name)
        return None if value is None else value.cpu()

    @property
    def encoded_sizes(self) -> list[int] | None:
        """Tokens of each video that was encoded before this call; None if none was, or they are not split by video."""
        features = getattr(self._encoded, "pooler_output", None)
        return [len(part) for part in features] if isinstance(features, (list, tuple)) else None

    @property
    def _encoded(self) -> Any:
        return (self.arguments.get("mm_encoder_outputs") or {}).get("video")


class Adapter(ABC):
    """One family of Hugging Face models. An adapter reads the host and never changes it (docs/add-a-model.md)."""

    model_types: ClassVar[frozenset[str]]
    """Values of ``config.model_type`` that this adapter accepts."""
    model_class: ClassVar[str]
    """Name of the class in Transformers that generates text."""
    release: ClassVar[str] = "5.19"
    """Release of Transformers that has ``model_class``."""
    attn_implementation: ClassVar[str | None] = "sdpa"
    """That `omnisift.load` asks for by default; None leaves the choice to Transformers."""
    is_loaded: ClassVar[bool] = False
    """Whether `omnisift.load` knows the family's processor; `omnisift.attach` needs none."""
    is_counted: ClassVar[bool] = False
    """Whether `omnisift profile` counts what a prompt costs, and training was tried with the family."""
    is_streamed: ClassVar[bool] = False
    """Whether a live stream is known to be read as a clip is (docs/streaming.md)."""
    outputs_tokens: ClassVar[bool] = True
    """Whether what the encoders return has one entry for each token, so that it can be kept for another prompt."""
    supplies: ClassVar[frozenset[str]] = frozenset()
    """Names of the `TokenStream.extras` that its `attention_probes` can provide."""
    rotary_rows: ClassVar[int] = 1
    """Rows of rotary positions: 3 where time, height and width have one each."""
    side_inputs: ClassVar[Mapping[str, Side]] = {}
    """How further arguments of the language model are cut. One that is not listed here is refused."""
    geometry: ClassVar[frozenset[str]] = frozenset()
    """Arguments of the vision encoder that `layout` reads by `Prompt.encoded_with`."""
    times_in_words: ClassVar[bool] = False
    """Whether the processor writes the time of each frame into the prompt."""
    times_behind: ClassVar[bool] = False
    """Whether it writes the time behind the frame."""
    min_frame_tokens: ClassVar[int] = 1
    """Tokens of a frame below which the processor of released checkpoints enlarges it."""
    max_clip_pixels: ClassVar[int | None] = None
    """Largest area of all images of a clip together, as the processor of released checkpoints states it; None if it
    states none."""

    def __init__(self, model: nn.Module) -> None:
        """Find the parts of ``model``.

        Raises:
            UnsupportedModel: the model type matches, but the modules are missing.
        """
        self.parts = self.find_parts(model)
        head: Any = self.parts.head
        self.config = head.config

    @classmethod
    def without_model(cls, config: Any) -> Self:
        """Make an adapter that knows a configuration alone. It has no ``parts``."""
        adapter = cls.__new__(cls)
        adapter.config = config
        return adapter

    @abstractmethod
    def layout(self, prompt: Prompt) -> Layout:
        """Find the clips of a prompt, with the time and place of each media token.

        Raises:
            UnsupportedCall: the call does not determine them.
        """

    def time_tokens(self, seconds: float) -> int:
        """Return the number of tokens of text at a frame that is so many seconds from the start of the clip.

        They are those of Qwen's tokenizer: a token for each character of the number, three for the rest of
        ``<12.5 seconds>``, and the marks of begin and end.
        """
        return len(f"{seconds:.1f}") + 5 if self.times_in_words else 0

    def audio_tokens(self, mel_frames: int) -> int:  # noqa: ARG002
        """Return the number of audio tokens for a spectrogram of ``mel_frames``: 0 in families without audio."""
        return 0

    @property
    def times_are_positions(self) -> bool:
        """Whether rotary positions of a clip are times, which text between its tokens does not move."""
        return self.rotary_rows == 3 and not self.times_in_words

    @property
    def is_causal(self) -> bool:
        """Whether no token of a prompt sees a later one, so that its beginning can be read without the rest."""
        return True

    @property
    def audio_window(self) -> int | None:
        """Frames of the spectrogram that the audio encoder attends within; None in families without audio."""
        return None

    @property
    def audio_chunk(self) -> int | None:
        """Frames to which the audio encoder pads a shorter rest behind others, which changes its output; else None."""
        return None

    def rotary_positions(self, inputs: Mapping[str, Any]) -> Tensor:
        """Compute the rotary positions of a prompt by the host's own code, without running it.

        Args:
            inputs: those of ``generate``, on the CPU.

        Returns:
            [3, B, S] on the CPU.
        """
        core: Any = self.parts.core
        rope_index: Any = (core if hasattr(core, "get_rope_index") else self.parts.head).get_rope_index
        features = inputs.get("feature_attention_mask")
        seconds = inputs.get("video_second_per_grid", inputs.get("second_per_grid_ts"))
        values = {
            **inputs,
            "audio_seqlens": None if features is None else features.sum(dim=1),
            "second_per_grids": seconds,
            "second_per_grid_ts": seconds,
        }
        names = inspect.signature(rope_index).parameters
        positions: Tensor = rope_index(**{name: values[name] for name in names if values.get(name) is not None})[0]
        return positions

    def find_parts(self, model: nn.Module) -> Parts:
        """Return the modules to hook, for every known layout of the family.

        Args:
            model: the host, without wrappers.

        Raises:
            UnsupportedModel: the modules are missing.
        """
        core: Any = getattr(model, "model", None)
        language_model = getattr(core, "language_model", None)
        if not hasattr(model, "lm_head") or language_model is None:
            raise UnsupportedModel(
                f"{type(model).__name__} has no language head or no language model: attach to {self.model_class}"
            )
        encoders = [
            next((getattr(core, name) for name in names if getattr(core, name, None) is not None), None)
            for names in (_VISION_ENCODERS, _AUDIO_ENCODERS)
        ]
        return Parts(model, core, language_model, *encoders)

    def modality(self, input_ids: Tensor, arguments: Mapping[str, Any] = _NO_ARGUMENTS) -> Tensor:
        """Classify the tokens of a prompt.

        ``mm_token_type_ids`` decide where they were passed: in some families images and videos have the same ids.

        Args:
            input_ids: [B, S] int64 on the CPU.
            arguments: those of the call, by name.

        Returns:
            [B, S] int8 on the CPU, values of `Modality`. Audio outside a video counts as AUDIO here.
        """
        types: Tensor | None = arguments.get("mm_token_type_ids")
        if types is not None and types.shape == input_ids.shape:
            return (types.cpu() - 1).clamp(min=0).to(torch.int8)  # 1 is an image, 2 a video, 3 audio
        modality = torch.full_like(input_ids, int(Modality.TEXT), dtype=torch.int8)
        for name, kind in (("video_token_id", Modality.VIDEO), ("audio_token_id", Modality.AUDIO)):
            token = getattr(self.config, name, None)
            if token is not None:
                modality[input_ids == token] = int(kind)
        return modality

    def attention_mask(self, prompt: Prompt, cut: PromptCut, arguments: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the mask of the cut prompt for a language model that makes its causal masks itself.

        Args:
            prompt: as the host read it.
            cut: which tokens are kept.
            arguments: those of the call to the language model, for the full prompt.

        Returns:
            What the language model takes: here [B, K] int64, or None.
        """
        device = arguments["inputs_embeds"].device
        # Without mask and cache, a gap in one row of positions would read as the start of another packed sequence.
        return (
            cut.attention_mask(device)
            if self.rotary_rows == 1
            else cut_mask(cut, arguments.get("attention_mask"), device)
        )

    def extra_hooks(self, attachment: HasCut) -> list[OwnHook]:  # noqa: ARG002
        """Hook further modules. The attachment removes the hooks when it is detached."""
        encoder = self.parts.vision_encoder
        if encoder is None or not self.geometry:
            return []
        return [OwnHook.after(encoder, self._note_geometry, with_kwargs=True)]

    def _note_geometry(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Write the sizes on the encoder's output object, which ``generate`` hands to the model."""
        if not isinstance(output, (Tensor, tuple)):
            given = bind_arguments(module, args, kwargs)
            setattr(output, _ATTRIBUTE, {name: given.get(name) for name in self.geometry})

    def attention_probes(self, needs: frozenset[str]) -> list[AttentionProbe]:  # noqa: ARG002
        """Return probes for the extras in ``needs`` (all of them in `supplies`), without hooking anything yet."""
        return []
