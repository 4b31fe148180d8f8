"""Vision-guided audio selector: the only learned part of OmniSIFT, a small model of its own.

Audio tokens of a chunk ask, the visual anchors of the same chunk answer, an MLP gives every audio token a score
(paper eq 6-9). Attribute names and layers are those of the released checkpoint (``thinker.compressor.*``), where the
paper is silent: three LayerNorms, SiLU, a 256-wide head, and the residual on the *projected* audio. The paper's
ablations of the selector (figure 5, tables 8 and 12) are configurations of the same class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from omnisift.errors import CheckpointError, UsageError
from omnisift.selector_attention import attend, attention_given, attention_received, beside, split_heads
from omnisift.selector_files import check_tensors, read_prefixed, refuse
from omnisift.video_score import VideoScore

STEPS = 50
"""Entries of the time embedding: a chunk of two seconds has 50 audio tokens."""

RELEASED_PREFIX = "thinker.compressor."
"""Where the released checkpoint keeps the selector."""

GUIDES = ("cross", "self", "concat", "direct")
"""What an audio token may attend to; see `VGASConfig`."""


class VGASConfig(PretrainedConfig):
    """Sizes and layout of the selector; the defaults are those of the paper and of the released 7B weights.

    ``width`` D of the embeddings; ``hidden`` and ``heads`` of the attention. ``time_embedding`` is our addition: it is
    off in the paper and in the released weights. ``guide``, what an audio token attends to:

    - "cross": the visual anchors of its chunk (eq 6-9).
    - "self": the audio tokens of its chunk; the picture is not seen (figure 5, audio-only selector).
    - "concat": anchors and audio tokens of its chunk together (table 12, "concatenate AV + score head").
    - "direct": no score head and no value mixing (table 12, "direct attention, no score head"). The paper does not
      spell it out. Our reading: the anchors are the queries, softmax over the audio tokens of the chunk, and the score
      of an audio token is the log of the attention that it receives, averaged over heads and anchors. Logits are thus
      log-probabilities within the chunk; their order is the order of attention received.

    ``picture`` adds a learned score for video tokens, which then takes STVP's place: our addition, off in the paper.

    ``layers`` of attention (table 8 has 3), each with its own weights and norm. From the second on, the refined audio
    tokens are the queries, and under "self" and "concat" the keys too. "direct" has one.
    """

    model_type = "omnisift_vgas"

    def __init__(
        self,
        width: int = 3584,
        hidden: int = 512,
        heads: int = 8,
        time_embedding: bool = False,
        guide: str = "cross",
        layers: int = 1,
        picture: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        _check_layout(guide, layers)
        self.picture = picture
        self.width = width
        self.hidden = hidden
        self.heads = heads
        self.time_embedding = time_embedding
        self.guide = guide
        self.layers = layers


class VGAS(PreTrainedModel):
    """Scores audio tokens by the visual anchors of their chunk. 4,856,321 parameters at width 3584."""

    config_class = VGASConfig
    config: VGASConfig
    base_model_prefix = "vgas"

    def __init__(self, config: VGASConfig) -> None:
        super().__init__(config)
        width, hidden, direct = config.width, config.hidden, config.guide == "direct"
        if config.guide != "self":
            self.v_proj = nn.Linear(width, hidden)
        self.a_proj = nn.Linear(width, hidden)
        if config.guide != "self":
            self.v_norm = nn.LayerNorm(hidden)
        # What shifts all keys alike cancels in the softmax over them, so direct attention has no bias on its keys.
        self.a_norm = nn.LayerNorm(hidden, bias=not direct)
        if direct:
            self.query_proj = nn.Linear(hidden, hidden)
            self.key_proj = nn.Linear(hidden, hidden, bias=False)
        else:
            self._add_layers(hidden)
        if config.time_embedding:
            self.time_embedding = nn.Embedding(STEPS, hidden)
        self.picture = VideoScore(width) if config.picture else None
        self.post_init()  # type: ignore[no-untyped-call]

    def _add_layers(self, hidden: int) -> None:
        """The released names for layer 1 and the head; further layers beside them."""
        heads, more = self.config.heads, range(1, self.config.layers)
        self.post_attn_norm = nn.LayerNorm(hidden)
        # Its key bias cancels too (see a_norm), but nn.MultiheadAttention and the released weights have one.
        self.cross_attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.score_head = nn.Sequential(nn.Linear(hidden, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, 1))
        self.more_attn = nn.ModuleList(nn.MultiheadAttention(hidden, heads, batch_first=True) for _ in more)
        self.more_norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in more)

    @property
    def label(self) -> str:
        """Departures from the paper's selector, for rows of a report: "" for none, else as in "time+self+3 layers"."""
        config = self.config
        parts = {"time": config.time_embedding, config.guide: config.guide != "cross"}
        parts |= {f"{config.layers} layers": config.layers > 1, "picture": config.picture}
        return "+".join(name for name, there in parts.items() if there)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_valid: Tensor | None = None,
        video_step: Tensor | None = None,
        audio_step: Tensor | None = None,
        audio_valid: Tensor | None = None,
    ) -> Tensor:
        """Logits [C, A] of the audio tokens of C chunks; `scores` gives the paper's eq 9.

        ``video`` [C, K, D] visual anchors, ``audio`` [C, A, D]. ``video_valid`` [C, K] and ``audio_valid`` [C, A] bool:
        False where padded (at least one valid in each row). Each is read where such tokens are keys or, under "direct",
        queries: "cross" ignores ``audio_valid``, "self" all of the video. Padded audio gets finite logits that mean
        nothing (under "direct" their exp is 0). ``*_step`` [C, K] and [C, A] int64 in [0, 50): when in its chunk a
        token is, in fiftieths of the chunk (40 ms in one of two seconds); required with ``time_embedding``, ignored
        without.
        """
        a = self._timed(self.a_norm(self.a_proj(audio)), audio_step)
        if self.config.guide == "self":
            return self._refine_and_score(a, None, audio_valid)
        v = self._timed(self.v_norm(self.v_proj(video)), video_step)
        if self.config.guide == "direct":
            query, key = (split_heads(x, self.config.heads) for x in (self.query_proj(v), self.key_proj(a)))
            return attention_received(query, key, video_valid, audio_valid)
        valid = video_valid if self.config.guide == "cross" else beside(video_valid, audio_valid, v, a)
        return self._refine_and_score(a, v, valid)

    def scores(self, *args: Any, **kwargs: Any) -> Tensor:
        """[C, A] in (0, 1): the sigmoid of `forward`, which takes the same arguments."""
        return torch.sigmoid(self(*args, **kwargs))

    def attention(
        self, video: Tensor, audio: Tensor, video_step: Tensor | None = None, audio_step: Tensor | None = None
    ) -> Tensor:
        """[C, A, K]: what audio tokens and anchors have to do with each other, mean over heads; nothing is padded.

        The share of an audio token's attention in the first layer that goes to each anchor; under "concat" the rest
        goes to other audio tokens. Under "direct" the share of an anchor's attention that the token gets. "self" sees
        no anchors and raises ValueError. Arguments as in `forward`.
        """
        if self.config.guide == "self":
            raise ValueError("a selector with guide 'self' does not look at the picture")
        a = self._timed(self.a_norm(self.a_proj(audio)), audio_step)
        v = self._timed(self.v_norm(self.v_proj(video)), video_step)
        if self.config.guide == "direct":
            query, key = (split_heads(x, self.config.heads) for x in (self.query_proj(v), self.key_proj(a)))
            each = [attention_received(query[:, :, [k]], key, None, None).exp() for k in range(query.shape[2])]
            return torch.stack(each, dim=-1)
        keys = torch.cat([v, a], dim=1) if self.config.guide == "concat" else v
        return attention_given(self.cross_attn, a, keys)[..., : v.shape[1]]

    def _timed(self, tokens: Tensor, step: Tensor | None) -> Tensor:
        if not self.config.time_embedding:
            return tokens
        if step is None:
            raise ValueError("this selector has a time embedding: video_step and audio_step are required")
        timed: Tensor = tokens + self.time_embedding(step)
        return timed

    def _refine_and_score(self, audio: Tensor, anchors: Tensor | None, valid: Tensor | None) -> Tensor:
        """Attention, residual and norm (eq 7 and 8), layer by layer, then the head: logits [C, A].

        ``anchors`` [C, K, hidden], None under "self"; ``valid`` bool over the keys, anchors before audio.
        """
        for attention, norm in self._layers():
            keys = audio if anchors is None else anchors
            if self.config.guide == "concat":
                keys = torch.cat([keys, audio], dim=1)
            audio = norm(attend(attention, audio, keys, valid) + audio)
        logits: Tensor = self.score_head(audio).squeeze(-1)
        return logits

    def _layers(self) -> Iterator[tuple[Any, Any]]:
        yield self.cross_attn, self.post_attn_norm
        yield from zip(self.more_attn, self.more_norm, strict=True)

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
        refuse(f"selector checkpoint {args[0] if args else ''}", problems)
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

        Only the selector's tensors are read. Sizes and layers come from them; ``heads`` does not show, and the guide is
        "cross", as released: other guides are for `from_pretrained`, which reads a config.
        ``dtype`` None keeps the stored one. Raises `CheckpointError` if tensors lack, are surplus or misshapen.
        """
        tensors = read_prefixed(Path(folder), prefix)
        width = tensors["v_proj.weight"].shape[-1] if "v_proj.weight" in tensors else VGASConfig().width
        hidden = tensors["v_proj.weight"].shape[0] if "v_proj.weight" in tensors else VGASConfig().hidden
        timed = "time_embedding.weight" in tensors
        layers = 1 + len({name.split(".")[1] for name in tensors if name.startswith("more_attn.")})
        seen = any(name.startswith("picture.") for name in tensors)
        if hidden % heads:
            raise CheckpointError(f"{folder}: v_proj.weight has {hidden} rows, not a multiple of {heads} heads")
        model = cls(VGASConfig(width, hidden, heads, timed, layers=layers, picture=seen))
        check_tensors(folder, tensors, model.state_dict())
        model.load_state_dict(tensors)
        nn.Module.to(model, dtype or tensors["v_proj.weight"].dtype)
        nn.Module.eval(model)
        return model


def _check_layout(guide: str, layers: int) -> None:
    if guide not in GUIDES:
        raise UsageError(f"unknown guide {guide!r} of the selector; known: {', '.join(GUIDES)}")
    if type(layers) is not int or layers < 1:
        raise UsageError(f"layers of the selector must be a whole number of at least 1, got {layers!r}")
    if guide == "direct" and layers > 1:
        raise UsageError(f"guide 'direct' has one layer, got layers={layers}; take cross, self or concat for more")
