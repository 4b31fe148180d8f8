"""Time, memory, kernels and energy of one question with random weights, by stage, method and budget."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from omnisift.budget import Budget
from omnisift.compressors import COMPRESSORS, make_compressor
from omnisift.compressors.base import Compressor
from omnisift.errors import BudgetError, CompressorError
from omnisift.models import adapter_for
from omnisift.profiling.gauges import EnergyMeter, energy_meter
from omnisift.verify.hosts import ModelSpec
from omnisift.verify.prompts import ClipShape
from omnisift.verify.subject import NO_TIME, Call, compression_region, random_selector, release
from omnisift.vgas import VGAS

FULL = "full"
METHOD = "omnisift"
RIVALS = ("omnizip", "v_cast", "divprune")
"""OmniZip is in the paper's Table 3, V-CAST needs no weights, DivPrune is the most expensive to compute."""
RETAINS = (0.35, 0.25, 0.1)
_TEXT = 128
_MARK = "omnisift compression"


@dataclass(frozen=True)
class Plan:
    """What to measure of one model."""

    clips: tuple[ClipShape, ...]
    rivals_at: float
    """Length of the clip on which the rivals are measured as well, in seconds."""
    repeats: int = 3
    """Measured questions per setting, after one that warms up."""
    new_tokens: int = 9
    """Generated tokens per question."""

    def settings(self, clip: ClipShape) -> list[tuple[str, float]]:
        """Return method and budget of each row, all tokens first."""
        methods = (METHOD, *(RIVALS if clip.seconds == self.rivals_at else ()))
        return [(FULL, 1.0), *((name, retain) for name in methods for retain in RETAINS)]


@dataclass
class Row:
    """One setting on one clip. Times are medians in milliseconds, memory is the peak in bytes with the weights."""

    model: str
    seconds: float
    """Length of the clip."""
    method: str
    retain: float
    attn_implementation: str
    repeats: int
    prompt_tokens: int | None = None
    kept_tokens: int | None = None
    """Tokens that the language model reads."""
    encode_video_ms: float | None = None
    encode_audio_ms: float | None = None
    compress_ms: float | None = None
    """Between encoders and language model: the method and the attachment's own work."""
    compress_kernels: int | None = None
    """Kernels that it launches; operators on a CPU."""
    language_model_ms: float | None = None
    """First pass of the language model and its head."""
    prefill_ms: float | None = None
    """Encoders, compression and language model: the paper's prefill."""
    compress_share: float | None = None
    """``compress_ms`` / ``prefill_ms``."""
    decode_ms: float | None = None
    """One generated token after the first."""
    end_to_end_ms: float | None = None
    """Prefill and ``new_tokens`` - 1 decoded tokens."""
    new_tokens: int | None = None
    peak_bytes: int | None = None
    joules: float | None = None
    """Of a whole question, where the machine has a counter."""
    error: str | None = None
    """Why the row is empty."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class Clock:
    """Times of marks, by CUDA events or by the CPU's clock; setting a mark never waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.marks: dict[str, Any] = {}

    def mark(self, name: str) -> None:
        """Record the time of ``name``; a second mark of a name replaces the first."""
        if self._device.type == "cuda":
            event: Any = torch.cuda.Event
            self.marks[name] = event(enable_timing=True)
            self.marks[name].record()
        else:
            self.marks[name] = time.perf_counter()

    def between(self, begin: str, end: str) -> float | None:
        """Milliseconds between two marks; None if one was not set. On a GPU it waits for the second."""
        if begin not in self.marks or end not in self.marks:
            return None
        first, last = self.marks[begin], self.marks[end]
        if self._device.type != "cuda":
            return float(last - first) * 1e3
        last.synchronize()
        return float(first.elapsed_time(last))


@dataclass
class _Runs:
    """What the repeated questions of one row measured."""

    times: dict[str, list[float]] = field(default_factory=dict)
    joules: float | None = None
    kept: int = 0

    def median(self, stage: str) -> float | None:
        values = self.times.get(stage)
        return statistics.median(values) if values else None


def measure(
    spec: ModelSpec,
    device: torch.device,
    plan: Plan,
    *,
    attn_implementation: str,
    is_over: Callable[[], bool] = lambda: False,
    on_row: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Measure one model with all its layers, in bfloat16 (float32 on a CPU).

    Args:
        spec: the model.
        device: where it runs.
        plan: what to measure.
        attn_implementation: as in Transformers.
        is_over: whether the time is over, asked before each row; later rows say so and have no numbers.
        on_row: called after each row.
    """
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = spec.build(device, dtype, attn_implementation)
    supplies = adapter_for(model).supplies
    selector, energy = random_selector(model), energy_meter(device)
    rows: list[Row] = []
    for clip in plan.clips:
        bench = _Bench(model, selector, energy, plan, device, clip)
        inputs, encoding = None, None
        for method, retain in plan.settings(clip):
            if method != FULL and not COMPRESSORS[method].needs <= supplies:
                continue  # a rival that this family can't run
            row = Row(spec.name, clip.seconds, method, retain, attn_implementation, plan.repeats)
            try:
                if is_over():
                    row.error = NO_TIME
                else:
                    inputs = inputs or spec.prompt(model.config, clip, _TEXT, device, dtype)
                    encoding = encoding or bench.encoding(inputs)
                    bench.fill(row, inputs, encoding)
            except torch.OutOfMemoryError:
                row.error = "out of memory"
            except (BudgetError, CompressorError) as error:
                row.error = str(error)
            release(device)
            rows.append(row)
            if on_row is not None:
                on_row(row)
    return rows


@dataclass(frozen=True)
class _Encoding:
    """The encoders' part of a question about one clip, the same for all methods that don't read their attention."""

    embeds: Tensor
    """[1, S, D]: the prompt's embeddings."""
    video_ms: float | None
    audio_ms: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class _Bench:
    """A model and a clip to measure."""

    model: Any
    selector: VGAS
    energy: EnergyMeter
    plan: Plan
    device: torch.device
    clip: ClipShape

    def encoding(self, inputs: Call) -> _Encoding:
        """Run the encoders, and keep the prompt's embeddings."""
        embeds: list[Tensor] = []
        module = adapter_for(self.model).parts.language_model

        class _Stop(Exception):
            pass

        def store(_module: Any, _args: Any, kwargs: Call) -> None:
            embeds.append(kwargs["inputs_embeds"])
            raise _Stop

        self._reset_peak()
        runs = _Runs()
        handle = module.register_forward_pre_hook(store, with_kwargs=True)
        try:
            for index in range(self.plan.repeats + 1):
                embeds.clear()
                clock = Clock(self.device)
                try:
                    with torch.inference_mode(), _marked_encoders(self.model, clock):
                        self.model(**inputs, use_cache=False)
                except _Stop:
                    pass
                if index:  # the first warms up
                    _add_times(runs, clock)
        finally:
            handle.remove()
        return _Encoding(embeds[0], runs.median("encode_video"), runs.median("encode_audio"), self._peak())

    def fill(self, row: Row, inputs: Call, encoding: _Encoding) -> None:
        """Ask and write the numbers into ``row``."""
        compressor = None
        if row.method != FULL:
            compressor = make_compressor(row.method, Budget(row.retain), selector=self.selector).eval()
        # A method that reads the encoders' attention changes their work, so it runs them in each question. So does a
        # family that takes more of its encoders than embeddings.
        reads_encoders = compressor is not None and bool(compressor.needs)
        is_encoding = reads_encoders or bool(adapter_for(self.model).side_inputs)
        stored = None if is_encoding else encoding
        self._reset_peak()
        runs = self._ask_repeatedly(inputs, compressor, stored)
        row.prompt_tokens, row.kept_tokens, row.new_tokens = encoding.embeds.shape[1], runs.kept, self.plan.new_tokens
        row.encode_video_ms = runs.median("encode_video") if is_encoding else encoding.video_ms
        row.encode_audio_ms = runs.median("encode_audio") if is_encoding else encoding.audio_ms
        row.compress_ms = runs.median("compress") if compressor is not None else 0.0
        row.language_model_ms = runs.median("language_model")
        row.decode_ms, row.joules = runs.median("decode"), runs.joules
        stages = (row.encode_video_ms, row.encode_audio_ms, row.compress_ms, row.language_model_ms)
        row.prefill_ms = sum(stage or 0.0 for stage in stages)
        row.compress_share = (row.compress_ms or 0.0) / row.prefill_ms
        row.end_to_end_ms = row.prefill_ms + (row.decode_ms or 0.0) * (self.plan.new_tokens - 1)
        peaks = [peak for peak in (self._peak(), encoding.peak_bytes) if peak is not None]
        row.peak_bytes = max(peaks) if peaks else None
        if compressor is not None:
            row.compress_kernels = self._count_kernels(inputs, compressor, stored)

    def _ask_repeatedly(self, inputs: Call, compressor: Compressor | None, stored: _Encoding | None) -> _Runs:
        runs = _Runs()
        self._ask(inputs, compressor, stored)
        before = self.energy.read()
        for _ in range(self.plan.repeats):
            clock, runs.kept = self._ask(inputs, compressor, stored)
            _add_times(runs, clock)
            decoding = clock.between("language_model end", "end") or 0.0
            runs.times.setdefault("decode", []).append(decoding / (self.plan.new_tokens - 1))
        joules = self.energy.joules(before)
        runs.joules = None if joules is None else joules / self.plan.repeats
        return runs

    def _ask(self, inputs: Call, compressor: Compressor | None, stored: _Encoding | None) -> tuple[Clock, int]:
        """Generate once. Returns the marks, and how many prompt tokens the language model read."""
        clock, model = Clock(self.device), self.model
        lengths: list[int] = []

        def begin() -> None:
            if not lengths:
                clock.mark("compress")

        def end(_module: Any, _args: Any, kwargs: Call) -> None:
            if not lengths:
                clock.mark("compress end")
                clock.mark("language_model")
            lengths.append(int(kwargs["inputs_embeds"].shape[1]))

        def leave(*_: Any) -> None:
            if len(lengths) == 1:
                clock.mark("language_model end")

        options = {"max_new_tokens": self.plan.new_tokens, "min_new_tokens": self.plan.new_tokens, "do_sample": False}
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            inputs = stack.enter_context(_reused(model, inputs, stored))
            stack.enter_context(_marked_encoders(model, clock))
            stack.enter_context(compression_region(model, compressor, begin, lambda: None))
            module = adapter_for(model).parts.language_model
            stack.callback(module.register_forward_pre_hook(end, with_kwargs=True).remove)
            stack.callback(model.register_forward_hook(leave).remove)
            model.generate(**inputs, **options)
            clock.mark("end")
        return clock, lengths[0]

    def _count_kernels(self, inputs: Call, compressor: Compressor, stored: _Encoding | None) -> int:
        """Number of kernels launched between encoders and language model (operators on a CPU)."""
        regions: list[Any] = []

        def begin() -> None:
            regions.append(record_function(_MARK))
            regions[-1].__enter__()

        def end() -> None:
            regions.pop().__exit__(None, None, None)

        on_gpu = self.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        with (
            torch.inference_mode(),
            _reused(self.model, inputs, stored) as rest,
            profile(activities=activities) as trace,
            compression_region(self.model, compressor, begin, end),
        ):
            self.model(**rest, use_cache=False)
        return _count_launches(list(trace.events()), on_gpu=on_gpu)

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> int | None:
        return int(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else None


def _count_launches(events: list[Any], *, on_gpu: bool) -> int:
    marks = [event for event in events if event.name == _MARK and event.device_type.name == "CPU"]
    region = marks[0].time_range
    inside = [event for event in events if region.start <= event.time_range.start <= region.end]
    if on_gpu:
        return sum("LaunchKernel" in event.name for event in inside)
    return sum(event.name.startswith("aten::") for event in inside)


def _add_times(runs: _Runs, clock: Clock) -> None:
    for stage in ("encode_video", "encode_audio", "compress", "language_model"):
        spent = clock.between(stage, f"{stage} end")
        if spent is not None:
            runs.times.setdefault(stage, []).append(spent)


@contextmanager
def _marked_encoders(model: Any, clock: Clock) -> Iterator[None]:
    """Mark begin and end of each encoder."""
    parts = adapter_for(model).parts
    with ExitStack() as stack:
        for stage, encoder in (("encode_video", parts.vision_encoder), ("encode_audio", parts.audio_encoder)):
            if encoder is not None:
                begin, end = _markers(clock, stage)
                stack.callback(encoder.register_forward_pre_hook(begin).remove)
                stack.callback(encoder.register_forward_hook(end).remove)
        yield


def _markers(clock: Clock, stage: str) -> tuple[Callable[..., None], Callable[..., None]]:
    def begin(*_: Any) -> None:
        clock.mark(stage)

    def end(*_: Any) -> None:
        clock.mark(f"{stage} end")

    return begin, end


@contextmanager
def _reused(model: Any, inputs: Call, stored: _Encoding | None) -> Iterator[Call]:
    """Yield the inputs of a question that reuses the embeddings of an encoded clip, as `Pipeline.encode` does."""
    if stored is None:
        yield inputs
        return
    is_done = False

    def insert(_module: Any, args: tuple[Any, ...], kwargs: Call) -> Any:
        nonlocal is_done
        if is_done:  # a decoding step
            return None
        is_done = True
        return args, {**kwargs, "inputs_embeds": stored.embeds}

    handle = model.register_forward_pre_hook(insert, with_kwargs=True)
    try:
        yield {name: value for name, value in inputs.items() if name not in ("pixel_values_videos", "input_features")}
    finally:
        handle.remove()
