"""What can be wrong with a training run and is found before its model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from omnisift.compressors import check_selector, make_compressor, needs_selector
from omnisift.compressors.omnisift import trainable_part
from omnisift.errors import TrainingError, UsageError
from omnisift.models import adapter_class, model_class
from omnisift.models.base import check_needs
from omnisift.models.selector import new_selector
from omnisift.pipeline.clip_format import hears
from omnisift.pipeline.devices import named_device
from omnisift.pipeline.loading import plan_placement, read_processor, read_selector
from omnisift.pipeline.model_source import ModelSource, check_counted, find_model
from omnisift.training.data import Sample, check_answers_follow
from omnisift.training.finetune.building import check_distillable, check_lora_modules
from omnisift.training.finetune.guards import launcher_requests, world_error
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.finetune.run_folder import is_new, make_folder
from omnisift.training.finetune.validation import has_short_answer
from omnisift.training.hub import check_hub
from omnisift.training.losses import DATA
from omnisift.utils.checkpoint_files import checkpoint_errors, reason_of
from omnisift.utils.parsing import shown
from omnisift.utils.quiet import quiet_transformers
from omnisift.utils.suggest import did_you_mean

_ONLY_LORA = ("lora_rank", "lora_alpha", "lora_dropout", "lora_target_modules")


def check_run(recipe: TrainRecipe, samples: Sequence[Sample], evaluated: Sequence[Sample], here: bool = True) -> None:
    """Check a run as far as that is possible without the weights of its model.

    Args:
        recipe: the run's settings.
        samples: its training data.
        evaluated: its validation data.
        here: whether it will run on this machine, in the processes that were started.

    Raises:
        OmniSiftError: the run would stop later for a reason that can be known now.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.device != "auto":
        named_device(recipe.device)
    source = find_model(recipe.model)
    _check_quantization(recipe, source)
    device = recipe.device if here else "cpu"
    plan_placement(device, recipe.dtype, recipe.attn_implementation, quantization=recipe.quantization)
    if here and recipe.processes not in (None, launched):
        raise TrainingError(world_error(recipe.processes, launched))
    if is_new(Path(recipe.output_dir)):
        _check_unused(recipe)
    check_counted(source.model_type, recipe.model, "train")
    processor = read_processor(source.source, local_files_only=source.local_files_only)
    check_answers_follow(processor, recipe.model)
    _check_method(recipe, source)
    if not hears(processor):
        _check_without_audio(recipe, samples)
    if recipe.selector == "distill" and needs_selector(recipe.compressor):
        check_distillable(recipe, samples)
    if recipe.language == "lora":
        check_lora_modules(empty_thinker(source), recipe.lora_target_modules)
    if recipe.cache is not None and here:
        make_folder(Path(recipe.cache), "cache")
    if recipe.load_best_model_at_end and recipe.metric == "accuracy":
        if launcher_requests("FSDP"):
            raise UsageError("metric_for_best_model is accuracy, which is not measured under FSDP; use loss")
        if not any(map(has_short_answer, evaluated)):
            raise UsageError("metric_for_best_model is accuracy, and no row of eval_data has a short answer; use loss")
    check_trackers(recipe.report_to or ())
    if recipe.hub_model_id is not None:
        if not needs_selector(recipe.compressor):
            raise UsageError(f"hub_model_id uploads the selector, and {recipe.compressor!r} has none; leave it out")
        check_hub(recipe.hub_model_id, recipe.hub_private_repo)


def _check_quantization(recipe: TrainRecipe, source: ModelSource) -> None:
    """What can't be trained of a quantised model."""
    if source.stored_quantization is not None:
        raise UsageError(
            f"{recipe.model} is quantised already ({source.stored_quantization['quant_method']}); train the model that "
            "it was made of, with quantization: bitsandbytes-nf4 for less memory"
        )
    if recipe.quantization is not None and recipe.language == "full":
        raise UsageError(
            f"quantization is {recipe.quantization} and language full, which trains the weights themselves; set "
            "language: lora"
        )
    if recipe.quantization is not None and launcher_requests("FSDP"):
        raise UsageError("quantization is given under FSDP, which can't divide these weights; leave one of them out")


def _check_unused(recipe: TrainRecipe) -> None:
    """Raise `UsageError` for a value that the rest of the recipe switches off; runs that exist may have one."""
    for name in _ONLY_LORA if recipe.language != "lora" else ():
        if getattr(recipe, name) != getattr(TrainRecipe, name):
            raise UsageError(f"{name} is given, but language is {recipe.language}; set language: lora, or leave it out")
    for name, needed in (("retain_fall_ratio", "retain_start"), ("max_new_tokens", "answers_from: model")):
        is_used = recipe.retain_start is not None if needed == "retain_start" else recipe.answers_from != DATA
        if getattr(recipe, name) != getattr(TrainRecipe, name) and not is_used:
            raise UsageError(f"{name} is given without {needed}; give both, or leave it out")
    if recipe.selector_learning_rate is not None and not recipe.train_selector:
        raise UsageError("selector_learning_rate is given, but train_selector is false; set one of them")
    check_selector(None if recipe.selector == "distill" else recipe.selector, recipe.compressor)
    if recipe.train_selector and not needs_selector(recipe.compressor):
        raise UsageError(
            f"train_selector is true, but {recipe.compressor!r} has no selector; set it to false, or choose omnisift"
        )


def _check_without_audio(recipe: TrainRecipe, samples: Sequence[Sample]) -> None:
    """What a model that takes no audio can't learn."""
    if recipe.train_selector:
        raise UsageError(
            f"train_selector is true, but {recipe.model} takes no audio, by which a selector learns from answers; set "
            "it to false"
        )
    if samples and all(sample.sound_only for sample in samples):
        raise UsageError(f"all rows name their clip as audio, which {recipe.model} does not take; give rows with video")


def _check_method(recipe: TrainRecipe, source: ModelSource) -> None:
    """Make the method once, with the selector that it will have or a new one of the same size."""
    if recipe.keeps_all:
        raise UsageError(f"compressor {recipe.compressor!r} compresses nothing; `omnisift methods` lists the methods")
    selector = None
    if needs_selector(recipe.compressor):
        if recipe.selector in ("new", "distill"):
            selector = new_selector(source.hidden_size, recipe.time_embedding, recipe.seed)
        else:
            selector = read_selector(
                source.name,
                source.source,
                recipe.selector,
                source.hidden_size,
                local_files_only=source.local_files_only,
            )
    compressor = make_compressor(recipe.compressor, recipe.budget, selector=selector, seed=recipe.seed)
    check_needs(compressor, adapter_class(source.model_type), recipe.model)
    if recipe.language == "frozen" and trainable_part(compressor) is None:
        raise UsageError(
            f"nothing to train: language is frozen and {recipe.compressor!r} has no selector; change one of them"
        )


def empty_thinker(source: ModelSource) -> Any:
    """The model of ``source`` with its parameters on the meta device: names and shapes, no memory and no weights."""
    with checkpoint_errors(f"{source.source}/config.json"), quiet_transformers(), torch.device("meta"):
        return model_class(source.model_type)(source.config)


def check_trackers(names: Sequence[str]) -> None:
    """Check that the Trainer has these trackers and that their packages are installed; nothing is reported yet.

    Raises:
        UsageError: a tracker is unknown or can't be used.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise UsageError(
                f"report_to: no tracker named {shown(name)}; {did_you_mean(name, INTEGRATION_TO_CALLBACK)}"
            )
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (ImportError, RuntimeError) as error:
            raise UsageError(
                f"report_to: {name} can't be used ({reason_of(error)}); install its package, or leave it out"
            ) from None
