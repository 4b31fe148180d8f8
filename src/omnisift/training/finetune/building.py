"""Build a `CompressedModel` from a recipe: load the model, add LoRA adapters if requested, and give it a selector."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from omnisift.compressors import make_compressor, needs_selector
from omnisift.compressors.omnisift import trainable_part
from omnisift.errors import UsageError
from omnisift.estimators import make_estimator
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.training.data import load_samples
from omnisift.training.distill import DistillSettings, distill, observe_clips, save_selector
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.selector import new_selector
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)


def build(recipe: TrainRecipe) -> tuple[Host, CompressedModel]:
    """Load the model of ``recipe``; what does not learn is frozen.

    Raises `OmniSiftError` of the kind that loading raises, `UsageError` where nothing would learn or a LoRA pattern
    misses.
    """
    torch.manual_seed(recipe.seed)
    host = load_host(recipe.model, recipe.device, recipe.dtype, recipe.attn)
    thinker = host.thinker
    thinker.requires_grad_(recipe.language == "full")
    if recipe.checkpointing:
        thinker.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        thinker.enable_input_require_grads()
    model = adapted(thinker, recipe) if recipe.language == "lora" else thinker
    compressor = make_compressor(recipe.compressor, recipe.budget, selector=_selector(host, recipe), seed=recipe.seed)
    learner = trainable_part(compressor)
    if learner is not None:
        learner.estimator = make_estimator(recipe.estimator)
    sifted = CompressedModel(model, compressor)
    if sifted.selector is not None:
        sifted.selector.requires_grad_(recipe.train_selector)
    for parameter in sifted.parameters():
        # A step of 1e-5 is lost in bfloat16's eight bits: what learns is float32, and computes under autocast.
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if not any(parameter.requires_grad for parameter in sifted.parameters()):
        raise UsageError(f"nothing would learn: language is frozen and {recipe.compressor!r} has no selector to train")
    return host, sifted


def _selector(host: Host, recipe: TrainRecipe) -> VGAS | None:
    if not needs_selector(recipe.compressor):
        return None
    if recipe.selector == "distil":
        return load_selector(host, distilled(host, recipe))
    if recipe.selector != "new":
        return load_selector(host, recipe.selector)
    embeddings = host.thinker.get_input_embeddings().weight
    made = new_selector(embeddings.shape[1], recipe.time_embedding, recipe.seed)
    selector: Any = made
    moved: VGAS = selector.to(device=embeddings.device, dtype=embeddings.dtype)
    return moved


def distilled(host: Host, recipe: TrainRecipe) -> Path:
    """The folder of a selector taught what ``host`` looks at in the training clips; made once in the run's folder.

    The questions are the users' own; no answer is read.
    """
    folder = Path(recipe.out) / "selector"
    if folder.is_dir():
        return folder
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("selector: distil works in one process; run `omnisift distill` first, and name its folder")
    samples = [sample for path in recipe.data for sample in load_samples(Path(path))]
    clips = sorted({sample.media for sample in samples if sample.media is not None})
    asked = sorted({turn.text for sample in samples for turn in sample.turns if turn.role == "user"})
    settings = DistillSettings(
        steps=recipe.distil_steps,
        time_embedding=recipe.time_embedding,
        seed=recipe.seed,
        fps=recipe.fps,
        max_frames=recipe.max_frames,
    )
    work = Path(recipe.out) / "observed"
    lessons, skipped = observe_clips(host, clips, asked, settings, work, lambda: None)
    selector, report = distill(host, lessons, settings)
    save_selector(selector, report | {"skipped": skipped}, folder)
    found = report["agreement"]["0.25"]["selector"]
    logger.info("distilled a selector from %d clips; it agrees with the model on %s", len(lessons), found)
    return folder


def adapted(thinker: Any, recipe: TrainRecipe) -> Any:
    """``thinker`` with LoRA adapters, which alone learn. `UsageError` if the pattern hits an encoder or nothing."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        target_modules=recipe.lora_targets,
    )
    try:
        model: Any = get_peft_model(thinker, config)
    except ValueError as error:
        raise UsageError(f"lora_targets fit no module of this model: {str(error).splitlines()[0]}") from None
    hit = [name for name, parameter in model.named_parameters() if "lora_" in name]
    wrong = [name for name in hit if ".visual." in name or ".audio_tower." in name]
    if wrong:
        raise UsageError(f"lora_targets hit {len(wrong)} tensors of the encoders, as {wrong[0]}; narrow the pattern")
    logger.info("LoRA on %d tensors", len(hit))
    return model
