"""One clip and one question, asked with all tokens and with a part of them: time, memory and FLOPs of every stage.

Each pipeline is asked once to warm up, once under each gauge, and then ``repeats`` times with the clock alone, in turn
with the others so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.errors import UsageError
from omnisift.pipeline import Answer, Pipeline
from omnisift.profiling.counter import FlopGauge
from omnisift.profiling.energy import EnergyMeter, energy_meter
from omnisift.profiling.memory import memory_gauge
from omnisift.profiling.stages import STAGES
from omnisift.utils.provenance import environment

Asked = Callable[[Pipeline, Callable[[str], None] | None], Answer]


@dataclass(frozen=True)
class StageCost:
    """What asking one way costs."""

    retain: str
    """``full``, or what was asked for."""
    answer: Answer
    """Of the last repetition; its report has the tokens and the clip."""
    seconds: dict[str, float]
    """Median of each stage."""
    total_seconds: float
    """Median of a whole question."""
    memory: dict[str, int]
    """Peak bytes of each stage in which torch works."""
    flops: dict[str, int]
    """As torch's counter counts them, in the same stages."""
    joules: float | None
    """Median of a whole question; None where the machine has no counter."""
    device_peak: int | None
    """Highest bytes on a GPU in a timed question, weights included; None on a CPU."""

    @property
    def step_seconds(self) -> float | None:
        """Of one written token behind the first; None if there was none."""
        steps = self.answer.report.tokens.generated - 1
        return self.seconds["decode"] / steps if steps > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        answer = self.answer.to_dict()
        return {
            "retain": self.retain,
            "compressor": answer["compressor"],
            "answer": answer["answer"],
            "retained_ratio": answer["retained_ratio"],
            "tokens": answer["tokens"],
            "seconds": {**self.seconds, "total": self.total_seconds, "decode_step": self.step_seconds},
            "memory_bytes": {**self.memory, "highest": max(self.memory.values()), "device_peak": self.device_peak},
            "flops": {**self.flops, "total": sum(self.flops.values())},
            "joules": self.joules,
        }


@dataclass(frozen=True)
class Profile:
    """All ways beside each other, the full prompt first."""

    costs: list[StageCost]
    repeats: int
    notes: dict[str, str]
    """How memory, FLOPs and energy were measured, or why not."""
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        report = self.costs[0].answer.report
        return {
            "kind": "measured",
            "model": report.model,
            "source": asdict(report.source),
            "repeats": self.repeats,
            "runs": [cost.to_dict() for cost in self.costs],
            "notes": self.notes,
            "environment": self.environment,
        }


def measure(
    pipelines: Mapping[str, Pipeline],
    media: str | Path,
    question: str,
    *,
    repeats: int = 5,
    on_question: Callable[[], None] | None = None,
    **how: Any,
) -> Profile:
    """Profile ``pipelines``, which share one model; their names go into the rows.

    ``how`` goes to `Pipeline.ask`; ``on_question`` is called after each of the ``questions(repeats)`` per pipeline.
    """
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats}")
    done = on_question or (lambda: None)

    def asked(pipeline: Pipeline, on_stage: Callable[[str], None] | None = None) -> Answer:
        answer = pipeline.ask(media, question, on_stage=on_stage, **how)
        done()
        return answer

    host = next(iter(pipelines.values())).host
    device = next(host.thinker.parameters()).device
    energy, gauged = (
        energy_meter(device),
        {name: _gauged(pipeline, asked, device) for name, pipeline in pipelines.items()},
    )
    timed = _timed(pipelines, asked, energy, repeats)
    costs = [_cost(name, timed[name], *gauged[name], on_gpu=device.type == "cuda") for name in pipelines]
    notes = {"memory": memory_gauge(device).source, "flops": _seen(host.thinker), "energy": energy.words}
    return Profile(costs, repeats, notes, surroundings(device))


def questions(repeats: int) -> int:
    """How often `measure` asks each pipeline."""
    return 3 + repeats


def surroundings(device: torch.device) -> dict[str, Any]:
    """Commit, versions and machine."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, CPU"
    return {**environment(), "machine": machine, "threads": torch.get_num_threads()}


def _gauged(pipeline: Pipeline, asked: Asked, device: torch.device) -> tuple[dict[str, int], dict[str, int]]:
    """Peak bytes and FLOPs by stage, each from a question of its own."""
    asked(pipeline, None)
    with memory_gauge(device) as memory:
        asked(pipeline, memory.stage)
    with FlopGauge() as flops:
        asked(pipeline, flops.stage)
    return memory.peaks, flops.flops


def _timed(
    pipelines: Mapping[str, Pipeline], asked: Asked, energy: EnergyMeter, repeats: int
) -> dict[str, list[tuple[Answer, float | None]]]:
    """Answers with their joules."""
    found: dict[str, list[tuple[Answer, float | None]]] = {name: [] for name in pipelines}
    for _ in range(repeats):
        for name, pipeline in pipelines.items():
            before = energy.read()
            answer = asked(pipeline, None)
            found[name].append((answer, energy.joules(before)))
    return found


def _cost(
    name: str, timed: list[tuple[Answer, float | None]], memory: dict[str, int], flops: dict[str, int], on_gpu: bool
) -> StageCost:
    spent = [answer.report.seconds for answer, _ in timed]
    joules = [value for _, value in timed if value is not None]
    return StageCost(
        retain=name,
        answer=timed[-1][0],
        seconds={stage: statistics.median(getattr(seconds, stage) for seconds in spent) for stage in STAGES},
        total_seconds=statistics.median(seconds.total for seconds in spent),
        memory=memory,
        flops=flops,
        joules=statistics.median(joules) if joules else None,
        device_peak=timed[-1][0].report.peak_memory_bytes if on_gpu else None,
    )


def _seen(thinker: Any) -> str:
    """What torch's counter counts with this model's attention."""
    if "flash" in str(thinker.config._attn_implementation):
        return "torch's counter; attention between tokens is not in it: an outside kernel computes it (try --attn sdpa)"
    return "torch's counter: products and convolutions, attention over all pairs of tokens"
