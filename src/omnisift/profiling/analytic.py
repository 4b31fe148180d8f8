"""FLOPs and bytes of one prompt by stage, with all tokens and at each budget, counted from a configuration alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.models import adapter_for, model_class
from omnisift.profiling.flops import (
    Flops,
    encoders,
    has_state,
    head_size,
    language_model,
    prompt_logits,
    selector,
    video_pruning,
)
from omnisift.profiling.shape import PromptShape
from omnisift.vgas import VGASConfig

_BYTES = 2
"""Bytes of one value in bfloat16."""
PAPER = {"full": 555.74, "0.35": 292.16, "0.25": 250.83}
"""Budget -> TFLOP of 7B on WorldSense with the selector; clips, prompt and counter are not stated."""


@dataclass(frozen=True)
class Count:
    """Tokens, FLOPs and bytes of one prompt at one budget."""

    retain: str
    """``full``, or the requested share."""
    video: int
    """Kept video tokens."""
    audio: int
    """Kept audio tokens."""
    prompt: int
    """Tokens that the language model reads."""
    stages: dict[str, Flops]
    """FLOPs of ``encode_video``, ``encode_audio``, ``compress`` and ``prefill`` (which gives the first new token)."""
    step: Flops
    """FLOPs of one further generated token."""
    cache_bytes: int
    """KV cache at the end of the prompt, in bfloat16, with the states of layers that have them."""
    logits_bytes: int
    """Logits that `Pipeline.ask` computes of the prompt, in bfloat16: those of the last token."""

    @property
    def total(self) -> Flops:
        """FLOPs of all stages up to the first generated token."""
        return sum(self.stages.values(), Flops())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "total": asdict(self.total)}


def count(config: Any, shape: PromptShape, budgets: Sequence[Budget]) -> list[Count]:
    """Count the full prompt, then OmniSIFT at each budget with a selector of the released layout.

    Args:
        config: Configuration of a host.
        shape: Size of the clip and of the prompt's text.
        budgets: What to keep. The kept counts are those of the compressor.

    Returns:
        One `Count` for all tokens, then one for each budget.
    """
    chunks = shape.chunks()
    layout = VGASConfig(input_size=config.text_config.hidden_size)
    counts = [_count(config, shape, "full", shape.video, shape.audio, Flops())]
    for budget in budgets:
        kept, video, audio = kept_tokens(shape, chunks, budget)
        work = selector(layout, chunks, kept) + video_pruning(chunks, layout.input_size)
        counts.append(_count(config, shape, budget.words, video, audio, work))
    return counts


def kept_tokens(shape: PromptShape, chunks: ChunkShapes, budget: Budget) -> tuple[Counts, int, int]:
    """What a budget keeps of a clip: of each chunk, and video and audio tokens in all.

    Args:
        shape: Size of the clip.
        chunks: Its chunks.
        budget: What to keep.
    """
    kept = budget.counts(chunks)
    # Audio outside of all chunks is never pruned.
    unchunked = shape.audio - int(chunks.audio.sum())
    return kept, int((kept.frame0 + kept.frame1).sum()), int(kept.audio.sum()) + unchunked


@dataclass(frozen=True)
class Weights:
    """Parameters of a host, counted without memory for them."""

    quantised: int
    """Weights of the language model's linear layers, without its head: what quantised loading replaces."""
    rows: int
    """Rows of these matrices."""
    largest: int
    """Weights of the largest of them."""
    language: int
    """Parameters of the language model without its embeddings, with the output layer."""
    encoders: int
    """Parameters of the encoders."""
    total: int
    """All parameters."""

    @classmethod
    def of(cls, config: Any) -> Weights:
        """Count a host of this configuration: it is built on the meta device."""
        with torch.device("meta"):
            host = model_class(config.model_type)(config)
        language_model: Any = adapter_for(host).parts.language_model
        linear = [module.weight for module in language_model.modules() if isinstance(module, nn.Linear)]
        sizes = [int(weight.numel()) for weight in linear]
        total, words = _numel(host.parameters()), language_model.get_input_embeddings().weight.numel()
        head, own = host.get_output_embeddings().weight, _numel(language_model.parameters())
        is_tied = any(head is parameter for parameter in language_model.parameters())
        return cls(
            quantised=sum(sizes),
            rows=sum(len(weight) for weight in linear),
            largest=max(sizes),
            language=own - int(words) + int(head.numel()),
            encoders=total - own - (0 if is_tied else int(head.numel())),
            total=total,
        )

    def nbytes(self, bits: int = 16) -> int:
        """Bytes in memory with the quantised part in so many bits, and all others in bfloat16.

        Args:
            bits: 16; or 8, with a float32 scale for each row; or 4, with one for each group of 64.
        """
        others = _BYTES * (self.total - self.quantised)
        scales = {16: 0, 8: self.rows, 4: self.quantised // 64}[bits]
        return others + self.quantised * bits // 8 + 4 * scales


def _numel(parameters: Iterable[Tensor]) -> int:
    return sum(int(parameter.numel()) for parameter in parameters)


def moved_bytes(weights: Weights, count: Count) -> dict[str, int]:
    """Bytes in bfloat16 that each stage moves at least: weights that it reads once, and the KV cache.

    Prefill reads all weights of the language model and writes the cache. A further token reads the cache and the
    weights that it meets, which are half of its products; of experts, those that are chosen. Activations, which stay in
    the processor's caches in part, are not included.

    Args:
        weights: Of the host.
        count: Of one prompt.

    Returns:
        Bytes of ``encode``, ``prefill`` and ``step``.
    """
    met = count.step.weights // 2
    return {
        "encode": _BYTES * weights.encoders,
        "prefill": _BYTES * weights.language + count.cache_bytes,
        "step": _BYTES * met + count.cache_bytes,
    }


def weight_bytes(config: Any) -> int:
    """Bytes of a host's parameters in bfloat16."""
    return Weights.of(config).nbytes()


def cache_bytes(config: Any, tokens: int, size: int = _BYTES, bits: int | None = None, group: int = 64) -> int:
    """Bytes that a language model caches of so many tokens.

    Args:
        config: Configuration of the text model.
        tokens: Tokens that it has read.
        size: Bytes of a value. States are in float32.
        bits: Bits of a value of a quantised cache; None means one that is not.
        group: Values of a quantised cache that share a scale and a zero point, of ``size`` bytes each; 0 means that
            there are none, as of fp8, which has one scale for each layer.
    """
    states = sum(has_state(config, layer) for layer in range(config.num_hidden_layers))
    total = 0
    if states:
        heads, key, value = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        read = 2 * config.linear_num_key_heads * key + heads * value
        total = states * (4 * heads * key * value + size * read * config.linear_conv_kernel_dim)
    # Every other layer caches a key and a value of each key-value head.
    values = (config.num_hidden_layers - states) * 2 * config.num_key_value_heads * head_size(config) * tokens
    if bits is None:
        return int(total + size * values)
    return int(total + values * bits // 8 + (2 * size * (values // group) if group else 0))


def _count(config: Any, shape: PromptShape, retain: str, video: int, audio: int, compress: Flops) -> Count:
    text = config.text_config
    prompt = video + audio + shape.times + shape.text
    stages = {
        "encode_video": encoders(config, shape.grid, 0),
        "encode_audio": encoders(config, (0, 0, 0), shape.mel),
        "compress": compress,
        "prefill": language_model(text, prompt, logits=1),
    }
    step = language_model(text, 1, cached=prompt)
    cache = cache_bytes(text, prompt)
    return Count(retain, video, audio, prompt, stages, step, cache, text.vocab_size * _BYTES)


@dataclass(frozen=True)
class FlopDefinition:
    """Counts under one definition."""

    name: str
    tflops: float
    """TFLOP of the full prompt. It depends on the clip; the ratios hardly do."""
    ratios: dict[str, float]
    """Budget -> compressed divided by full."""
    deviations: dict[str, float]
    """Budget -> relative deviation of the ratio from the paper's, for budgets of the paper."""


def flop_definitions(config: Any, counts: Sequence[Count]) -> list[FlopDefinition]:
    """Return the FLOPs under each plausible definition of the paper's Table 7.

    The table has three totals and states neither which stages they include nor how they were counted. Nothing is
    fitted: a definition includes a part or leaves it out.

    Args:
        config: Configuration of the thinker.
        counts: Counts of that thinker, the full prompt first.
    """
    # Logits of one token.
    row = 2 * config.text_config.hidden_size * config.text_config.vocab_size

    # The host's own `generate` computes the logits of tokens before the last as well.
    def whole(count: Count) -> Flops:
        return count.total + Flops(row * (prompt_logits(config, count.prompt) - 1))

    def model(count: Count) -> Flops:
        encoded = sum(count.stages[stage].total for stage in ("encode_video", "encode_audio"))
        pairs = count.stages["compress"].pairs + count.stages["prefill"].pairs
        return Flops(whole(count).total - encoded - pairs, pairs)

    definitions: dict[str, Callable[[Count], int]] = {
        "all stages, attention between tokens left out": lambda count: whole(count).weights,
        "the same, logits of the last token alone": lambda count: count.total.weights,
        "all stages, attention over all pairs": lambda count: whole(count).total,
        "all stages, half of the pairs (causal)": lambda count: whole(count).total - count.stages["prefill"].pairs // 2,
        "LLM and selector, attention left out": lambda count: model(count).weights,
        "LLM and selector, attention over all pairs": lambda count: model(count).total,
    }
    return [_definition(name, total, counts) for name, total in definitions.items()]


def _definition(name: str, total: Callable[[Count], int], counts: Sequence[Count]) -> FlopDefinition:
    full = total(counts[0])
    ratios = {count.retain: total(count) / full for count in counts[1:]}
    published = {retain: PAPER[retain] / PAPER["full"] for retain in ratios if retain in PAPER}
    return FlopDefinition(name, full / 1e12, ratios, {key: ratios[key] / value - 1 for key, value in published.items()})
