"""Build a `CompressedModel` from a recipe: load the model, add LoRA adapters if requested, and give it a selector."""

from __future__ import annotations

import copy
import logging
import os
import re
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnisift.compressors import make_compressor, needs_selector
from omnisift.compressors.omnisift import trainable_part
from omnisift.errors import UsageError
from omnisift.estimators import make_estimator
from omnisift.models import adapter_for
from omnisift.models.selector import new_selector
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.training.data import Sample, read_rows
from omnisift.training.distill import (
    DistillSettings,
    distill,
    load_questions,
    observe_clips,
    parts_of,
    save_selector,
)
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.losses import DATA, SELF_DISTILLATION
from omnisift.utils.parsing import shown
from omnisift.utils.special_tokens import SpecialTokens
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
OnProgress = Callable[[str, int, int], None]
"""Called with (stage, items done, items in total) while a run works."""


def build(recipe: TrainRecipe, on_progress: OnProgress | None = None) -> tuple[Host, CompressedModel]:
    """Load the model of ``recipe`` and freeze what it does not train.

    Args:
        recipe: the run's settings.
        on_progress: receives the progress of distilling a selector, where the recipe asks for one.

    Returns:
        The host and the module to train.

    Raises:
        UsageError: nothing would be trained, or ``lora_target_modules`` matches no module or an encoder.
        OmniSiftError: the model or its selector can't be loaded.
    """
    torch.manual_seed(recipe.seed)
    host = load_host(
        recipe.model, recipe.device, recipe.dtype, recipe.attn_implementation, quantization=recipe.quantization
    )
    thinker = host.thinker
    thinker.requires_grad_(recipe.language == "full")
    teacher = frozen_copy(thinker) if recipe.loss == SELF_DISTILLATION and recipe.language == "full" else None
    model = add_lora(thinker, recipe) if recipe.language == "lora" else thinker
    if recipe.gradient_checkpointing:
        thinker.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # Only reentrant checkpoints need inputs with a gradient, for which the frozen encoders would keep activations.
        thinker.disable_input_require_grads()
    selector = _selector(host, recipe, on_progress)
    compressor = make_compressor(recipe.compressor, recipe.budget, selector=selector, seed=recipe.seed)
    learner = trainable_part(compressor)
    if learner is not None:
        # A frozen selector chooses as in inference. An estimator that samples would read each batch several times, and
        # add its own term to the loss.
        learner.estimator = make_estimator(recipe.estimator if recipe.train_selector else "straight_through")
    compressed = CompressedModel(model, compressor, recipe.loss, teacher)
    if compressed.selector is not None:
        compressed.selector.requires_grad_(recipe.train_selector)
    trained = [parameter for parameter in compressed.parameters() if parameter.requires_grad]
    if not trained:
        raise UsageError(
            f"nothing to train: language is frozen and {recipe.compressor!r} has no selector; change one of them"
        )
    # An update of 1e-5 is below the precision of bfloat16: trained weights are float32 and compute under autocast.
    for parameter in trained:
        parameter.data = parameter.data.float()
    return host, compressed


def frozen_copy(thinker: Any) -> Any:
    """A copy of a thinker before training, in evaluation mode; the encoders, which are never trained, are shared."""
    encoders = adapter_for(thinker).parts.encoders
    return copy.deepcopy(thinker, {id(encoder): encoder for encoder in encoders}).requires_grad_(False).eval()


def _selector(host: Host, recipe: TrainRecipe, on_progress: OnProgress | None) -> VGAS | None:
    if not needs_selector(recipe.compressor):
        return None
    if recipe.selector == "distill":
        return load_selector(host, distilled_selector(host, recipe, on_progress))
    if recipe.selector != "new":
        return load_selector(host, recipe.selector)
    embeddings = host.thinker.get_input_embeddings().weight
    selector: Any = new_selector(embeddings.shape[1], recipe.time_embedding, recipe.seed)
    moved: VGAS = selector.to(device=embeddings.device, dtype=embeddings.dtype)
    return moved


def distilled_selector(host: Host, recipe: TrainRecipe, on_progress: OnProgress | None = None) -> Path:
    """Distill a selector on the training clips, once per run folder.

    The questions are the user turns of the training data; answers are not read.

    Returns:
        The folder of the selector, inside ``output_dir``.

    Raises:
        UsageError: several processes run, or fewer than two clips can be used.
    """
    folder = Path(recipe.output_dir) / "selector"
    if folder.is_dir():
        return folder
    special = SpecialTokens.of(host.processor.tokenizer)
    samples = read_rows([Path(path) for path in recipe.data], special, answered=recipe.answers_from == DATA).samples
    clips = check_distillable(recipe, samples)
    texts = {turn.text.strip() for sample in samples for turn in sample.turns if turn.role == "user"}
    questions = sorted(texts - {""}) or load_questions(None)  # a clip alone may stand for a question
    settings = DistillSettings(
        max_steps=recipe.distill_steps,
        time_embedding=recipe.time_embedding,
        seed=recipe.seed,
        **recipe.reading,
    )
    work = Path(recipe.output_dir) / "observed"
    step = _counter("recording attention", len(clips), on_progress)
    targets, skipped = observe_clips(host, clips, questions, settings, work, step)
    step = _counter("training the selector", len(parts_of(host, settings)) * settings.max_steps, on_progress)
    selector, report = distill(host, targets, settings, step)
    save_selector(selector, report | {"skipped": skipped}, folder)
    is_audio = "audio" in report["parts"]
    agreement = report["agreement"]["0.25"]["selector"] if is_audio else report["picture"]["0.25"]["learned"]
    logger.info("distilled a selector from %d clips; its agreement with the model is %s", len(targets), agreement)
    return folder


def check_distillable(recipe: TrainRecipe, samples: Sequence[Sample]) -> list[Path]:
    """The clips on which a selector is distilled.

    Raises:
        UsageError: several processes run, or there are fewer than two clips; neither matters once it is distilled.
    """
    clips = sorted({sample.media for sample in samples if sample.media is not None})
    if (Path(recipe.output_dir) / "selector").is_dir():
        return clips
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "selector: distill works in one process only; run `omnisift distill` first and give its folder as selector"
        )
    if len(clips) < 2:
        raise UsageError(
            f"selector: distill needs at least 2 clips, and data has {len(clips)}; add clips, or give a selector folder"
        )
    return clips


def _counter(stage: str, total: int, on_progress: OnProgress | None) -> Callable[[], None]:
    """A function that reports one more finished item of ``stage``."""
    done = count(1)
    return lambda: None if on_progress is None else on_progress(stage, next(done), total)


def add_lora(thinker: Any, recipe: TrainRecipe) -> Any:
    """Wrap ``thinker`` with LoRA adapters and freeze everything else.

    Raises:
        UsageError: ``lora_target_modules`` matches no module, modules of an encoder, or modules that PEFT can't adapt.
    """
    from peft import LoraConfig, get_peft_model

    names = check_lora_modules(thinker, recipe.lora_target_modules)
    is_mixture = bool(getattr(thinker.config.get_text_config(), "num_experts", 0))
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        # In mixtures of experts PEFT reads a pattern as the last parts of names, which encoders have too.
        target_modules=names if is_mixture else recipe.lora_target_modules,
    )
    try:
        model: Any = get_peft_model(thinker, config)
    except ValueError as error:
        raise UsageError(f"lora_target_modules can't be adapted: {str(error).splitlines()[0]}") from None
    adapted = {name for name, module in thinker.named_modules() if hasattr(module, "lora_A")}
    if adapted != set(names):
        other, word = sorted(adapted ^ set(names))[0], "as well" if adapted > set(names) else "otherwise"
        raise UsageError(f"lora_target_modules can't be adapted: PEFT adapts {other} {word}; name other modules")
    logger.info("LoRA on %d tensors", sum("lora_" in name for name, _ in model.named_parameters()))
    return model


def check_lora_modules(thinker: nn.Module, pattern: str) -> list[str]:
    """Check which modules of a model get adapters.

    Args:
        thinker: the model, whose parameters may be on the meta device.
        pattern: ``lora_target_modules``.

    Returns:
        The names of these modules.

    Raises:
        UsageError: the pattern matches no module, or modules of an encoder.
    """
    matches = [(name, module) for name, module in thinker.named_modules() if re.fullmatch(pattern, name)]
    if not matches:
        raise UsageError(
            f"lora_target_modules match no module of this model: {shown(pattern)}; see docs/fine-tuning.md"
        )
    frozen = {id(module) for encoder in adapter_for(thinker).parts.encoders for module in encoder.modules()}
    in_encoders = [name for name, module in matches if id(module) in frozen]
    if in_encoders:
        raise UsageError(
            f"lora_target_modules match {len(in_encoders)} modules of the encoders, such as {in_encoders[0]}; "
            "narrow the pattern to the language model"
        )
    return [name for name, _ in matches]
