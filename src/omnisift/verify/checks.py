"""Checks of a model with random weights on one device: masks, logits, kernels, synchronisations, traces after detach.

Two computations of one prompt in bfloat16 differ by rounding, and random weights give no answer to compare. So the
logits of a compressed prompt may differ between two computations by at most `NOISE` times what those of the untouched
model differ between the same two.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from omnisift.budget import Budget, Counts
from omnisift.compressors import COMPRESSORS, make_compressor
from omnisift.compressors.base import Compressor
from omnisift.errors import OmniSiftError
from omnisift.models import adapter_for, attach
from omnisift.models.selector import new_selector
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.verify.hosts import ClipShape, ModelSpec, default_attention
from omnisift.vgas import VGAS

DEFAULT = "omnisift"
"""The method that checks of the hooks attach."""
RETAIN = 0.35
"""The paper's main setting, which all methods reach."""
NOISE = 2.0
"""Allowed ratio of two differences; see the module's docstring."""
NEW_TOKENS = 4
_TEXT = 40
FLOAT32_AGREEMENT, HALF_AGREEMENT = 0.999, 0.9
"""Least share of tokens on which masks of two devices agree, for methods without scores."""
FLOAT32_TIE, HALF_TIE = 1e-5, 2**-6
"""Scores closer than this share of the largest are a tie."""
DOCUMENTED_WAITS = 4
"""Transfers to the CPU per prompt between encoders and language model: mask, positions, decision, scores."""

Call = dict[str, Any]


class Skipped(OmniSiftError):
    """A check that this machine can't run."""


class Failed(OmniSiftError):
    """A check whose rule is broken."""


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


@dataclass(frozen=True)
class Subject:
    """A model under test with a prompt."""

    spec: ModelSpec
    model: Any
    inputs: Call
    selector: VGAS

    @classmethod
    def make(
        cls,
        spec: ModelSpec,
        device: torch.device,
        dtype: torch.dtype,
        *,
        attn_implementation: str = "sdpa",
        shallow: bool = False,
        clip: ClipShape | None = None,
    ) -> Subject:
        """Build a model, a selector and a prompt about a clip, by default the first of the table."""
        model = spec.build(device, dtype, attn_implementation, shallow=shallow)
        inputs = spec.prompt(model.config, clip or spec.clips[0], _TEXT, device, dtype)
        return cls(spec, model, inputs, random_selector(model))

    def compressor(self, name: str, retain: float = RETAIN) -> Compressor:
        """Make a method for this model."""
        return make_compressor(name, Budget(retain), selector=self.selector).eval()

    def stream(self) -> TokenStream:
        """Return what a method sees of the prompt, with all extras that the adapter supplies."""
        recorder = _Recorder(adapter_for(self.model).supplies)
        with torch.inference_mode(), attach(self.model, recorder):
            self.model(**self.inputs, use_cache=False)
        return recorder.streams[0]


class _Recorder(Compressor):
    """Keep the stream of a prompt."""

    name: ClassVar[str] = "recorder"

    def __init__(self, needs: frozenset[str]) -> None:
        super().__init__(1.0)
        self.needs = needs
        self.streams: list[TokenStream] = []

    def forward(self, stream: TokenStream) -> Selection:
        self.streams.append(replace(stream, embeds=stream.embeds.clone()))
        return Selection(torch.ones(len(stream), dtype=torch.bool, device=stream.embeds.device))

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Keep everything."""
        return self.forward(stream)


def random_selector(model: Any) -> VGAS:
    """Return a selector with random weights for a model, on its device and in its dtype."""
    language_model: Any = adapter_for(model).parts.language_model
    weight: Tensor = language_model.get_input_embeddings().weight
    selector: Any = new_selector(weight.shape[1], time_embedding=False, seed=0)
    moved: VGAS = selector.to(device=weight.device, dtype=weight.dtype).eval()
    return moved


def run_checks(
    spec: ModelSpec, device: torch.device, *, on_check: Callable[[Check], None] | None = None
) -> list[Check]:
    """Run all checks of one model.

    Masks, decoding and kernels are checked with two layers in float32 and in bfloat16, everything else with all layers
    in bfloat16 (float32 on a CPU).

    Args:
        spec: the model.
        device: where it runs.
        on_check: called after each check.
    """
    checks: list[Check] = []

    def run(name: str, rule: Callable[[Subject], str], subject: Subject) -> None:
        begin = time.perf_counter()
        try:
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


def release(device: torch.device) -> None:
    """Return memory of deleted models to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


# --- masks -----------------------------------------------------------------------------------------------------------


def masks_equal_cpu(subject: Subject) -> str:
    """Compare the decision of every method on the device with its decision on a CPU, on the same embeddings."""
    stream = subject.stream()
    host = replace(
        stream, embeds=stream.embeds.cpu(), extras={name: value.cpu() for name, value in stream.extras.items()}
    )
    exact = replace(host, embeds=host.embeds.float())
    is_half = stream.embeds.dtype != torch.float32
    swapped: dict[str, int] = {}
    for name in COMPRESSORS:
        compressor = subject.compressor(name)
        with torch.inference_mode():
            there = compressor(stream)
            compressor.cpu()
            here = compressor(host)
            scores = compressor.float()(exact).scores
        nn.Module.to(subject.selector, stream.embeds.device, stream.embeds.dtype)  # the methods share it
        swapped[name] = compare_masks(name, there.keep.cpu(), here.keep, scores, stream, is_half=is_half)
    total = sum(swapped.values())
    where = ", ".join(f"{name} {count}" for name, count in swapped.items() if count)
    return f"{len(swapped)} methods, {len(stream):,} tokens, {total} swapped between ties" + (where and f" ({where})")


def compare_masks(
    name: str, there: Tensor, here: Tensor, scores: Tensor | None, stream: TokenStream, *, is_half: bool
) -> int:
    """Check two decisions of one method by the rule of `masks_equal_cpu`.

    Both keep the same number of tokens. A token that only one of them keeps must tie with a token of its modality that
    only the other keeps, by the scores in float32; a method without scores must agree on `FLOAT32_AGREEMENT` of the
    tokens, in half precision on `HALF_AGREEMENT`.

    Args:
        name: of the method, for the message.
        there: [L] bool: the decision of the device.
        here: [L] bool: the decision of the CPU.
        scores: [L] float: those of the CPU in float32; None if the method has none.
        stream: the tokens.
        is_half: whether the embeddings are in half precision.

    Returns:
        Number of tokens that only one of them keeps.

    Raises:
        Failed: the rule is broken.
    """
    count, expected = int(there.sum()), int(here.sum())
    if count != expected:
        raise Failed(f"{name} keeps {count} tokens here and {expected} on a CPU")
    differ = there != here
    swapped = int(differ.sum())
    if not swapped:
        return 0
    if scores is None:
        agreement = 1 - swapped / int((stream.chunk >= 0).sum())
        if agreement < (HALF_AGREEMENT if is_half else FLOAT32_AGREEMENT):
            raise Failed(f"{name} agrees with a CPU on {agreement:.2%} of the tokens only")
        return swapped
    tie = (HALF_TIE if is_half else FLOAT32_TIE) * float(scores[scores.isfinite()].abs().max())
    for modality in (Modality.VIDEO, Modality.AUDIO):
        of_kind = differ & (stream.modality == int(modality)) & ~scores.isnan()
        only_there, only_here = scores[of_kind & there], scores[of_kind & here]
        gap = _largest_gap(only_there, only_here)
        if gap > tie:
            raise Failed(
                f"{name} swaps {modality.name.lower()} tokens whose scores differ by {gap:.3g} (tie: {tie:.3g})"
            )
    return swapped


def _largest_gap(left: Tensor, right: Tensor) -> float:
    """Largest distance between two sets of equal size, paired in order."""
    if not len(left) or len(left) != len(right):
        return 0.0 if len(left) == len(right) else float("inf")
    return float((left.sort().values - right.sort().values).abs().max())


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
    return _within_noise("cached and uncached logits", compressed, untouched)


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
    device, dtype = subject.inputs["input_ids"].device, subject.inputs["pixel_values_videos"].dtype
    clip = spec.clips[0]
    short = spec.prompt(model.config, clip, _TEXT, device, dtype)
    batch = join_prompts(spec.prompt(model.config, clip, _TEXT + 16, device, dtype), short)

    def distance() -> float:
        return _distance(_logits(model, batch)[-1:, -1:], _logits(model, short)[:, -1:])

    with attach(model, subject.compressor(DEFAULT)):
        compressed = distance()
    return _within_noise("logits in a batch and alone", compressed, distance())


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


@contextmanager
def recorded_calls(module: nn.Module) -> Iterator[list[Call]]:
    """Record the named arguments of each call of a language model, without its cache."""
    calls: list[Call] = []
    left_out = {"past_key_values", "cache", "use_cache"}

    def record(_module: nn.Module, _args: tuple[Any, ...], kwargs: Call) -> None:
        calls.append({name: value for name, value in kwargs.items() if name not in left_out})

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def flash_attention_2(subject: Subject) -> str:
    """Logits of FlashAttention equal those of sdpa, as they do for the untouched model."""
    return _other_kernel(subject, "flash_attention_2")


def eager_attention(subject: Subject) -> str:
    """Logits of eager attention equal those of sdpa, as they do for the untouched model."""
    return _other_kernel(subject, "eager")


def _other_kernel(subject: Subject, name: str) -> str:
    device, dtype = subject.inputs["input_ids"].device, subject.inputs["pixel_values_videos"].dtype
    if name == "flash_attention_2" and default_attention(device) != name:
        raise Skipped("flash-attn is not installed" if device.type == "cuda" else "FlashAttention needs a GPU")
    other = Subject.make(subject.spec, device, dtype, attn_implementation=name, shallow=True)

    def distance() -> float:
        return _distance(*(_logits(each.model, each.inputs)[:, -1] for each in (subject, other)))

    untouched = distance()
    # Both attachments decide on the same embeddings only if the encoders agree to the bit, so the mask is fixed.
    with recorded_selection(subject) as selection:
        _logits(subject.model, subject.inputs)
    fixed = _Fixed(selection[0])
    with attach(subject.model, fixed), attach(other.model, fixed):
        compressed = distance()
    return _within_noise(f"logits of {name} and sdpa", compressed, untouched)


class _Fixed(Compressor):
    """A decision made before."""

    name: ClassVar[str] = "fixed"

    def __init__(self, keep: Tensor) -> None:
        super().__init__(1.0)
        self._keep = keep

    def forward(self, stream: TokenStream) -> Selection:  # noqa: ARG002
        return Selection(self._keep)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002
        """Return the decision."""
        return Selection(self._keep)


@contextmanager
def recorded_selection(subject: Subject) -> Iterator[list[Tensor]]:
    """Attach the default method and record which tokens it keeps."""
    masks: list[Tensor] = []
    compressor = subject.compressor(DEFAULT)
    handle = compressor.register_forward_hook(lambda _module, _args, selection: masks.append(selection.keep))
    try:
        with attach(subject.model, compressor):
            yield masks
    finally:
        handle.remove()


# --- synchronisations ------------------------------------------------------------------------------------------------


def waits_are_documented(subject: Subject) -> str:
    """Between the encoders and the language model the CPU waits for the device only where the documentation says."""
    if subject.inputs["input_ids"].device.type != "cuda":
        raise Skipped("only a GPU computes while the CPU goes on")
    places = waits_of(subject, DEFAULT)
    count, words = sum(places.values()), ", ".join(f"{place} x{n}" for place, n in places.items())
    if count > DOCUMENTED_WAITS:
        raise Failed(f"{DEFAULT} waits {count} times, documented are {DOCUMENTED_WAITS}: {words}")
    others = {name: sum(waits_of(subject, name).values()) for name in COMPRESSORS if name != DEFAULT}
    return f"{DEFAULT} {count}; " + ", ".join(f"{name} {n}" for name, n in others.items())


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


@contextmanager
def compression_region(
    model: Any, compressor: Compressor | None, begin: Callable[[], object], end: Callable[[], object]
) -> Iterator[None]:
    """Attach a method, and call ``begin`` and ``end`` around all that it does between encoders and language model.

    Args:
        model: the host.
        compressor: the method; None attaches nothing.
        begin: called before the hooks of the attachment; also in each decoding step.
        end: called after them.
    """
    module = adapter_for(model).parts.language_model
    first = module.register_forward_pre_hook(lambda *_: begin() and None)
    attachment = None if compressor is None else attach(model, compressor)
    last = module.register_forward_pre_hook(lambda *_: end() and None)
    try:
        yield
    finally:
        last.remove()
        if attachment is not None:
            attachment.detach()
        first.remove()


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
    return float((left.float() - right.float()).abs().max())


def _within_noise(words: str, compressed: float, untouched: float) -> str:
    detail = f"{words} differ by {compressed:.3g}; untouched model: {untouched:.3g}"
    if not compressed <= NOISE * max(untouched, 1e-5):
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
