"""Memory and operations of a training step, by formula from the dimensions of the model and of a row.

docs/fine-tuning.md states the formula and how far it is from what was measured on small models.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from omnisift.budget import Budget
from omnisift.compressors import needs_selector
from omnisift.estimators import make_estimator
from omnisift.models import adapter_for
from omnisift.models.selector import new_selector
from omnisift.profiling.analytic import cache_bytes
from omnisift.profiling.flops import (
    STATE_PART,
    encoders,
    has_state,
    head_size,
    is_sparse,
    language_model,
    mlp_width,
    selector,
)
from omnisift.profiling.shape import PromptShape
from omnisift.training.curriculum import falling_budget
from omnisift.training.finetune.recipe import QUANTIZED_BYTES, TrainRecipe
from omnisift.training.losses import SELF_DISTILLATION
from omnisift.vgas import VGASConfig

_FLOAT32 = 4
"""Bytes of a trained weight, of its gradient, and of each of its two moments in AdamW."""


@dataclass(frozen=True)
class Parameters:
    """Number of parameters of a model and its selector."""

    trained: int
    frozen: int
    teacher: int = 0
    """Of the frozen copy for self-distillation, which shares the encoders; 0 where the model itself is the teacher."""
    quantized: int = 0
    """Of the frozen ones, the weights that are quantised."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes on one device, without what the runtime itself takes."""

    weights: int
    """Frozen weights in the recipe's type, trained ones in float32, and their copies in bfloat16."""
    optimizer: int
    """Gradients and the moments of AdamW."""
    activations: int
    """What the backward pass needs of the largest batch, with its logits; or the encoders, if they need more."""
    update: int
    """Temporaries of AdamW, when the activations are gone."""
    evaluation: int
    """KV cache of generated answers."""
    teacher: int = 0
    """The frozen copy for self-distillation, which every device holds in full."""

    @property
    def peak(self) -> int:
        """Bytes in the largest moment."""
        return self.sharded(1)

    def sharded(self, processes: int) -> int:
        """Bytes in the largest moment where FSDP2 divides weights and optimizer among ``processes``."""
        fixed = (self.weights + self.optimizer) // processes + self.teacher
        return fixed + max(self.activations, self.update // processes, self.evaluation)

    def to_dict(self) -> dict[str, int]:
        """Return plain data for JSON."""
        return asdict(self) | {"peak": self.peak}


def count_parameters(recipe: TrainRecipe, thinker: Any) -> Parameters:
    """Count what a recipe trains of a model, whose parameters may be on the meta device."""
    total = sum(parameter.numel() for parameter in thinker.parameters())
    encoders = sum(p.numel() for encoder in adapter_for(thinker).parts.encoders for p in encoder.parameters())
    scorer = 0
    if needs_selector(recipe.compressor):
        hears = adapter_for(thinker).parts.audio_encoder is not None
        layout = new_selector(
            thinker.config.get_text_config().hidden_size,
            hears and recipe.time_embedding,
            recipe.seed,
            video_score=not hears,  # which `distill` trains alone for a model without audio
            audio_score=hears,
        )
        scorer = sum(parameter.numel() for parameter in layout.parameters())
    trained = scorer if recipe.train_selector else 0
    if recipe.language == "full":
        trained += total - encoders
    frozen = total + scorer - trained
    if recipe.language == "lora":
        trained += recipe.lora_rank * _adapted_width(thinker, recipe.lora_target_modules)
    copied = recipe.loss == SELF_DISTILLATION and recipe.language == "full"
    quantized = 0
    if recipe.quantization is not None:
        inside = adapter_for(thinker).parts.language_model.modules()
        quantized = sum(module.weight.numel() for module in inside if isinstance(module, nn.Linear))
    return Parameters(trained, frozen, total - encoders if copied else 0, quantized)


def step_memory(recipe: TrainRecipe, config: Any, parameters: Parameters, shape: PromptShape) -> StepMemory:
    """Estimate the memory of one training step.

    Args:
        recipe: the run's settings.
        config: configuration of the thinker.
        parameters: what is trained and what is frozen.
        shape: the largest row, before compression.
    """
    size = 2 if recipe.in_bfloat16 else _FLOAT32
    # The first step keeps most, where the fraction falls.
    text, kept = config.get_text_config(), kept_tokens(recipe, shape, recipe.budget_at(0))
    layers = [_layer_bytes(recipe, text, layer, size) for layer in range(text.num_hidden_layers)]
    stored = sum(layers)
    if recipe.gradient_checkpointing:
        stored = text.num_hidden_layers * text.hidden_size * size + max(layers)
    if recipe.language == "frozen" and _passes(recipe) > 1:
        stored = max(layers)  # the selector learns from the losses alone
    # The logits, their gradient, and both in float32 at the answers, which are few.
    logits = 2 * text.vocab_size * size
    backward = recipe.per_device_train_batch_size * _passes(recipe) * kept * (stored + logits)
    encoders = recipe.per_device_train_batch_size * _encoder_bytes(config, shape, size)
    # The teacher reads all tokens, and keeps nothing of a layer for the next one.
    read = shape.prompt * max(layers) if recipe.loss == SELF_DISTILLATION else 0
    teacher = recipe.per_device_train_batch_size * read
    cache = cache_bytes(text, kept, size)
    batch = recipe.per_device_eval_batch_size or recipe.per_device_train_batch_size
    packed = parameters.quantized * (0 if recipe.quantization is None else QUANTIZED_BYTES[recipe.quantization])
    frozen = (parameters.frozen - parameters.quantized) * size + int(packed)
    return StepMemory(
        weights=frozen + parameters.trained * (_FLOAT32 + (2 if recipe.in_bfloat16 else 0)),
        optimizer=parameters.trained * 3 * _FLOAT32,
        activations=max(backward, encoders, teacher),
        update=parameters.trained * _FLOAT32,
        evaluation=0 if recipe.evaluates == "no" else batch * (cache + kept * text.vocab_size * size),
        teacher=parameters.teacher * size,
    )


def _layer_bytes(recipe: TrainRecipe, text: Any, layer: int, size: int) -> int:
    """What the backward pass needs of one token in a layer whose values have ``size`` bytes."""
    width, query = text.hidden_size, text.num_attention_heads * head_size(text)
    keys = text.num_key_value_heads * head_size(text)
    expert = mlp_width(text, layer)
    # Residual stream and norms are kept in float32: 3 values of the width in each half of a layer. In the type of the
    # computation: queries, keys and values, the attention's result twice, and 4 values of the MLP's width.
    total = 6 * width * _FLOAT32 + (2 * query + 2 * keys + 2 * query + 4 * expert) * size
    if has_state(text, layer):
        heads, key, value = text.linear_num_value_heads, text.linear_key_head_dim, text.linear_value_head_dim
        # Instead of attention: its inputs before and behind the convolution; in float32 the values of the recurrence,
        # a row of each matrix between the tokens of a part, and the part's state.
        read = 2 * text.linear_num_key_heads * key + heads * value
        total += (3 * read - 4 * query - 2 * keys) * size
        total += _FLOAT32 * heads * (8 * (key + value) + 4 * STATE_PART + 4 * key * value // STATE_PART)
    if is_sparse(text, layer):
        # The input of each chosen expert and its result, before and behind the weights of the router.
        total += 4 * text.num_experts_per_tok * width * size
    if recipe.language == "lora":
        # Each adapter keeps its input in float32, and a mask of its dropout.
        shared = getattr(text, "shared_expert_intermediate_size", 0) or 0
        inner = shared if is_sparse(text, layer) else text.intermediate_size
        adapted = 2 * width + inner if inner else 0
        total += (3 * width + query + adapted) * (_FLOAT32 + 1)
    return int(total)


def row_flops(recipe: TrainRecipe, config: Any, shape: PromptShape) -> int:
    """Operations of one row in a training step: encoders, forward and backward passes of the language model.

    Where the fraction kept falls, they are those of its mean over the steps.
    """
    text = config.get_text_config()
    mean = falling_budget(recipe.budget, recipe.retain_start, (1 - recipe.retain_fall_ratio / 2), 1.0)
    model = language_model(text, kept_tokens(recipe, shape, mean))
    # Gradients of activations cost one forward pass, gradients of weights another one. Products between tokens have two
    # factors with gradients in any case.
    backward = {"full": 2, "lora": 1, "frozen": 0 if _passes(recipe) > 1 else 1}[recipe.language]
    again = 1 if recipe.gradient_checkpointing and backward else 0
    passes = model.weights * (1 + backward + again) + model.pairs * (1 + 2 * bool(backward) + again)
    frozen = encoders(config, shape.grid, shape.mel).total
    teacher = frozen + language_model(text, shape.prompt, logits=0).total if recipe.loss == SELF_DISTILLATION else 0
    if shape.video and needs_selector(recipe.compressor):
        chunks = shape.chunks()
        layout = VGASConfig(input_size=text.hidden_size)
        frozen += selector(layout, chunks, recipe.budget.counts(chunks)).total * (3 if recipe.train_selector else 1)
    return _passes(recipe) * (frozen + passes) + teacher


def kept_tokens(recipe: TrainRecipe, shape: PromptShape, budget: Budget | None = None) -> int:
    """Tokens of a row that the language model reads; by the recipe's budget, or that of another step."""
    if not shape.video and not recipe.compress_audio:
        return shape.prompt
    chunks = shape.chunks(compress_audio=recipe.compress_audio)
    counts = (budget or recipe.budget).counts(chunks)
    dropped = int(chunks.frame0.sum() + chunks.frame1.sum() + chunks.audio.sum())
    dropped -= int((counts.frame0 + counts.frame1 + counts.audio).sum())
    return shape.prompt - dropped


def _passes(recipe: TrainRecipe) -> int:
    """Forward passes over a batch whose activations are kept together: estimators that sample need several."""
    learns = recipe.train_selector and needs_selector(recipe.compressor)
    return make_estimator(recipe.estimator).samples if learns else 1


def _encoder_bytes(config: Any, shape: PromptShape, size: int) -> int:
    """What a layer of an encoder holds at once, without a backward pass: input, q, k, v, result and the MLP."""
    vision, audio = config.vision_config, getattr(config, "audio_config", None)
    patches = shape.video * int(vision.spatial_merge_size) ** 2
    wide = getattr(vision, "embed_dim", vision.hidden_size)
    inner = vision.intermediate_size if hasattr(vision, "intermediate_size") else wide * vision.mlp_ratio
    video = patches * (6 * wide + 3 * inner) * size
    sound = 0 if audio is None else shape.mel * (6 * audio.d_model + 2 * audio.encoder_ffn_dim) * size
    return int(max(video, sound))


def _adapted_width(thinker: Any, pattern: str) -> int:
    """The inputs and outputs of all modules that get adapters."""
    modules = (module for name, module in thinker.named_modules() if re.fullmatch(pattern, name))
    return sum(int(module.in_features + module.out_features) for module in modules if hasattr(module, "in_features"))
