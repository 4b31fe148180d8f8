"""Compare estimators: does the selector learn which audio to keep? (An hour; resumes.)

The model was trained without the pointer loss, and the second script writes docs/estimators.md:

    python -m omnisift.lab.neutral --out build/plain --no-pointer --steps 1800
    python benchmarks/accuracy/estimators.py && python benchmarks/figures/estimators_page.py

Each part is a set of runs, with one result line per run: ``rates`` (learning rates, one seed), ``seeds`` (every method
at its best rate, and selections without training), ``exact`` (without time embedding: the released layout), ``joint``
(model and selector together) and ``cosine`` (each gradient against a low-variance one of the true objective). Finished
runs are skipped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnisift.estimators import ESTIMATORS, make_estimator
from omnisift.lab.compare import shuffled_video, without_selector
from omnisift.lab.neutral import NeutralBuild
from omnisift.lab.training import selector as selector_training
from omnisift.lab.training.estimating import (
    DISTILLATION,
    EstimatorConfig,
    audio_logits,
    estimator_loss,
    sample_batch,
    train_with,
)
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.packed import clip_layout
from omnisift.lab.training.selections import AUDIO_PER_CHUNK, Select, omnisift_selection, select_with, stvp_scores
from omnisift.lab.training.settings import NanoSettings
from omnisift.models.selector import new_selector
from omnisift.utils.jsonl import JsonLines, parse_jsonl
from omnisift.utils.provenance import provenance

METHODS = (*ESTIMATORS, DISTILLATION)
RATES = (3e-4, 1e-3, 3e-3)
RETAINS = (0.25, 0.15)
STEPS, SEEDS, FEW, TUNING_SEED = 80, 5, 2, 100
CHECKS = 160
"""Validation clips, with 32 questions each."""


class Bench:
    """The model, its clips and its attention targets; one per process."""

    def __init__(self, work: Path) -> None:
        torch.set_num_threads(1)
        self.build = NeutralBuild(work, NanoSettings(), 1, 1)
        self.features, self.check = self.build.load_features("train"), self.build.load_features("validation")
        self.layout = clip_layout(self.build.model("language"), self.build.tokenizer)
        self.targets = self._targets(work / "targets.safetensors")

    def _targets(self, path: Path) -> Tensor:
        from safetensors.torch import load_file, save_file

        if not path.is_file():
            model, settings = self.build.model("language"), NanoSettings()
            targets = selector_training.attention_targets(
                model, self.layout, self.build.writer, self.features, settings, with_pointer_head=True
            )
            save_file({"targets": targets}, path)
        return load_file(path)["targets"]

    def config(self, **changes: Any) -> EstimatorConfig:
        model = self.build.model("language").eval()
        return replace(EstimatorConfig(model, self.layout, self.build.writer, self.features, self.targets), **changes)

    def measure(self, make: Any, model: Any) -> dict[str, Any]:
        """Tokens kept and accuracy of the model, at both ratios; ``make(retain)`` returns the selection."""
        result = {}
        for retain in RETAINS:
            accuracy = accuracies(model, self.layout, self.build.writer, self.check, make(retain), clips=CHECKS)
            kept = selector_training.kept_events(make(retain), self.check, retain)
            result[f"{retain:g}"] = {"kept": kept, "accuracy": {k: round(v, 4) for k, v in accuracy.items()}}
        return result

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """One line of the result."""
        way = job["way"]
        if job["part"] == "cosine":
            return job | {"cosine": self.cosines(job)}
        if way in ("all", "random", "salient", "oracle"):
            config = self.config()
            if way == "all":
                accuracy = accuracies(config.model, self.layout, self.build.writer, self.check, None, clips=CHECKS)
                return job | {"accuracy": {k: round(v, 4) for k, v in accuracy.items()}}
            return job | self.measure(
                lambda retain: oracle(self.check, retain) if way == "oracle" else without_selector(way, retain),
                config.model,
            )
        vgas = new_selector(WIDTH, job["time"], job["seed"])
        shuffled = way == "blind"
        config = self.config(shuffled_video=shuffled)
        if way != "untrained":
            steps = job.get("steps", STEPS)
            curve = train_with(
                vgas, DISTILLATION if shuffled else way, config, steps, job["rate"], job["seed"], job["joint"]
            )
            job = job | {"loss": curve.loss, "cpu_seconds": curve.seconds}
        vgas.train(False)
        config.model.train(False)
        return job | self.measure(
            lambda retain: (shuffled_video if shuffled else omnisift_selection)(vgas, retain), config.model
        )

    def cosines(self, job: dict[str, Any]) -> dict[str, float]:
        """Cosine of each estimator's mean gradient with a low-variance one of the same batches.

        The reference is REINFORCE with many samples; ``noise`` is the cosine of two such references, so the upper
        limit.
        """
        config = self.config()
        config.model.requires_grad_(False)
        vgas = new_selector(WIDTH, job["time"], job["seed"])
        train_with(vgas, DISTILLATION, config, job["after"], 1e-3, job["seed"])
        batches = [sample_batch(config, 77, step)[0] for step in range(6)]
        many = make_estimator("reinforce")
        many.samples = 48  # type: ignore[misc]
        halves = [gradient(vgas, many, config, batches, 1, seed) for seed in (0, 1)]
        reference = halves[0] + halves[1]
        result = {"noise": cosine(*halves)}
        for name in ESTIMATORS:
            for progress in (0.0, 0.8) if name not in ("straight_through", "reinforce") else (0.0,):
                estimator = make_estimator(name)
                estimator.progress = progress
                mean = gradient(vgas, estimator, config, batches, 6, 2)
                result[f"{name}@{progress:g}"] = cosine(mean, reference)
        vgas.zero_grad()
        for step in range(6):
            batch, clips = sample_batch(config, 77, step)
            logits, _ = audio_logits(vgas, config, batch, config.retain)
            torch.nn.functional.binary_cross_entropy_with_logits(logits.flatten(1), config.targets[clips]).backward()
        result[DISTILLATION] = cosine(flat(vgas), reference)
        return {name: round(value, 4) for name, value in result.items()}


def gradient(vgas: Any, estimator: Any, config: EstimatorConfig, batches: list[Any], samples: int, seed: int) -> Tensor:
    """The selector's mean gradient over batches and samples, as one vector."""
    torch.manual_seed(seed)
    vgas.zero_grad()
    for batch in batches:
        for _ in range(samples):
            estimator_loss(vgas, estimator, config, batch, through_model=False)[0].backward()
    return flat(vgas)


def flat(vgas: Any) -> Tensor:
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in vgas.parameters()])


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def oracle(features: FeatureCache, retain: float) -> Select:
    """Keep audio that belongs to visible shapes first, then other sounds, then silence."""
    marks = features.audio[:, AUDIO_PER_CHUNK].float()

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        clip = torch.cdist(audio[:, AUDIO_PER_CHUNK], marks).argmin(dim=1)
        owner = features.audio_owner[clip]
        ranks = ((owner > 0) * 2 + (owner < 0) * 1).float().view(len(video), -1, AUDIO_PER_CHUNK)
        return select_with(stvp_scores(video), ranks, retain)

    return select


def jobs(parts: list[str], lines: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """All runs of the parts; ``seeds``, ``exact`` and ``joint`` use the best rate of ``rates``."""
    if "rates" in parts:
        for way in METHODS:
            for rate in RATES:
                yield {"part": "rates", "way": way, "rate": rate, "time": True, "seed": TUNING_SEED, "joint": False}
    if "seeds" in parts:
        for way in ("all", "random", "salient", "oracle"):
            yield {"part": "seeds", "way": way}
        for seed in range(SEEDS):
            for way in (*METHODS, "blind", "untrained"):
                rate = best_rate(lines, DISTILLATION if way == "blind" else way)
                yield {"part": "seeds", "way": way, "rate": rate, "time": True, "seed": seed, "joint": False}
    if "exact" in parts:
        for seed in range(SEEDS):
            for way in (*METHODS, "untrained") if seed < FEW else ("straight_through", DISTILLATION, "untrained"):
                rate = best_rate(lines, way)
                yield {"part": "exact", "way": way, "rate": rate, "time": False, "seed": seed, "joint": False}
    if "cosine" in parts:
        for seed, after in ((0, 0), (0, 15), (1, 15)):
            yield {"part": "cosine", "way": "all", "time": True, "seed": seed, "after": after}
    if "joint" in parts:
        for seed in range(FEW):
            for way in ESTIMATORS:
                rate = best_rate(lines, way)
                yield {"part": "joint", "way": way, "rate": rate, "time": True, "seed": seed, "joint": True}


def renamed(text: str) -> str:
    """Replace ``literal``, the name in older results, by ``straight_through``."""
    return text.replace("literal", "straight_through")


def best_rate(lines: dict[str, dict[str, Any]], way: str) -> float:
    """The learning rate at which the tuning seed kept most events at 15 %."""
    tried = [line for line in lines.values() if line["part"] == "rates" and line["way"] == way]
    if not tried:
        return RATES[1]
    return float(
        max(tried, key=lambda line: (line["0.15"]["kept"]["events"], line["0.15"]["kept"]["relevant"]))["rate"]
    )


def name_of(job: dict[str, Any]) -> str:
    return " ".join(f"{k}={job[k]}" for k in ("part", "way", "rate", "time", "seed", "joint", "after") if k in job)


_BENCH: Bench | None = None


def _begin(work: Path) -> None:
    global _BENCH
    _BENCH = Bench(work)


def _work(job: dict[str, Any]) -> dict[str, Any]:
    if _BENCH is None:
        raise RuntimeError("the process was not prepared")
    return _BENCH.run(job)


def main(arguments: list[str] | None = None) -> None:
    """Run the missing jobs, part by part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/plain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/estimators.jsonl"))
    parser.add_argument("--parts", nargs="*", default=["rates", "seeds", "cosine", "exact", "joint"])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    out = JsonLines(options.out)
    out.prepare()
    records = [record for _, record in parse_jsonl(renamed(options.out.read_text(encoding="utf-8")), options.out)]
    lines = {record["run"]: record for record in records if "run" in record}
    out.append({"session": provenance()})
    for part in options.parts:
        missing = [job for job in jobs([part], lines) if name_of(job) not in lines]
        with ProcessPoolExecutor(options.workers, get_context("spawn"), _begin, (options.work,)) as pool:
            futures = {pool.submit(_work, job): name_of(job) for job in missing}
            for number, future in enumerate(as_completed(futures), start=1):
                name = futures[future]
                lines[name] = {"run": name, **future.result()}
                out.append(lines[name])
                print(f"{part} {number}/{len(missing)} {name}", flush=True)


if __name__ == "__main__":
    main()
