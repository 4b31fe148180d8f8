"""Vision-guided audio selector: the only learned part of OmniSIFT, a small model of its own.

Audio tokens of a chunk ask, the visual anchors of the same chunk answer, an MLP gives every audio token a score
(paper eq 6-9). Attribute names and layers are those of the released checkpoint (``thinker.compressor.*``), where the
paper is silent: three LayerNorms, SiLU, a 256-wide head, and the residual on the *projected* audio.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from omnisift.errors import CheckpointError

STEPS = 50
"""Entries of the time embedding: a chunk of two seconds has 50 audio tokens."""

RELEASED_PREFIX = "thinker.compressor."
"""Where the released checkpoint keeps the selector."""


class VGASConfig(PretrainedConfig):
    """Sizes of the selector. ``time_embedding`` is our addition: it is off in the paper and in the released weights."""

    model_type = "omnisift_vgas"

    def __init__(
        self, width: int = 3584, hidden: int = 512, heads: int = 8, time_embedding: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.hidden = hidden
        self.heads = heads
        self.time_embedding = time_embedding


class VGAS(PreTrainedModel):
    """Scores audio tokens by the visual anchors of their chunk. 4,856,321 parameters at width 3584."""

    config_class = VGASConfig
    config: VGASConfig
    base_model_prefix = "vgas"

    def __init__(self, config: VGASConfig) -> None:
        super().__init__(config)
        width, hidden = config.width, config.hidden
        self.v_proj = nn.Linear(width, hidden)
        self.a_proj = nn.Linear(width, hidden)
        self.v_norm = nn.LayerNorm(hidden)
        self.a_norm = nn.LayerNorm(hidden)
        self.post_attn_norm = nn.LayerNorm(hidden)
        self.cross_attn = nn.MultiheadAttention(hidden, config.heads, batch_first=True)
        self.score_head = nn.Sequential(nn.Linear(hidden, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, 1))
        if config.time_embedding:
            self.time_embedding = nn.Embedding(STEPS, hidden)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_valid: Tensor | None = None,
        video_step: Tensor | None = None,
        audio_step: Tensor | None = None,
    ) -> Tensor:
        """Logits [C, A] of the audio tokens of C chunks; `scores` gives the paper's eq 9.

        ``video`` [C, K, D] visual anchors, ``audio`` [C, A, D]; ``video_valid`` [C, K] bool where anchors are padded
        (at least one valid in each row). ``*_step`` [C, K] and [C, A] int64 in [0, 50): when in its chunk a token is,
        in fiftieths of the chunk (40 ms in one of two seconds); required with ``time_embedding``, ignored without.
        """
        v = self._timed(self.v_norm(self.v_proj(video)), video_step)
        a = self._timed(self.a_norm(self.a_proj(audio)), audio_step)
        x = self.post_attn_norm(self._attend(a, v, video_valid) + a)
        logits: Tensor = self.score_head(x).squeeze(-1)
        return logits

    def scores(self, *args: Any, **kwargs: Any) -> Tensor:
        """[C, A] in (0, 1): the sigmoid of `forward`, which takes the same arguments."""
        return torch.sigmoid(self(*args, **kwargs))

    def _timed(self, tokens: Tensor, step: Tensor | None) -> Tensor:
        if not self.config.time_embedding:
            return tokens
        if step is None:
            raise ValueError("this selector has a time embedding: video_step and audio_step are required")
        timed: Tensor = tokens + self.time_embedding(step)
        return timed

    def _attend(self, audio: Tensor, video: Tensor, video_valid: Tensor | None) -> Tensor:
        """Cross-attention with the weights of ``cross_attn``: the same sums through the fused kernel, no weights
        returned."""
        attention, hidden = self.cross_attn, self.config.hidden
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        query = self._heads(F.linear(audio, weight[:hidden], bias[:hidden]))
        key, value = F.linear(video, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
        mask = None if video_valid is None else video_valid[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, self._heads(key), self._heads(value), attn_mask=mask)
        out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.config.heads, -1).transpose(1, 2)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation, except a small time embedding: it must not drown the content at the start."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> VGAS:
        """As in Transformers, but a tensor that lacks, is surplus or has another shape is a `CheckpointError`."""
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that they are reported, below
        loaded: Any = super().from_pretrained(*args, **kwargs)
        model, info = loaded
        problems = {
            kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }
        _refuse(f"selector checkpoint {args[0] if args else ''}", problems)
        result: VGAS = model
        return result

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | os.PathLike[str],
        prefix: str = RELEASED_PREFIX,
        dtype: torch.dtype | None = None,
        heads: int = 8,
    ) -> VGAS:
        """Take the selector out of a whole model's checkpoint folder (safetensors, sharded or not).

        Only the selector's tensors are read. The sizes come from the tensors; ``heads`` does not show in them.
        ``dtype`` None keeps the stored one. Raises `CheckpointError` if tensors lack, are surplus or misshapen.
        """
        tensors = _read_prefixed(Path(folder), prefix)
        width = tensors["v_proj.weight"].shape[-1] if "v_proj.weight" in tensors else VGASConfig().width
        hidden = tensors["v_proj.weight"].shape[0] if "v_proj.weight" in tensors else VGASConfig().hidden
        timed = "time_embedding.weight" in tensors
        if hidden % heads:
            raise CheckpointError(f"{folder}: v_proj.weight has {hidden} rows, not a multiple of {heads} heads")
        model = cls(VGASConfig(width=width, hidden=hidden, heads=heads, time_embedding=timed))
        _check_tensors(folder, tensors, model.state_dict())
        model.load_state_dict(tensors)
        nn.Module.to(model, dtype or tensors["v_proj.weight"].dtype)
        nn.Module.eval(model)
        return model


def _read_prefixed(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Tensors whose name starts with ``prefix``, without it."""
    tensors: dict[str, Tensor] = {}
    for file in _files_with(folder, prefix):
        tensors |= {name.removeprefix(prefix): tensor for name, tensor in _read_file(file, prefix)}
    if not tensors:
        raise CheckpointError(
            f"{folder} has no tensor named {prefix}*: this checkpoint has no selector; "
            "name one that has, or choose a training-free compressor"
        )
    return tensors


def _read_file(file: Path, prefix: str) -> list[tuple[str, Tensor]]:
    try:
        with safe_open(file, framework="pt") as handle:
            return [(name, handle.get_tensor(name)) for name in handle.keys() if name.startswith(prefix)]  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} can't be read as safetensors ({error}): download the checkpoint again"
        ) from error


def _files_with(folder: Path, prefix: str) -> list[Path]:
    """The files that may hold such tensors: those that the index names, else all."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise CheckpointError(f"{folder} holds no .safetensors file: give the folder of a checkpoint")
        return found
    try:
        where: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({folder / file for name, file in where.items() if name.startswith(prefix)})
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index} is not a safetensors index ({error!r}): download the checkpoint again"
        ) from error


def _check_tensors(source: object, got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    wrong = [
        f"{n} {tuple(got[n].shape)} for {tuple(want[n].shape)}"
        for n in got
        if n in want and got[n].shape != want[n].shape
    ]
    _refuse(
        f"selector in {source}",
        {"missing": sorted(want.keys() - got.keys()), "surplus": sorted(got.keys() - want.keys()), "misshapen": wrong},
    )


def _refuse(what: str, problems: dict[str, list[str]]) -> None:
    found = "; ".join(f"{kind.removesuffix('_keys')}: {', '.join(names)}" for kind, names in problems.items() if names)
    if found:
        raise CheckpointError(f"{what} does not fit the selector: {found}; use a checkpoint of the same version")
