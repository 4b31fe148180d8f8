"""`TrainRecipe`: all settings of a fine-tuning run in one frozen dataclass, read from a YAML file."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import check_named
from omnisift.config import WORK_LIMITS, CompressionConfig, ReadOptions, parse_yaml
from omnisift.errors import UsageError
from omnisift.estimators import ALIASES, make_estimator
from omnisift.training.curriculum import FALL_RATIO, check_start, falling_budget
from omnisift.training.losses import ANSWER_SOURCES, ANSWERS, DATA, LOSSES, SELF_DISTILLATION
from omnisift.utils.parsing import check_path_name, is_file_name, is_text, read_text, shown
from omnisift.utils.suggest import check_choice, closest

LANGUAGES = ("full", "lora", "frozen")
QUANTIZED_BYTES = {"bitsandbytes-int8": 1.0, "bitsandbytes-nf4": 0.5 + 4 / 64}
"""Ways to quantise a frozen language model (`omnisift.load`) and bytes of a weight, with the scales of nf4."""
EVAL_STRATEGIES = ("no", "steps", "epoch")
METRICS = ("loss", "accuracy")
"""What is measured on the validation data, as ``eval_loss`` and ``eval_accuracy``."""
FORMER_LORA_TARGET_MODULES = r"(.*\.)?(model|language_model)\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
"""The default of runs that began before linear attention was adapted, which Qwen2.5-Omni does not have."""
LORA_TARGET_MODULES = (
    r"(.*\.)?(model|language_model)\.layers\.\d+\."
    r"((self_attn|mlp|mlp\.shared_expert)\.(q|k|v|o|gate|up|down)_proj|linear_attn\.(in_proj_qkv|in_proj_z|out_proj))"
)
"""Decoder layers in both layouts of Transformers; the encoders' layers are below ``visual`` and ``audio_tower``.
Experts of a mixture are no modules of their own, and stay as they are; one that all tokens share is adapted."""
RENAMED_KEYS = {
    "out": "output_dir",
    "distil_steps": "distill_steps",
    "selector_rate": "selector_learning_rate",
    "lora_targets": "lora_target_modules",
    "steps": "max_steps",
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "rate": "learning_rate",
    "warmup": "warmup_ratio",
    "cycles": "num_cycles",
    "clip": "max_grad_norm",
    "attn": "attn_implementation",
    "checkpointing": "gradient_checkpointing",
    "log_steps": "logging_steps",
    "workers": "dataloader_num_workers",
}
"""Former keys and their names today. Former keys are read with a warning for one release."""
MAY_CHANGE = (
    "max_steps", "num_train_epochs", "save_steps", "logging_steps", "dataloader_num_workers",
    "per_device_eval_batch_size", "report_to", "run_name", "hub_model_id", "hub_private_repo", *WORK_LIMITS
)  # fmt: skip
"""Keys that may differ when a run resumes."""
_POSITIVE = (
    "max_steps", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
    "save_steps", "logging_steps", "lora_rank", "distill_steps", "selector_learning_rate",
    "max_seconds", "max_tokens", "processes", "eval_steps", "per_device_eval_batch_size", "max_new_tokens",
    "retain_fall_ratio",
)  # fmt: skip
_AT_MOST: dict[str, float] = {
    "max_steps": 10**9, "num_train_epochs": 10**6, "per_device_train_batch_size": 10**5,
    "gradient_accumulation_steps": 10**6, "learning_rate": 1e3, "selector_learning_rate": 1e3, "save_steps": 10**9,
    "logging_steps": 10**9, "lora_rank": 10**5, "lora_alpha": 10**6, "distill_steps": 10**9, "warmup_ratio": 1,
    "num_cycles": 10**6, "weight_decay": 10, "max_grad_norm": 1e9, "dataloader_num_workers": 512, "processes": 10**6,
    "max_seconds": 1e9, "max_tokens": 10**9, "cache_gigabytes": 1e6, "seed": 2**32 - 1, "lora_dropout": 1,
    "eval_steps": 10**9, "per_device_eval_batch_size": 10**5, "max_new_tokens": 10**6, "retain_fall_ratio": 1,
}  # fmt: skip
"""Largest value of every number; the smallest is 0, or just above it for those of `_POSITIVE`. NaN is out of range."""
_PATHS = ("model", "output_dir", "selector", "cache")
"""Keys that may name files in other bytes than UTF-8."""
_TYPES = {"str": "text", "int": "an integer", "float": "a number", "bool": "true or false"}


@dataclass(frozen=True)
class TrainRecipe(CompressionConfig, ReadOptions):
    """Settings of `fine_tune`. Every field is a key of the YAML file; names are Hugging Face's where they exist.

    A fraction or a number of tokens must be given. ``seed`` also draws the sample order and new weights.

    Raises:
        UsageError: a value is out of range, or two values contradict each other.
        BudgetError: the retention ratios are missing, contradictory or out of range.
    """

    model: str
    """``nano``, a checkpoint folder, or a hub id."""
    data: tuple[str, ...]
    """Data files or folders (docs/training-data.md), relative to the working directory."""
    output_dir: str
    """Folder of the run: checkpoints, ``log.jsonl``, TensorBoard files, and at the end ``model``."""
    compressor: str = field(default="omnisift", kw_only=True)
    """The method to train with. ``omnisift``, whatever the default of other commands is: a recipe trains a selector
    unless it says otherwise, and no other method has one."""
    selector: str | None = field(default="distill", kw_only=True)
    """``distill`` trains a selector on the model's attention over the clips of ``data`` first (docs/distill.md); a
    folder loads selector weights; ``new`` starts from random ones; null takes the model's own."""
    distill_steps: int = 200
    """Training steps of that distillation."""
    time_embedding: bool = True
    """Whether a new selector has a time embedding, which the paper's selector does not."""
    train_selector: bool = False
    """Whether the selector also learns from the answers."""
    estimator: str = "reinforce"
    """How the selector's scores get a gradient from the answers (docs/estimators.md); ``straight_through`` is the
    paper's."""
    selector_learning_rate: float | None = None
    """Peak learning rate of the selector; null means ``learning_rate``."""
    loss: str = ANSWERS
    """What is learned, one of `LOSSES`: ``answers``; with ``self_distillation`` the distributions at the answers that
    the model has before training and with all tokens."""
    answers_from: str = DATA
    """``data``, or with ``model`` the greedy answers of the model before training with all tokens to the last question
    of each row (``self_distillation`` only)."""
    max_new_tokens: int = 128
    """Maximum number of tokens of these answers."""
    retain_start: float | None = None
    """Fraction of the tokens kept in the first step, from which it falls linearly to that of the budget."""
    retain_fall_ratio: float = FALL_RATIO
    """Share of the steps in which it falls."""
    language: str = "full"
    """How the language model learns: ``full``, ``lora`` or ``frozen``. Encoders are always frozen."""
    quantization: str | None = None
    """How the frozen weights of the language model are quantised, one of `QUANTIZED_BYTES` (QLoRA); null leaves them as
    they are. Not with ``language: full``."""
    lora_rank: int = 16
    """Rank of the adapters."""
    lora_alpha: int = 32
    """Scale of the adapters; their output is multiplied by ``lora_alpha / lora_rank``."""
    lora_dropout: float = 0.05
    """Dropout before the adapters."""
    lora_target_modules: str = LORA_TARGET_MODULES
    """Regular expression of the modules that get adapters."""
    max_steps: int | None = None
    """Optimizer steps; or give ``num_train_epochs``."""
    num_train_epochs: float | None = None
    """Passes over the data; 1 if neither this nor ``max_steps`` is given."""
    per_device_train_batch_size: int = 1
    """Samples per forward pass of each process."""
    gradient_accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    learning_rate: float = 1e-5
    """Peak learning rate of the language model (AdamW)."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises."""
    num_cycles: float = 0.47
    """Waves of the cosine after the warm-up: 0.5 ends at zero, the paper's 0.47 slightly above."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    device: str = "cpu"
    """``cpu`` or ``cuda``; a distributed launch assigns devices itself."""
    processes: int | None = None
    """Number of processes that must train together; a run with another number stops. null takes the number that the
    launcher states."""
    dtype: str | None = None
    """``float32`` or ``bfloat16``; null means float32 on a CPU and bfloat16 elsewhere. Trained weights and their
    optimizer state are always float32."""
    attn_implementation: str | None = None
    """Attention implementation of Transformers; null means ``sdpa``."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    save_steps: int = 100
    """Steps between checkpoints; two are kept."""
    logging_steps: int = 1
    """Steps between lines of the log."""
    dataloader_num_workers: int = 0
    """Worker processes that read clips ahead."""
    system: str | None = None
    """System turn added to conversations that have none."""
    max_seconds: float | None = None
    """Longer clips are skipped and counted."""
    max_tokens: int | None = None
    """Samples with more tokens, before compression, are skipped and counted."""
    cache: str | None = None
    """Folder for decoded clips; null decodes them every time."""
    cache_gigabytes: float = 20.0
    """Maximum size of that folder."""
    eval_data: tuple[str, ...] | None = None
    """Validation files or folders, in the forms of ``data``; null measures nothing."""
    eval_strategy: str | None = None
    """When to evaluate: ``steps``, ``epoch`` or ``no``; null means ``steps`` with ``eval_data``, and ``no`` without."""
    eval_steps: int | None = None
    """Steps between evaluations; null means ``save_steps``. The last step is always evaluated."""
    per_device_eval_batch_size: int | None = None
    """Samples per forward pass of an evaluation; null means ``per_device_train_batch_size``."""
    load_best_model_at_end: bool = False
    """Whether the trained model is the one with the best ``metric_for_best_model``, and not the last one."""
    metric_for_best_model: str = "loss"
    """``loss``, or ``accuracy``: the share of short answers that the model generates word for word."""
    report_to: tuple[str, ...] | None = None
    """Trackers of the Trainer, such as ``wandb`` or ``mlflow``; null means the run's own log and TensorBoard alone."""
    run_name: str | None = None
    """Name of the run in trackers."""
    hub_model_id: str | None = None
    """Repository on the Hugging Face Hub that the trained selector is uploaded to at the end; null uploads nothing."""
    hub_private_repo: bool = True
    """Whether a repository that is created for it is private."""

    def __post_init__(self) -> None:
        check_choice("language", self.language, LANGUAGES)
        check_choice("dtype", self.dtype or "float32", ("float32", "bfloat16"))
        check_choice("loss", self.loss, LOSSES)
        check_choice("answers_from", self.answers_from, ANSWER_SOURCES)
        if self.answers_from != DATA and self.loss != SELF_DISTILLATION:
            raise UsageError(f"answers_from is {self.answers_from} and loss {self.loss}; set loss: {SELF_DISTILLATION}")
        self._check_evaluation()
        if self.quantization is not None:
            check_choice("quantization", self.quantization, tuple(QUANTIZED_BYTES))
        if self.language == "frozen" and not self.train_selector:
            raise UsageError("nothing to train: language is frozen and train_selector is false; change one of them")
        if self.selector == "new" and not self.train_selector:
            raise UsageError(
                "selector: new is random and train_selector: false keeps it random; use selector: distill, or train it"
            )
        if self.max_steps is not None and self.num_train_epochs is not None:
            raise UsageError("give max_steps or num_train_epochs, not both")
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UsageError(f"{name} must be above 0, got {shown(value)}")
        for name, most in _AT_MOST.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise UsageError(f"{name} must be from 0 to {most:.10g}, got {shown(value)}")
        if not is_pattern(self.lora_target_modules):
            raise UsageError(f"lora_target_modules is no regular expression: {shown(self.lora_target_modules)}")
        make_estimator(self.estimator)
        self.check()
        if self.retain_start is not None:
            check_start(self.retain_start, self.budget)

    def _check_evaluation(self) -> None:
        if self.eval_strategy is not None:
            check_choice("eval_strategy", self.eval_strategy, EVAL_STRATEGIES)
        check_choice("metric_for_best_model", self.metric, METRICS)
        if self.eval_data is None and (self.evaluates != "no" or self.eval_steps is not None):
            given = "eval_strategy" if self.eval_strategy is not None else "eval_steps"
            raise UsageError(f"{given} is given and eval_data is not; name the validation data")
        if self.eval_steps is not None and self.evaluates != "steps":
            raise UsageError(f"eval_steps needs eval_strategy: steps, got {self.evaluates}; leave one of them out")
        if not self.load_best_model_at_end:
            return
        if self.evaluates != "steps":
            raise UsageError("load_best_model_at_end needs eval_data and eval_strategy: steps, at steps that are saved")
        if self.eval_steps not in (None, self.save_steps):
            raise UsageError(
                f"load_best_model_at_end needs a checkpoint of every evaluation: eval_steps is {self.eval_steps} and "
                f"save_steps {self.save_steps}; give them one value"
            )

    @property
    def evaluates(self) -> str:
        """When to evaluate: ``no``, ``steps`` or ``epoch``."""
        return self.eval_strategy or ("no" if self.eval_data is None else "steps")

    @property
    def metric(self) -> str:
        """The metric by which the best checkpoint is chosen, without ``eval_`` in front."""
        return self.metric_for_best_model.removeprefix("eval_")

    @property
    def in_bfloat16(self) -> bool:
        """Whether the model computes in bfloat16."""
        return self.dtype == "bfloat16" or (self.dtype is None and self.device != "cpu")

    def check(self) -> None:
        """Check the fractions and how clips are read; `check_run` checks the selector.

        Raises:
            BudgetError: the retention ratios are missing, contradictory or out of range.
            UsageError: a value is out of range.
        """
        self.budget  # noqa: B018 - raises
        check_named(self.compressor)
        ReadOptions.check(self)

    @property
    def budget(self) -> Budget:
        """What is kept of video and audio tokens; unlike elsewhere there is no default."""
        return Budget(self.retain, self.retain_video, self.retain_audio, self.tokens, self.compress_audio)

    def budget_at(self, progress: float) -> Budget:
        """What is kept after this share of the steps, from 0 to 1."""
        return falling_budget(self.budget, self.retain_start, progress, self.retain_fall_ratio)


def is_pattern(text: str) -> bool:
    """Whether ``text`` is a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError):
        return False
    return True


def load_train_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> TrainRecipe:
    """Read a recipe from a YAML file.

    Former keys (`RENAMED_KEYS`) are accepted with one `FutureWarning` that names the new ones.

    Args:
        path: the YAML file.
        changes: values that replace those of the file, for example from ``--set`` on the command line.

    Returns:
        The checked recipe.

    Raises:
        UsageError: the file is missing or not YAML, a key is unknown, missing or given twice, or a value has another
            type or is out of range.
    """
    check_path_name(str(path), "the recipe")
    if not path.exists():
        raise UsageError(f"no recipe at {path}; give the path of a YAML file, such as recipes/train/nano.yaml")
    values = parse_yaml(read_text(path, "the recipe"), str(path))
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold keys and values, got {type(values).__name__}")
    return recipe_of({**_checked_values(values, str(path)), **_checked_values(changes or {}, "--set")}, str(path))


def recipe_of(values: Mapping[str, Any], source: str) -> TrainRecipe:
    """The recipe with these values; ``source`` names their origin in messages. Raises as `load_train_recipe`."""
    values = _checked_values(values, source)
    missing = [name for name in ("model", "data", "output_dir") if name not in values]
    if missing:
        raise UsageError(f"{source}: {missing[0]!r} is missing; give it a value")
    return TrainRecipe(**values)


def current_values(values: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, str]]:
    """(values under today's keys, former key -> today's key for those that were found).

    Raises `UsageError` where ``source`` gives both.
    """
    former = {name: RENAMED_KEYS[name] for name in values if name in RENAMED_KEYS}
    for old, new in former.items():
        if new in values:
            raise UsageError(f"{source}: give {new} or {old}, not both; {new} is the name, {old} the former one")
    current = {RENAMED_KEYS.get(name, name): value for name, value in values.items()}
    if current.get("selector") == "distil":
        former["selector: distil"] = "selector: distill"
        current["selector"] = "distill"
    estimator = current.get("estimator")
    if isinstance(estimator, str) and estimator in ALIASES:
        current["estimator"] = ALIASES[estimator]
        former[f"estimator: {estimator}"] = f"estimator: {ALIASES[estimator]}"
    return current, former


def _checked_values(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    current, former = current_values(values, source)
    if former:
        pairs = ", ".join(f"{old} is now {new}" for old, new in former.items())
        warnings.warn(f"{source}: {pairs}; the next release reads the new names only", FutureWarning, stacklevel=3)
    kinds = {field.name: str(field.type) for field in fields(TrainRecipe)}
    for name in current:
        if name not in kinds:
            raise UsageError(f"{source}: unknown key {shown(name)}; {_suggestion(str(name), list(kinds))}")
    return {name: _typed(name, kinds[name], value, source) for name, value in current.items()}


def _suggestion(name: str, known: list[str]) -> str:
    match = closest(name, [*known, *RENAMED_KEYS])
    return f"did you mean {RENAMED_KEYS.get(match, match)!r}?" if match else "docs/fine-tuning.md lists all keys"


def _typed(name: str, kind: str, value: Any, source: str) -> Any:
    """``value`` as the field's type ``kind``; raises `UsageError` for another type."""
    if value is None and "None" in kind:
        return None
    if name == "eval_strategy" and value is False:
        return "no"  # which YAML reads as false
    if name == "report_to" and value == "none":
        return None  # as the Trainer writes it
    if kind.startswith("tuple"):
        value = [value] if isinstance(value, str) else value
        if isinstance(value, (list, tuple)) and value and all(is_file_name(part) for part in value):
            return tuple(value)
        parts = "trackers" if name == "report_to" else "paths"
        raise UsageError(f"{source}: {name} must be one or more {parts}, got {shown(value)}")
    expected = kind.split(" |")[0]
    if expected == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise UsageError(f"{source}: {name} must be {_TYPES[expected]}, got {shown(value)}") from None
    is_name = name in _PATHS and is_file_name(value)
    if type(value).__name__ != expected or (expected == "str" and not is_name and not is_text(value)):
        hint = " (YAML reads 1e-5 as text: write 1.0e-5)" if expected == "float" and isinstance(value, str) else ""
        null = " or null" if "None" in kind else ""
        raise UsageError(f"{source}: {name} must be {_TYPES[expected]}{null}, got {shown(value)}{hint}")
    return value
