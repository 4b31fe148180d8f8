"""What a run will cost: `plan_run` checks a recipe and estimates memory and hours without loading the model."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from omnisift.errors import MediaError, UsageError
from omnisift.media import Media
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.model_source import find_model
from omnisift.pipeline.prompt import clip_size
from omnisift.profiling.shape import PromptShape
from omnisift.training.data import Collator, Sample, encode_sample
from omnisift.training.finetune.checks import check_run, empty_thinker
from omnisift.training.finetune.cost import StepMemory, count_parameters, kept_tokens, row_flops, step_memory
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.finetune.run import make_collator, planned_steps, read_data
from omnisift.training.finetune.run_folder import check_folder

H100 = 400.0
"""TFLOP/s that are assumed of a GPU where this machine has none: 40 % of the dense bfloat16 peak of an H100, 989."""
SAMPLED = 16
"""Rows that are read to measure their length."""


@dataclass(frozen=True)
class RunPlan:
    """What a run will need, estimated from its recipe, its data and the dimensions of its model."""

    rows: int
    """Training rows."""
    steps: int
    """Optimizer steps."""
    sampled: int
    """Rows that were read, evenly over the data."""
    tokens: int
    """Mean tokens of these rows, before compression."""
    kept: int
    """Mean tokens that the language model reads."""
    longest: int
    """Tokens of the longest of these rows, before compression."""
    trained: int
    """Parameters that are trained."""
    frozen: int
    memory: StepMemory
    """Bytes on each device, where each holds a copy of the model."""
    tflop: float
    """TFLOP of all rows of the run."""
    tflops: float
    """TFLOP per second of one device."""
    throughput: str
    """Where that number comes from."""
    hours: float
    """Hours of computing on ``devices``; reading clips comes on top where it is slower than computing."""
    devices: int
    read_seconds: float
    """Mean seconds to read and prepare one row here, in one process."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"memory": self.memory.to_dict()}


def plan_run(recipe: TrainRecipe, tflops: float | None = None) -> RunPlan:
    """Check a recipe, and estimate what its run needs. Nothing is written, and no weights are read.

    Args:
        recipe: the run's settings. Its device need not be on this machine.
        tflops: TFLOP per second of one device; None measures this machine's, or takes `H100` for a GPU that it lacks.

    Raises:
        OmniSiftError: as `fine_tune` raises before it loads the model; or no row that was tried can be used.
    """
    rows, evaluated = read_data(recipe)
    samples = rows.samples
    check_folder(Path(recipe.output_dir))
    check_run(recipe, samples, evaluated.samples, here=False)
    source = find_model(recipe.model)
    processor = read_processor(source.source, local_files_only=source.local_files_only)
    begin = time.perf_counter()
    chosen = samples[:: -(-len(samples) // SAMPLED)]
    collator = make_collator(recipe, processor)
    shapes = [shape for sample in chosen for shape in row_shapes(collator, sample, source.config)]
    seconds = time.perf_counter() - begin
    if not shapes:
        raise UsageError("none of the rows that were tried can be used; `omnisift data-check` shows why")
    thinker = empty_thinker(source)
    parameters = count_parameters(recipe, thinker)
    devices = recipe.processes or int(os.environ.get("WORLD_SIZE", "1"))
    steps = planned_steps(recipe, len(samples), devices)
    passed = steps * recipe.gradient_accumulation_steps * recipe.per_device_train_batch_size * devices
    rate, throughput = (tflops, "given") if tflops is not None else device_tflops(recipe)
    work = passed * sum(row_flops(recipe, thinker.config, shape) for shape in shapes) / len(shapes) / 1e12
    longest = max(shapes, key=lambda shape: shape.prompt)
    return RunPlan(
        rows=len(samples),
        steps=steps,
        sampled=len(shapes),
        tokens=round(sum(shape.prompt for shape in shapes) / len(shapes)),
        kept=round(sum(kept_tokens(recipe, shape) for shape in shapes) / len(shapes)),
        longest=longest.prompt,
        trained=parameters.trained,
        frozen=parameters.frozen,
        memory=step_memory(recipe, thinker.config, parameters, longest),
        tflop=work,
        tflops=rate,
        throughput=throughput,
        hours=work / rate / devices / 3600,
        devices=devices,
        read_seconds=seconds / len(chosen),
    )


def row_shapes(collator: Collator, sample: Sample, config: Any = None) -> list[PromptShape]:
    """The size of a row in tokens; nothing if the row can't be used. ``config`` as `PromptShape` has it."""
    try:
        media = None if sample.media is None else collator.read(sample.media)
        row = encode_sample(collator.processor, sample, media, collator.system)
    except (MediaError, UsageError):
        return []
    return [row_shape(collator.processor, media, int(row["input_ids"].shape[1]), config)]


def row_shape(processor: Any, media: Media | None, tokens: int, config: Any = None) -> PromptShape:
    """The size of a row of so many tokens that shows ``media``."""
    if media is None:
        return PromptShape(0, 0, 0, 0, tokens, 1.0, config)
    (frames, height, width), mel = clip_size(media, processor)
    shape = PromptShape(frames, height, width, mel, 0, 2 / media.fps if media.fps else 1.0, config)
    return replace(shape, text=tokens - shape.prompt)


def device_tflops(recipe: TrainRecipe) -> tuple[float, str]:
    """(TFLOP per second of one device, where the number comes from)."""
    if recipe.device != "cpu" and not torch.cuda.is_available():
        return H100, "assumed: 40 % of an H100's 989"
    dtype = torch.bfloat16 if recipe.in_bfloat16 else torch.float32
    return matrix_tflops(recipe.device, dtype), f"measured here: products of matrices in {dtype}".replace("torch.", "")


def matrix_tflops(
    device: str,
    dtype: torch.dtype,
    size: int = 1024,
    seconds: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """TFLOP per second of products of square matrices, by ``clock``."""
    left = torch.ones(size, size, device=device, dtype=dtype)
    count, begin = 0, clock()
    while clock() - begin < seconds or count < 2:
        (left @ left).sum().item()  # which waits for the device
        count += 1
    return 2 * size**3 * count / (clock() - begin) / 1e12
