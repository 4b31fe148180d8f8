"""Checks of a model with random weights on one device: masks, logits, kernels, synchronisations, traces after detach.

Two computations of one prompt in bfloat16 differ by rounding, and random weights give no answer to compare. So the
logits of a compressed prompt may differ between two computations by at most `NOISE` times what those of the untouched
model differ between the same two, or four units in the last place of 1 where these agree by chance.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnisift.compressors import COMPRESSORS
from omnisift.models import adapter_for, attach
from omnisift.verify.hosts import ModelSpec, default_attention
from omnisift.verify.masks import masks_equal_cpu
from omnisift.verify.subject import (
    DEFAULT,
    NO_TIME,
    TEXT,
    Call,
    Failed,
    FixedDecision,
    Skipped,
    Subject,
    compression_region,
    recorded_calls,
    recorded_selection,
    release,
)

NOISE = 2.0
"""Allowed ratio of two differences; see the module's docstring."""
NEW_TOKENS = 4
DOCUMENTED_WAITS = 3
"""Transfers to the CPU per prompt between encoders and language model: positions, decision, scores."""


@dataclass(frozen=True)
class Check:
    """Result of one check."""

    model: str
    name: str
    status: str
    """``passed``, ``failed`` or ``skipped``."""
    detail: str
    """What was compared, with numbers, or why it was skipped."""
    seconds: float


def run_checks(
    spec: ModelSpec,
    device: torch.device,
    *,
    is_over: Callable[[], bool] = lambda: False,
    on_check: Callable[[Check], None] | None = None,
) -> list[Check]:
    """Run all checks of one model.

    Masks, decoding and kernels are checked with two layers in float32 and in bfloat16, everything else with all layers
    in bfloat16 (float32 on a CPU).

    Args:
        spec: the model.
        device: where it runs.
        is_over: whether the time is over, asked before each check; later ones are skipped.
        on_check: called after each check.
    """
    checks: list[Check] = []

    def run(name: str, rule: Callable[[Subject], str], subject: Subject) -> None:
        begin = time.perf_counter()
        try:
            if is_over():
                raise Skipped(NO_TIME)
            status, detail = "passed", rule(subject)
        except Skipped as error:
            status, detail = "skipped", str(error)
        except torch.OutOfMemoryError:
            status, detail = "skipped", "out of memory"
        except Exception as error:  # any error of a kernel or a library is the result of the check
            words = str(error).strip().splitlines() or [""]
            status, detail = "failed", words[0] if isinstance(error, Failed) else f"{type(error).__name__}: {words[0]}"
        checks.append(Check(spec.name, name, status, detail, time.perf_counter() - begin))
        if on_check is not None:
            on_check(checks[-1])

    for dtype, words in ((torch.float32, "float32"), (torch.bfloat16, "bfloat16")):
        subject = Subject.make(spec, device, dtype, shallow=True)
        run(f"masks equal a CPU's, {words}", masks_equal_cpu, subject)
        run(f"cached decoding equals uncached, {words}", decoding_equals_uncached, subject)
        if dtype == torch.bfloat16:
            run("FlashAttention 2 equals sdpa", flash_attention_2, subject)
            run("eager attention equals sdpa", eager_attention, subject)
        del subject
        release(device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    subject = Subject.make(spec, device, dtype)
    for name, rule in FULL_CHECKS.items():
        run(name, rule, subject)
    return checks


# --- logits ----------------------------------------------------------------------------------------------------------


def retain_one_changes_nothing(subject: Subject) -> str:
    """Logits with a method that keeps everything equal those of the untouched model bit for bit."""
    expected = _logits(subject.model, subject.inputs)
    names = [name for name in COMPRESSORS if not COMPRESSORS[name].needs]
    for name in names:
        with attach(subject.model, subject.compressor(name, 1.0)):
            logits = _logits(subject.model, subject.inputs)
        if not torch.equal(logits, expected):
            raise Failed(f"{name} at 1.0 changes logits by up to {_distance(logits, expected):.3g}")
    return f"{len(names)} methods, {expected.shape[1]:,} tokens, all bits equal"


def decoding_equals_uncached(subject: Subject) -> str:
    """Greedy decoding with a cache gives the logits of one pass over prompt and answer."""
    with attach(subject.model, subject.compressor(DEFAULT)):
        compressed = _cached_against_uncached(subject.model, subject.inputs)
    untouched = _cached_against_uncached(subject.model, subject.inputs)
    return _within_noise("cached and uncached logits", compressed, untouched, subject.dtype)


def _cached_against_uncached(model: Any, inputs: Call) -> float:
    with torch.inference_mode():
        output = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
        cached = torch.stack(output.logits, dim=1)
        ids = output.sequences[:, :-1]
        mask = torch.ones_like(ids)
        full = model(**{**inputs, "input_ids": ids, "attention_mask": mask}, use_cache=False).logits
    return _distance(full[:, -NEW_TOKENS:], cached)


def batch_equals_single(subject: Subject) -> str:
    """The shorter of two prompts has the same last logits alone and in a batch, where it is padded."""
    spec, model = subject.spec, subject.model
    device, dtype = subject.inputs["input_ids"].device, subject.dtype
    clip = spec.clips[0]
    short = spec.prompt(model.config, clip, TEXT, device, dtype)
    batch = join_prompts(spec.prompt(model.config, clip, TEXT + 16, device, dtype), short)

    def distance() -> float:
        return _distance(_logits(model, batch)[-1:, -1:], _logits(model, short)[:, -1:])

    with attach(model, subject.compressor(DEFAULT)):
        compressed = distance()
    return _within_noise("logits in a batch and alone", compressed, distance(), dtype)


def join_prompts(*prompts: Call) -> Call:
    """Join prompts about clips of one size into a batch, padded on the left."""
    length = max(prompt["input_ids"].shape[1] for prompt in prompts)

    def pad(name: str) -> Tensor:
        rows = [prompt[name] for prompt in prompts]
        return torch.cat([nn.functional.pad(row, (length - row.shape[1], 0)) for row in rows])

    joined = {
        name: torch.cat([prompt[name] for prompt in prompts])
        for name, value in prompts[0].items()
        if isinstance(value, Tensor) and name not in ("input_ids", "attention_mask")
    }
    return {**prompts[0], **joined, "input_ids": pad("input_ids"), "attention_mask": pad("attention_mask")}


# --- kernels ---------------------------------------------------------------------------------------------------------


def flash_kernel_of_sdpa(subject: Subject) -> str:
    """The language model reads a cut prompt with torch's flash kernel, which takes no mask, as it does an uncut one."""
    model, module = subject.model, adapter_for(subject.model).parts.language_model
    with recorded_calls(module) as calls:
        _logits(model, subject.inputs)
    # Registered after the hooks of the attachment, the recorder sees the cut prompt.
    with attach(model, subject.compressor(DEFAULT)), recorded_calls(module) as cut_calls:
        _logits(model, subject.inputs)
    try:
        _read_by_flash(module, calls[0])
    except RuntimeError as error:
        raise Skipped(f"torch has no flash kernel for this model here ({_first_line(error)})") from error
    try:
        length = _read_by_flash(module, cut_calls[0])
    except RuntimeError as error:
        raise Failed(f"a cut prompt needs another kernel ({_first_line(error)})") from error
    return f"prompt of {length:,} tokens"


def _read_by_flash(module: nn.Module, call: Call) -> int:
    with torch.inference_mode(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return int(module(**call, use_cache=False).last_hidden_state.shape[1])


def flash_attention_2(subject: Subject) -> str:
    """Logits of FlashAttention equal those of sdpa, as they do for the untouched model."""
    return _other_kernel(subject, "flash_attention_2")


def eager_attention(subject: Subject) -> str:
    """Logits of eager attention equal those of sdpa, as they do for the untouched model."""
    return _other_kernel(subject, "eager")


def _other_kernel(subject: Subject, name: str) -> str:
    device, dtype = subject.inputs["input_ids"].device, subject.dtype
    if name == "flash_attention_2" and default_attention(device) != name:
        raise Skipped("flash-attn is not installed" if device.type == "cuda" else "FlashAttention needs a GPU")
    other = Subject.make(subject.spec, device, dtype, attn_implementation=name, shallow=True)

    def distance() -> float:
        return _distance(*(_logits(each.model, each.inputs)[:, -1] for each in (subject, other)))

    untouched = distance()
    # Both attachments decide on the same embeddings only if the encoders agree to the bit, so the mask is fixed.
    with recorded_selection(subject) as selection:
        _logits(subject.model, subject.inputs)
    fixed = FixedDecision(selection[0])
    with attach(subject.model, fixed), attach(other.model, fixed):
        compressed = distance()
    return _within_noise(f"logits of {name} and sdpa", compressed, untouched, dtype)


# --- synchronisations ------------------------------------------------------------------------------------------------


def waits_are_documented(subject: Subject) -> str:
    """Between the encoders and the language model the CPU waits for the device only where the documentation says."""
    if subject.inputs["input_ids"].device.type != "cuda":
        raise Skipped("only a GPU computes while the CPU continues")
    words = check_waits(waits_of(subject, DEFAULT))
    others = {name: sum(waits_of(subject, name).values()) for name in subject.methods if name != DEFAULT}
    return f"{words}; " + ", ".join(f"{name} {count}" for name, count in others.items())


def check_waits(places: Counter[str]) -> str:
    """Compare the waits of the default method with `DOCUMENTED_WAITS`."""
    count = sum(places.values())
    if count > DOCUMENTED_WAITS:
        words = ", ".join(f"{place} x{times}" for place, times in places.items())
        raise Failed(f"{DEFAULT} waits {count} times, documented are {DOCUMENTED_WAITS}: {words}")
    return f"{DEFAULT} {count}"


def waits_of(subject: Subject, name: str) -> Counter[str]:
    """Return where the CPU waits during compression, by torch's sync debug mode: file and line -> times."""
    compressor = subject.compressor(name)
    waits: Counter[str] = Counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with compression_region(
            subject.model,
            compressor,
            begin=lambda: torch.cuda.set_sync_debug_mode("warn"),
            end=lambda: torch.cuda.set_sync_debug_mode("default"),
        ):
            _logits(subject.model, subject.inputs)
    for warning in caught:
        if "synchroniz" in str(warning.message):
            waits[f"{warning.filename.rsplit('/', 1)[-1]}:{warning.lineno}"] += 1
    return waits


# --- after detach ----------------------------------------------------------------------------------------------------


def nothing_is_left(subject: Subject) -> str:
    """After detach the model has its own hooks, attributes, weights and logits, and no memory is held."""
    model, device = subject.model, subject.inputs["input_ids"].device
    with torch.inference_mode():
        model.generate(**subject.inputs, max_new_tokens=2, do_sample=False)  # Transformers' own traces
    before, expected = _state(model), _logits(model, subject.inputs)
    held = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with attach(model, subject.compressor(DEFAULT)), torch.inference_mode():
        model.generate(**subject.inputs, max_new_tokens=2, do_sample=False)
    after, logits = _state(model), _logits(model, subject.inputs)
    if after != before:
        changed = [name for name in before if after.get(name) != before[name]]
        raise Failed(f"{len(changed)} modules changed, such as {changed[0] or 'the model itself'}")
    if not torch.equal(logits, expected):
        raise Failed(f"logits changed by up to {_distance(logits, expected):.3g}")
    del logits
    left = (torch.cuda.memory_allocated(device) if device.type == "cuda" else 0) - held
    if left > 0:
        raise Failed(f"{left:,} bytes are still allocated")
    return f"{len(before):,} modules and all logits as before"


def _state(model: nn.Module) -> Mapping[str, tuple[Any, ...]]:
    """Hooks and attributes of each module, and identity and version of its parameters."""

    def trace(value: Any) -> Any:
        if isinstance(value, dict):  # hooks, parameters, children
            return list(value)
        return tuple(value.shape) if isinstance(value, Tensor) else id(value)  # each call stores a new rope_deltas

    return {
        name: (
            {key: trace(value) for key, value in vars(module).items()},
            [(id(parameter), parameter._version) for parameter in module.parameters(recurse=False)],
        )
        for name, module in model.named_modules()
    }


# --- shared ----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _logits(model: Any, inputs: Call) -> Tensor:
    logits: Tensor = model(**inputs, use_cache=False).logits
    return logits


def _distance(left: Tensor, right: Tensor) -> float:
    if left.shape != right.shape:
        return float("inf")
    return float((left.float() - right.float()).abs().max())


def _within_noise(words: str, compressed: float, untouched: float, dtype: torch.dtype) -> str:
    detail = f"{words} differ by {compressed:.3g}; untouched model: {untouched:.3g}"
    if not compressed <= NOISE * max(untouched, 2 * torch.finfo(dtype).eps, 1e-5):
        raise Failed(detail)
    return detail


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


FULL_CHECKS: dict[str, Callable[[Subject], str]] = {
    "retain 1.0 equals the untouched model": retain_one_changes_nothing,
    "a batch equals its prompts": batch_equals_single,
    "flash kernel of sdpa": flash_kernel_of_sdpa,
    "waits for the device": waits_are_documented,
    "nothing is left after detach": nothing_is_left,
}
"""Checks of the model with all its layers."""
