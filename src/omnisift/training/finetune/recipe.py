"""`TrainRecipe`: everything that a run of fine-tuning depends on, in one frozen dataclass; YAML comes from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.errors import UsageError
from omnisift.estimators import make_estimator
from omnisift.utils.atomic_io import write_atomic

LANGUAGES = ("full", "lora", "frozen")
LORA_TARGETS = r"(.*\.)?(model|language_model)\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
"""Decoder layers in both layouts of Transformers; the encoders' layers lie below ``visual`` and ``audio_tower``."""
MAY_GROW = ("steps", "epochs", "save_steps", "log_steps", "workers")
"""What may differ when a run goes on."""


@dataclass(frozen=True)
class TrainRecipe:
    """What `fine_tune` does. Every field is a key of the YAML file."""

    model: str
    """``nano``, a checkpoint folder, or a hub id."""
    data: tuple[str, ...]
    """Data files or folders (docs/training-data.md), relative to where the command runs."""
    out: str
    """Folder of the run: checkpoints, ``log.jsonl``, TensorBoard files, and at the end ``model``."""
    compressor: str = "omnisift"
    """The method that cuts every prompt (`omnisift methods`)."""
    retain: float | None = None
    """Fraction of video and audio tokens kept together; or give the next two."""
    retain_video: float | None = None
    """Fraction of video tokens kept."""
    retain_audio: float | None = None
    """Fraction of audio tokens kept."""
    selector: str | None = "distil"
    """``distil``: one is taught first what the model itself looks at in the clips of ``data`` (docs/distill.md); a
    folder of selector weights; ``new`` for random ones; null for the model's own."""
    distil_steps: int = 200
    """Steps of that teaching."""
    time_embedding: bool = True
    """Whether a new selector has our time embedding; the paper's has not."""
    train_selector: bool = False
    """Whether the selector learns from the answers as well."""
    estimator: str = "reinforce"
    """How its scores then get a gradient (docs/estimators.md); ``straight_through`` is the paper's."""
    selector_rate: float | None = None
    """Peak learning rate of the selector; null means that of the language model."""
    language: str = "full"
    """``full``, ``lora`` or ``frozen``. Encoders are always frozen."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Scale of the adapters, divided by their rank."""
    lora_dropout: float = 0.05
    """Dropout before the adapters."""
    lora_targets: str = LORA_TARGETS
    """Regular expression of the modules that get adapters."""
    steps: int | None = None
    """Optimiser steps; or give ``epochs``."""
    epochs: float | None = None
    """Passes over the data; 1 if neither is given."""
    batch_size: int = 1
    """Samples of one forward pass on one process."""
    accumulation: int = 1
    """Forward passes of one optimiser step."""
    rate: float = 1e-5
    """Peak learning rate of the language model (AdamW)."""
    warmup: float = 0.05
    """Share of the steps in which the rate rises."""
    cycles: float = 0.47
    """Of the cosine behind it: 0.5 ends at zero, the paper's 0.47 a little above."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Of the order of samples, of new weights and of estimators that draw."""
    device: str = "cpu"
    """``cpu`` or ``cuda``; a distributed launch places processes by itself."""
    processes: int | None = None
    """How many processes must train together; the run stops if it finds another number. null takes what the launcher
    says it started."""
    dtype: str | None = None
    """``float32`` or ``bfloat16``; null means float32 on a CPU, bfloat16 elsewhere. With bfloat16 the model computes in
    it; weights that learn, and their optimiser, are float32."""
    attn: str | None = None
    """Attention implementation of Transformers; ``sdpa`` if null."""
    checkpointing: bool = False
    """Gradient checkpointing: less memory, about a third more time."""
    save_steps: int = 100
    """Steps between checkpoints; two are kept."""
    log_steps: int = 1
    """Steps between lines of the log."""
    workers: int = 0
    """Processes that read clips ahead."""
    system: str | None = None
    """A system turn for conversations without one."""
    fps: float = 2.0
    """Pictures sampled per second."""
    max_frames: int = 256
    """Most pictures of a clip."""
    max_pixels: int | None = None
    """Most pixels of a picture; null means the paper's 320 x 28 x 28."""
    max_seconds: float | None = None
    """Longer clips are left out and counted."""
    max_tokens: int | None = None
    """Samples of more tokens, before compression, are left out and counted."""
    cache: str | None = None
    """Folder for decoded clips; null decodes every time."""
    cache_gigabytes: float = 20.0
    """Most that the folder may take."""

    def __post_init__(self) -> None:
        if self.language not in LANGUAGES:
            raise UsageError(f"language must be one of {', '.join(LANGUAGES)}, got {self.language!r}")
        if self.language == "frozen" and not self.train_selector:
            raise UsageError("language: frozen and train_selector: false leave nothing to train; change one of them")
        if self.selector == "new" and not self.train_selector:
            raise UsageError("selector: new is random, and train_selector: false keeps it so; take distil, or train it")
        if self.steps is not None and self.epochs is not None:
            raise UsageError("give steps or epochs, not both")
        for name in (
            "steps",
            "epochs",
            "batch_size",
            "accumulation",
            "rate",
            "save_steps",
            "log_steps",
            "lora_rank",
            "distil_steps",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be above 0, got {value}")
        if self.dtype not in (None, "float32", "bfloat16"):
            raise UsageError(f"dtype must be float32 or bfloat16, got {self.dtype!r}")
        make_estimator(self.estimator)
        self.budget  # noqa: B018 - refuses wrong ratios now, not after the model was loaded

    @property
    def in_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16."""
        return self.dtype == "bfloat16" or (self.dtype is None and self.device != "cpu")

    @property
    def budget(self) -> Budget:
        """How much stays."""
        return Budget(retain=self.retain, retain_video=self.retain_video, retain_audio=self.retain_audio)


def load_train_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> TrainRecipe:
    """Read a YAML file; ``changes`` replace some of its values.

    Raises `UsageError` in one line: no file, not YAML, an unknown or missing key, a value of another type.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"can't read the recipe {path}: {type(error).__name__}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} must hold keys and values, got {type(found).__name__}")
    return recipe_of({**found, **(changes or {})}, str(path))


def recipe_of(values: Mapping[str, Any], where: str) -> TrainRecipe:
    """The recipe with these values, each checked against its field's type."""
    known = {field.name: str(field.type) for field in fields(TrainRecipe)}
    unknown = sorted(str(name) for name in values.keys() - known.keys())
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known)}")
    missing = [name for name in ("model", "data", "out") if name not in values]
    if missing:
        raise UsageError(f"{where}: no {missing[0]!r}; give it a value")
    return TrainRecipe(**{name: _typed(name, known[name], value, where) for name, value in values.items()})


def _typed(name: str, kind: str, value: Any, where: str) -> Any:
    if value is None and "None" in kind:
        return None
    if kind.startswith("tuple"):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
            return tuple(value)
        raise UsageError(f"{where}: {name} must be one or more paths, got {value!r}")
    wanted = kind.split(" |")[0]
    if wanted == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if type(value).__name__ != wanted:
        hint = " (YAML reads 1e-5 as a text: write 1.0e-5)" if wanted == "float" and isinstance(value, str) else ""
        raise UsageError(f"{where}: {name} must be {kind}, got {value!r}{hint}")
    return value


def keep_recipe(recipe: TrainRecipe, out: Path) -> None:
    """Note the recipe in ``out``; a run that is there may only go on with the same one (`MAY_GROW` aside)."""
    path = out / "recipe.json"
    if path.is_file():
        before = recipe_of(json.loads(path.read_text(encoding="utf-8")), str(path))
        same = replace(recipe, **{name: getattr(before, name) for name in MAY_GROW})
        changed = [f.name for f in fields(TrainRecipe) if getattr(same, f.name) != getattr(before, f.name)]
        if changed:
            raise UsageError(
                f"{out} holds a run with another {changed[0]} ({getattr(before, changed[0])!r}, now "
                f"{getattr(recipe, changed[0])!r}): name another --out, or delete it"
            )
        for name in ("steps", "epochs"):
            old, new = getattr(before, name), getattr(recipe, name)
            if (old is None) != (new is None) or (old is not None and new < old):
                raise UsageError(f"{out} holds a run of {name}: {old}, now {new}: a run may only grow")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(asdict(recipe), indent=1) + "\n")
