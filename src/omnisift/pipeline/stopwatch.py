"""Time the stages of one `generate` call from outside, with hooks that are gone afterwards."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_ENCODERS = {"visual": "encode_video", "audio_tower": "encode_audio"}


class Stopwatch:
    """Seconds spent in encoders, compressor and language model during the ``with`` block.

    On an accelerator it waits for the device at the edges of each stage, so the stages add up; use it to report, not in
    a loop that should be fast.
    """

    def __init__(self, thinker: nn.Module, compressor: nn.Module | None, on_stage: Callable[[str], None] | None = None):
        self._thinker = thinker
        self._stages = encoders_of(thinker)
        if compressor is not None:
            self._stages["compress"] = [compressor]
        self._on_stage = on_stage or (lambda _stage: None)
        self._device = next(thinker.parameters()).device
        self._handles: list[RemovableHandle] = []
        self._started: dict[str, float] = {}
        self._forwards = 0
        self._before = 0.0
        self.spent = dict.fromkeys((*_ENCODERS.values(), "compress", "prefill", "decode"), 0.0)

    def __enter__(self) -> Stopwatch:
        for stage, modules in self._stages.items():
            for module in modules:
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
        self.spent["decode"] = max(0.0, self._now() - self._begin - sum(self.spent.values()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _time(self, module: nn.Module, stage: str) -> None:
        def start(*_: Any) -> None:
            self._on_stage(stage)
            self._started[stage] = self._now()

        def end(*_: Any) -> None:
            self.spent[stage] += self._now() - self._started[stage]
            self._on_stage("prefill")

        self._handles += [module.register_forward_pre_hook(start), module.register_forward_hook(end)]

    def _start_forward(self, *_: Any) -> None:
        if self._forwards:  # decoding steps must not wait for the device
            return
        self._started["forward"] = self._now()
        self._before = self._inside()

    def _inside(self) -> float:
        """Seconds of encoders and compressor so far: Transformers may encode before the forward or in it."""
        return sum(self.spent[stage] for stage in (*_ENCODERS.values(), "compress"))

    def _end_forward(self, *_: Any) -> None:
        self._forwards += 1
        if self._forwards == 1:  # the prompt; all later ones are decoding steps
            inner = self._inside() - self._before
            self.spent["prefill"] = self._now() - self._started["forward"] - inner
            self._on_stage("decode")


def encoders_of(thinker: nn.Module) -> dict[str, list[nn.Module]]:
    """Its encoders by stage; found by name, so in either layout of the host."""
    found: dict[str, list[nn.Module]] = {stage: [] for stage in _ENCODERS.values()}
    for name, module in thinker.named_modules():
        stage = _ENCODERS.get(name.split(".")[-1])
        if stage is not None:
            found[stage].append(module)
    return found


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak where the device keeps one."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes on an accelerator; on a CPU the peak resident bytes of this process; None where nobody counts."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
