"""Time the stages of one ``generate`` call with forward hooks that are removed afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from omnisift.models import adapter_for

P = ParamSpec("P")
R = TypeVar("R")

_MEDIA_STAGES = ("encode_video", "encode_audio", "compress")


class Stopwatch:
    """Seconds spent in encoders, compressor and language model during the ``with`` block, in `spent`.

    On an accelerator it synchronizes at both ends of each stage, so that the stages add up: use it for reports, not in
    a loop that has to be fast.

    Args:
        thinker: the model whose ``generate`` runs in the block.
        compressor: the attached compressor; None without one.
        on_stage: called with the name of each stage when it begins.
        encodes: whether the encoders run; else their stages take no time.
    """

    def __init__(
        self,
        thinker: nn.Module,
        compressor: nn.Module | None,
        on_stage: Callable[[str], None] | None = None,
        encodes: bool = True,
    ) -> None:
        self._thinker = thinker
        self._stages = encoders_of(thinker) if encodes else {}
        if compressor is not None:
            self._stages["compress"] = compressor
        self._on_stage = on_stage or (lambda _stage: None)
        self._device = next(thinker.parameters()).device
        self._handles: list[RemovableHandle] = []
        self._started: dict[str, float] = {}
        self._forwards = 0
        self._spent_before_prefill = 0.0
        self.spent = dict.fromkeys((*_MEDIA_STAGES, "prefill", "decode"), 0.0)
        """Seconds of each stage."""

    def __enter__(self) -> Stopwatch:
        for stage, module in self._stages.items():
            self._time(module, stage)
        self._handles.append(self._thinker.register_forward_pre_hook(self._start_forward))
        self._handles.append(self._thinker.register_forward_hook(self._end_forward))
        self._begin = self._now()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        # Decoding is what the other stages leave of the block.
        self.spent["decode"] = max(0.0, self._now() - self._begin - sum(self.spent.values()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _time(self, module: nn.Module, stage: str) -> None:
        """Add the seconds of each call of ``module`` to ``stage``."""

        def start(*_: Any) -> None:
            self._on_stage(stage)
            self._started[stage] = self._now()

        def end(*_: Any) -> None:
            self.spent[stage] += self._now() - self._started[stage]
            self._on_stage("prefill")

        self._handles += [module.register_forward_pre_hook(start), module.register_forward_hook(end)]

    def _start_forward(self, *_: Any) -> None:
        if self._forwards:  # a decoding step, which must not synchronize
            return
        self._started["forward"] = self._now()
        self._spent_before_prefill = self._spent_on_media()

    def _spent_on_media(self) -> float:
        """Seconds of encoders and compressor so far. Transformers encodes before the first forward or during it."""
        return sum(self.spent[stage] for stage in _MEDIA_STAGES)

    def _end_forward(self, *_: Any) -> None:
        self._forwards += 1
        if self._forwards == 1:  # the prompt; later calls are decoding steps
            nested = self._spent_on_media() - self._spent_before_prefill
            self.spent["prefill"] = self._now() - self._started["forward"] - nested
            self._on_stage("decode")


def encoders_of(thinker: nn.Module) -> dict[str, nn.Module]:
    """The encoders of the model by the stage that they are."""
    parts = adapter_for(thinker).parts
    encoders = {"encode_video": parts.vision_encoder, "encode_audio": parts.audio_encoder}
    return {stage: module for stage, module in encoders.items() if module is not None}


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak on devices that record one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Peak allocated bytes on a CUDA device, on others the process's peak resident bytes; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


def timed(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> tuple[R, float]:
    """What a call returns, and the seconds that it took."""
    begin = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - begin
