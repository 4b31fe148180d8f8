"""Vision-guided audio selector (VGAS): the trained part of OmniSIFT, which scores audio tokens by visual anchors.

The audio tokens of a chunk are queries, its visual anchors are keys and values, and an MLP maps each result to a score
(paper eq 6-9). Names and layers follow the released checkpoint (``thinker.compressor.*``). Where the paper is silent,
it decides: three LayerNorms, SiLU, a 256-wide head, and a residual on the *projected* audio.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from omnisift.errors import CheckpointError, UsageError
from omnisift.ops.attention import attention_weights, concat_valid, log_attention_received
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object
from omnisift.utils.safetensors_files import check_finite, check_problems, check_size, check_tensors, read_prefixed
from omnisift.utils.suggest import did_you_mean
from omnisift.video_score import VideoScore

STEPS = 50
"""Entries of the time embedding: a chunk of two seconds has 50 audio tokens."""

RELEASED_PREFIX = "thinker.compressor."
"""Prefix of the selector's tensors in the released checkpoint."""

MAX_SIZE, MAX_LAYERS = 1 << 20, 1000
"""Largest sizes and most layers of a selector, far above any use: a damaged config can't ask for more memory."""

GUIDES = ("cross", "self", "concat", "direct")
"""What an audio token attends to; see `VGASConfig`."""


class VGASConfig(PretrainedConfig):
    """Configuration of `VGAS`. The defaults are those of the paper and of the released 7B weights.

    The paper's ablations (figure 5, tables 8 and 12) are configurations of the same class. ``guide`` sets what an
    audio token attends to:

    - "cross": the visual anchors of its chunk (eq 6-9).
    - "self": the audio tokens of its chunk; the anchors are not read (figure 5, audio-only selector).
    - "concat": anchors and audio tokens of its chunk together (table 12, "concatenate AV + score head").
    - "direct": no score head and no value mixing (table 12, "direct attention, no score head"). The paper leaves the
      details open. Here the anchors are the queries, softmax runs over the audio tokens of the chunk, and the score of
      an audio token is the log of the attention it receives, averaged over heads and anchors. The logits are thus
      log-probabilities within the chunk.

    Args:
        input_size: width D of the language model's embeddings.
        hidden_size: width of the attention.
        num_attention_heads: heads of the attention; divides ``hidden_size``.
        num_hidden_layers: layers of attention (table 8 has 3), each with its own weights and norm. From the second on,
            the refined audio tokens are the queries, and under "self" and "concat" the keys too. "direct" has one.
        time_embedding: whether the selector reads when in its chunk a token is. Not in the paper or its weights.
        guide: what an audio token attends to, one of `GUIDES`.
        video_score: whether a learned score replaces STVP for video tokens. Not in the paper or its weights.
        audio_score: whether audio tokens are scored. False leaves the video score alone, for models without audio.
        kwargs: arguments of ``PretrainedConfig``, and the names that older configs use: ``width``, ``hidden``,
            ``heads``, ``layers``, ``picture``.

    Raises:
        UsageError: the guide is unknown, or the sizes are impossible.
    """

    model_type = "omnisift_vgas"
    attribute_map: ClassVar[dict[str, str]] = {
        "width": "input_size",
        "hidden": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "picture": "video_score",
    }

    def __init__(
        self,
        input_size: int = 3584,
        hidden_size: int = 512,
        num_attention_heads: int = 8,
        num_hidden_layers: int = 1,
        *,
        time_embedding: bool = False,
        guide: str = "cross",
        video_score: bool = False,
        audio_score: bool = True,
        **kwargs: Any,
    ) -> None:
        old_names = {name: kwargs.pop(name) for name in self.attribute_map if name in kwargs}
        super().__init__(**kwargs)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_hidden_layers = num_hidden_layers
        self.time_embedding = time_embedding
        self.guide = guide
        self.video_score = video_score
        self.audio_score = audio_score
        for name, value in old_names.items():
            setattr(self, name, value)  # `attribute_map` redirects it
        self._check()

    def _check(self) -> None:
        layers, heads = self.num_hidden_layers, self.num_attention_heads
        for name in ("input_size", "hidden_size"):
            size = getattr(self, name)
            if type(size) is not int or not 1 <= size <= MAX_SIZE:
                raise UsageError(f"{name} of the selector must be an integer in [1, {MAX_SIZE}], got {size!r}")
        for name in ("time_embedding", "video_score", "audio_score"):
            if type(getattr(self, name)) is not bool:
                raise UsageError(f"{name} of the selector must be true or false, got {getattr(self, name)!r}")
        if not self.audio_score and (self.time_embedding or not self.video_score):
            raise UsageError(
                "a selector without audio_score has a video score and no time embedding, got video_score="
                f"{self.video_score} and time_embedding={self.time_embedding}"
            )
        if self.guide not in GUIDES:
            raise UsageError(f"unknown guide {self.guide!r} of the selector; {did_you_mean(str(self.guide), GUIDES)}")
        if type(layers) is not int or layers < 1:
            raise UsageError(f"num_hidden_layers of the selector must be an integer of at least 1, got {layers!r}")
        if layers > MAX_LAYERS:
            raise UsageError(f"num_hidden_layers of the selector must be at most {MAX_LAYERS}, got {layers}")
        if self.guide == "direct" and layers > 1:
            raise UsageError(
                f"guide 'direct' has one layer, got num_hidden_layers={layers}; use cross, self or concat for more"
            )
        if type(heads) is not int or heads < 1 or self.hidden_size % heads:
            raise UsageError(
                f"num_attention_heads of the selector must divide hidden_size {self.hidden_size}, got {heads!r}"
            )


class VGAS(PreTrainedModel):
    """Score the audio tokens of each chunk by its visual anchors. 4,856,321 parameters at ``input_size`` 3584.

    Args:
        config: sizes and layout.
    """

    config_class = VGASConfig
    config: VGASConfig
    base_model_prefix = "vgas"

    def __init__(self, config: VGASConfig) -> None:
        super().__init__(config)
        if config.audio_score:
            self._add_audio_score(config)
        # Saved tensors are named picture.*: the attribute keeps that name.
        self.picture = VideoScore(config.input_size) if config.video_score else None
        self.post_init()  # type: ignore[no-untyped-call]

    def _add_audio_score(self, config: VGASConfig) -> None:
        input_size, hidden, direct = config.input_size, config.hidden_size, config.guide == "direct"
        # eq 6: projections of anchors and audio tokens.
        if config.guide != "self":
            self.v_proj = nn.Linear(input_size, hidden)
        self.a_proj = nn.Linear(input_size, hidden)
        if config.guide != "self":
            self.v_norm = nn.LayerNorm(hidden)
        # A shift common to all keys cancels in the softmax over them, so direct attention has no bias on its keys.
        self.a_norm = nn.LayerNorm(hidden, bias=not direct)
        if direct:
            self.query_proj = nn.Linear(hidden, hidden)
            self.key_proj = nn.Linear(hidden, hidden, bias=False)
        else:
            self._add_layers(hidden)
        if config.time_embedding:
            self.time_embedding = nn.Embedding(STEPS, hidden)

    def _add_layers(self, hidden: int) -> None:
        """Attention and head: the released names for the first layer, lists for further ones."""
        heads, further = self.config.num_attention_heads, range(1, self.config.num_hidden_layers)
        self.post_attn_norm = nn.LayerNorm(hidden)
        # Its key bias cancels too (see a_norm), but nn.MultiheadAttention and the released weights have one.
        self.cross_attn = nn.MultiheadAttention(hidden, heads, batch_first=True)
        self.score_head = nn.Sequential(nn.Linear(hidden, hidden // 2), nn.SiLU(), nn.Linear(hidden // 2, 1))
        self.more_attn = nn.ModuleList(nn.MultiheadAttention(hidden, heads, batch_first=True) for _ in further)
        self.more_norm = nn.ModuleList(nn.LayerNorm(hidden) for _ in further)

    @property
    def video_score(self) -> VideoScore | None:
        """The learned score for video tokens, or None where STVP selects them."""
        return self.picture

    @property
    def label(self) -> str:
        """What departs from the paper's selector, as in ``time+self+3 layers``; empty if nothing does."""
        config = self.config
        parts = {
            "time": config.time_embedding,
            config.guide: config.guide != "cross" and config.audio_score,
            f"{config.num_hidden_layers} layers": config.num_hidden_layers > 1 and config.audio_score,
            "video score": config.video_score,
        }
        return "+".join(name for name, differs in parts.items() if differs)

    def forward(
        self,
        video: Tensor,
        audio: Tensor,
        video_valid: Tensor | None = None,
        video_step: Tensor | None = None,
        audio_step: Tensor | None = None,
        audio_valid: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the audio tokens of C chunks; `scores` applies the sigmoid of eq 9.

        Args:
            video: [C, K, D] visual anchors.
            audio: [C, A, D] audio tokens.
            video_valid: [C, K] bool, False on padding; None if nothing is padded. At least one per row is valid.
                Ignored under "self".
            video_step: [C, K] int64 in [0, 50): when in its chunk each anchor is, in fiftieths of the chunk (40 ms of
                two seconds). Required with ``time_embedding``, ignored without.
            audio_step: [C, A] int64, likewise for the audio tokens.
            audio_valid: [C, A] bool, as ``video_valid``. Ignored under "cross".

        Returns:
            [C, A] logits. Those of padding are finite and meaningless (under "direct" their exp is 0).

        Raises:
            ValueError: the selector has a time embedding and a step is missing, or it does not score audio.
        """
        if not self.config.audio_score:
            raise ValueError("this selector scores video alone")
        # eq 6: project and normalise, plus our time embedding.
        a = self._add_time(self.a_norm(self.a_proj(audio)), audio_step)
        if self.config.guide == "self":
            return self._refine_and_score(a, None, audio_valid)
        v = self._add_time(self.v_norm(self.v_proj(video)), video_step)
        if self.config.guide == "direct":
            query, key = self._direct_heads(v, a)
            return log_attention_received(query, key, video_valid, audio_valid)
        valid = video_valid if self.config.guide == "cross" else concat_valid(video_valid, audio_valid, v, a)
        return self._refine_and_score(a, v, valid)

    def scores(
        self,
        video: Tensor,
        audio: Tensor,
        video_valid: Tensor | None = None,
        video_step: Tensor | None = None,
        audio_step: Tensor | None = None,
        audio_valid: Tensor | None = None,
    ) -> Tensor:
        """Return the scores of eq 9, [C, A] in (0, 1): the sigmoid of `forward`, which describes the arguments."""
        return torch.sigmoid(self(video, audio, video_valid, video_step, audio_step, audio_valid))

    def attention(
        self, video: Tensor, audio: Tensor, video_step: Tensor | None = None, audio_step: Tensor | None = None
    ) -> Tensor:
        """Compute the attention between audio tokens and anchors, for inspection.

        Args:
            video: [C, K, D] visual anchors, without padding.
            audio: [C, A, D] audio tokens, without padding.
            video_step: as in `forward`.
            audio_step: as in `forward`.

        Returns:
            [C, A, K], the mean over heads. The share of an audio token's attention in the first layer that each anchor
            gets; under "concat" the rest falls on other audio tokens. Under "direct", the share of an anchor's
            attention that the audio token gets.

        Raises:
            ValueError: the guide is "self", which reads no anchors.
        """
        if self.config.guide == "self":
            raise ValueError("a selector with guide 'self' has no attention to video tokens")
        a = self._add_time(self.a_norm(self.a_proj(audio)), audio_step)
        v = self._add_time(self.v_norm(self.v_proj(video)), video_step)
        if self.config.guide == "direct":
            query, key = self._direct_heads(v, a)
            each = [log_attention_received(query[:, :, [k]], key, None, None).exp() for k in range(query.shape[2])]
            return torch.stack(each, dim=-1)
        keys = torch.cat([v, a], dim=1) if self.config.guide == "concat" else v
        return attention_weights(self.cross_attn, a, keys)[..., : v.shape[1]]

    def _direct_heads(self, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Queries from the anchors and keys from the audio tokens, [C, H, N, hidden / H] each."""
        heads = self.config.num_attention_heads
        return split_heads(self.query_proj(v), heads), split_heads(self.key_proj(a), heads)

    def _add_time(self, tokens: Tensor, step: Tensor | None) -> Tensor:
        if not self.config.time_embedding:
            return tokens
        if step is None:
            raise ValueError("this selector has a time embedding: video_step and audio_step are required")
        timed: Tensor = tokens + self.time_embedding(step)
        return timed

    def _refine_and_score(self, audio: Tensor, anchors: Tensor | None, valid: Tensor | None) -> Tensor:
        """Attention layers and head: logits [C, A].

        ``anchors`` is [C, K, hidden], None under "self"; ``valid`` covers the keys, anchors before audio tokens.
        """
        for attention, norm in self._layers():
            keys = audio if anchors is None else anchors
            if self.config.guide == "concat":
                keys = torch.cat([keys, audio], dim=1)
            # eq 7 and 8: attention over the keys, residual, norm.
            audio = norm(attend(attention, audio, keys, valid) + audio)
        # eq 9, without the sigmoid.
        logits: Tensor = self.score_head(audio).squeeze(-1)
        return logits

    def _layers(self) -> Iterator[tuple[Any, Any]]:
        yield self.cross_attn, self.post_attn_norm
        yield from zip(self.more_attn, self.more_norm, strict=True)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Torch's own initialisation, but a small time embedding, which must not drown the content at the start."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, (nn.Linear, nn.LayerNorm)):
            module.reset_parameters()
        elif isinstance(module, nn.MultiheadAttention):
            module._reset_parameters()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> VGAS:
        """Load a selector from its own folder, with strict loading.

        Args:
            args: arguments of ``PreTrainedModel.from_pretrained``; the first is the folder.
            kwargs: its keyword arguments.

        Raises:
            CheckpointError: no selector is found there, a file is broken, a tensor is missing, unexpected or has
                another shape, or a weight is NaN or infinite.
        """
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # so that they are reported below
        kwargs.pop("trust_remote_code", None)
        name = str(args[0]) if args else ""
        if not Path(name).is_dir() and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):  # not a hub id either
            raise CheckpointError(f"no selector folder at {name}; give one that VGAS.save_pretrained wrote")
        if Path(name).is_dir():
            _check_folder(cls, Path(name))
        with checkpoint_errors(f"a selector from {name}"):
            loaded: Any = super().from_pretrained(*args, **kwargs, trust_remote_code=False)
        model, info = loaded
        kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
        problems = {kind: sorted(map(str, info[kind])) for kind in kinds}
        check_problems(f"selector checkpoint {name}", problems)
        check_finite(name, model.named_parameters())
        result: VGAS = model
        return result

    @classmethod
    def from_checkpoint(
        cls,
        folder: str | os.PathLike[str],
        prefix: str = RELEASED_PREFIX,
        dtype: torch.dtype | None = None,
        num_attention_heads: int = 8,
    ) -> VGAS:
        """Load the selector out of a full model's checkpoint (safetensors, sharded or not).

        Only the selector's tensors are read. Sizes and layers come from their shapes, and the guide is "cross", as
        released; other guides need a config, so `from_pretrained`.

        Args:
            folder: the checkpoint folder.
            prefix: what the names of the selector's tensors begin with.
            dtype: dtype of the weights; None keeps the stored one.
            num_attention_heads: heads of the attention, which no shape shows.

        Returns:
            The selector, in evaluation mode.

        Raises:
            CheckpointError: tensors are missing, unexpected or mis-shaped, or the folder can't be read.
        """
        # Read the configuration off the tensors.
        tensors = read_prefixed(Path(folder), prefix)
        default = VGASConfig()
        with checkpoint_errors(folder):
            sizes = tuple(tensors["v_proj.weight"].shape) if "v_proj.weight" in tensors else ()
            hidden, input_size = sizes or (default.hidden_size, default.input_size)
            if hidden % (heads := num_attention_heads):
                raise CheckpointError(f"{folder}: v_proj.weight has {hidden} rows, not a multiple of {heads} heads")
            config = VGASConfig(
                input_size,
                hidden,
                heads,
                num_hidden_layers=1 + len({name.split(".")[1] for name in tensors if name.startswith("more_attn.")}),
                time_embedding="time_embedding.weight" in tensors,
                video_score=any(name.startswith("picture.") for name in tensors),
            )
        # Load strictly: names and shapes must agree exactly.
        model = cls(config)
        check_tensors(folder, tensors, model.state_dict())
        check_finite(folder, tensors.items())
        model.load_state_dict(tensors)
        nn.Module.to(model, dtype or tensors["v_proj.weight"].dtype)
        nn.Module.eval(model)
        return model


def _check_folder(selector: type[VGAS], folder: Path) -> None:
    """`CheckpointError` unless the config can be read and its selector is no larger than the stored tensors."""
    if not (folder / "config.json").is_file():
        return  # Transformers names what is missing
    content = read_json_object(folder / "config.json")
    with checkpoint_errors(folder / "config.json"), torch.device("meta"):
        skeleton = selector(VGASConfig.from_dict(content))
    check_size(folder, skeleton)


def attend(attention: nn.MultiheadAttention, audio: Tensor, keys: Tensor, valid: Tensor | None) -> Tensor:
    """Compute ``attention(audio, keys, keys)`` (paper eq 7) through the fused kernel.

    Args:
        attention: the layer, whose weights are used.
        audio: [C, A, hidden] queries.
        keys: [C, N, hidden] keys and values.
        valid: [C, N] bool, False on padded keys; None if nothing is padded.

    Returns:
        [C, A, hidden].
    """
    hidden, heads = attention.embed_dim, attention.num_heads
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    # The layer stores query, key and value projections as one matrix, in this order.
    query = split_heads(F.linear(audio, weight[:hidden], bias[:hidden]), heads)
    key, value = F.linear(keys, weight[hidden:], bias[hidden:]).chunk(2, dim=-1)
    mask = None if valid is None else valid[:, None, None, :]
    mixed = F.scaled_dot_product_attention(query, split_heads(key, heads), split_heads(value, heads), attn_mask=mask)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Reshape [C, N, hidden] to [C, H, N, hidden / H]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)
