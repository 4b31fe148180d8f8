"""Time, memory and FLOPs of every stage of a question, with all tokens and at each budget.

Each pipeline answers once to warm up, once under each gauge, and then ``repeats`` times with the clock alone. The timed
runs alternate between the pipelines, so that other load affects all of them.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.errors import UsageError
from omnisift.media.sampling import Sampling
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.pipeline import Answer, Pipeline
from omnisift.profiling.gauges import EnergyMeter, FlopGauge, energy_meter, memory_gauge
from omnisift.utils.provenance import provenance
from omnisift.utils.stages import STAGES

_Timed = tuple[Answer, float | None, float]
"""An answer, its joules, and its seconds of CPU time."""
_Ask = Callable[[Pipeline, Callable[[str], None] | None], Answer]


@dataclass(frozen=True)
class StageCost:
    """Cost of one question with one pipeline, by stage."""

    retain: str
    """``full``, or the requested budget."""
    answer: Answer
    """Answer of the last repetition; its report has the tokens and the clip."""
    seconds: dict[str, float]
    """Median seconds of each stage."""
    total_seconds: float
    """Median seconds of a question."""
    memory: dict[str, int]
    """Peak bytes of each stage that runs torch."""
    flops: dict[str, int]
    """Operations by torch's counter, in the same stages."""
    joules: float | None
    """Median joules of a question; None where the machine has no counter."""
    cpu_seconds: float
    """Median seconds of CPU time of a question, over all threads of the process."""
    device_peak: int | None
    """Peak bytes on a GPU in a timed question, with the weights; None on a CPU."""

    @property
    def step_seconds(self) -> float | None:
        """Seconds of one generated token after the first; None if there is none."""
        steps = self.answer.report.tokens.generated - 1
        return self.seconds["decode"] / steps if steps > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        answer = self.answer.to_dict()
        return {
            "retain": self.retain,
            "compressor": answer["compressor"],
            "compressor_reason": answer["compressor_reason"],
            "answer": answer["answer"],
            "retained_ratio": answer["retained_ratio"],
            "tokens": answer["tokens"],
            "seconds": {**self.seconds, "total": self.total_seconds, "decode_step": self.step_seconds},
            "memory_bytes": {**self.memory, "highest": max(self.memory.values()), "device_peak": self.device_peak},
            "flops": {**self.flops, "total": sum(self.flops.values())},
            "joules": self.joules,
            "cpu_seconds": self.cpu_seconds,
        }


@dataclass(frozen=True)
class Profile:
    """Costs of all pipelines, the full prompt first."""

    costs: list[StageCost]
    repeats: int
    notes: dict[str, str]
    """How memory, FLOPs and energy were measured, or why they were not."""
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
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
    fps: float = 2.0,
    max_frames: int = 256,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    max_decoded_pixels: int = MAX_DECODED_PIXELS,
    read_timeout: float = READ_TIMEOUT,
    max_new_tokens: int = 256,
    on_question: Callable[[], None] | None = None,
) -> Profile:
    """Measure pipelines that share one model.

    Args:
        pipelines: Name of the row -> pipeline, all tokens first.
        media: The clip.
        question: The question.
        repeats: Timed questions per pipeline.
        fps: As in `Pipeline.ask`, like the options up to ``max_new_tokens``.
        max_frames: Maximum number of images.
        max_pixels: Maximum pixels per image.
        sampling: Rule by which images are chosen.
        max_decoded_pixels: Maximum pixels of all frames that are decoded for the clip.
        read_timeout: Maximum seconds to read the clip.
        max_new_tokens: Maximum length of the answer.
        on_question: Called after each of the ``questions(repeats)`` questions per pipeline.

    Raises:
        UsageError: ``repeats`` is below 1.
    """
    if repeats < 1:
        raise UsageError(f"repeats must be at least 1, got {repeats}")
    done = on_question or (lambda: None)

    def ask(pipeline: Pipeline, on_stage: Callable[[str], None] | None = None) -> Answer:
        answer = pipeline.ask(
            media,
            question,
            fps=fps,
            max_frames=max_frames,
            max_pixels=max_pixels,
            sampling=sampling,
            max_decoded_pixels=max_decoded_pixels,
            read_timeout=read_timeout,
            max_new_tokens=max_new_tokens,
            on_stage=on_stage,
        )
        done()
        return answer

    host = next(iter(pipelines.values())).host
    device = next(host.thinker.parameters()).device
    energy = energy_meter(device)
    gauged = {name: _gauged(pipeline, ask, device) for name, pipeline in pipelines.items()}
    timed = _timed(pipelines, ask, energy, repeats)
    costs = [_cost(name, timed[name], *gauged[name], on_gpu=device.type == "cuda") for name in pipelines]
    notes = {"memory": memory_gauge(device).source, "flops": _counted(host.thinker), "energy": energy.words}
    return Profile(costs, repeats, notes, machine_info(device))


def questions(repeats: int) -> int:
    """Return the number of questions that `measure` asks each pipeline."""
    return 3 + repeats


def machine_info(device: torch.device) -> dict[str, Any]:
    """Return commit, versions and machine."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, CPU"
    return {**provenance(), "machine": machine, "threads": torch.get_num_threads()}


def _gauged(pipeline: Pipeline, ask: _Ask, device: torch.device) -> tuple[dict[str, int], dict[str, int]]:
    """Peak bytes and FLOPs by stage, from one question each."""
    ask(pipeline, None)
    with memory_gauge(device) as memory:
        ask(pipeline, memory.stage)
    with FlopGauge() as flops:
        ask(pipeline, flops.stage)
    return memory.peaks, flops.flops


def _timed(pipelines: Mapping[str, Pipeline], ask: _Ask, energy: EnergyMeter, repeats: int) -> dict[str, list[_Timed]]:
    """Answers, joules and CPU seconds of each pipeline."""
    answers: dict[str, list[_Timed]] = {name: [] for name in pipelines}
    for _ in range(repeats):
        for name, pipeline in pipelines.items():
            before, begin = energy.read(), time.process_time()
            answer = ask(pipeline, None)
            spent = time.process_time() - begin
            answers[name].append((answer, energy.joules(before), spent))
    return answers


def _cost(name: str, timed: list[_Timed], memory: dict[str, int], flops: dict[str, int], on_gpu: bool) -> StageCost:
    spent = [answer.report.seconds for answer, _, _ in timed]
    joules = [value for _, value, _ in timed if value is not None]
    return StageCost(
        retain=name,
        answer=timed[-1][0],
        seconds={stage: statistics.median(getattr(seconds, stage) for seconds in spent) for stage in STAGES},
        total_seconds=statistics.median(seconds.total for seconds in spent),
        memory=memory,
        flops=flops,
        joules=statistics.median(joules) if joules else None,
        cpu_seconds=statistics.median(seconds for _, _, seconds in timed),
        device_peak=timed[-1][0].report.peak_memory_bytes if on_gpu else None,
    )


def _counted(thinker: Any) -> str:
    """Describe what torch's counter includes for the model's attention."""
    if "flash" in str(thinker.config._attn_implementation):
        return "torch's counter; attention between tokens is left out, as a kernel outside of torch computes it"
    return "torch's counter: products and convolutions, attention over all pairs of tokens"
