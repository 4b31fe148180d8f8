"""Does a learned video score beat STVP? (Ten minutes; needs the model of estimators.py.)

The model is that of `estimators.py`, trained without the pointer loss. All audio is kept; the rows differ in which
video tokens stay. One line per row: STVP, its spatial rule for both frames, random tokens, the model's own attention on
the evaluated clips, and the learned score of five seeds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from estimators import CHECKS, Bench
from omnisift.budget import kept_count
from omnisift.evaluation.tables import table
from omnisift.lab.training import selector as selector_training
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.selections import (
    AUDIO_PER_CHUNK,
    CHUNKS,
    PATCHES_PER_FRAME,
    Select,
    learned_video_scores,
    stvp_scores,
    top_indices,
)
from omnisift.lab.training.settings import NanoSettings
from omnisift.utils.jsonl import JsonLines, write_jsonl
from omnisift.utils.provenance import provenance
from omnisift.video_score import VideoScore

RETAINS = (0.25, 0.125, 0.0625)
"""Four, two and one of a frame's sixteen patches."""
SEEDS = 5
TRAINING_CLIPS = 640
"""Clips that the score is trained on."""
NAMES = {
    "teacher": "the teacher's attention, on the evaluated clips",
    "spatial": "STVP's spatial rule for both frames",
    "stvp": "STVP",
    "random": "random patches",
}
Score = Callable[[Tensor], Tensor]


def spatial(video: Tensor) -> Tensor:
    """STVP's spatial rule (equations 2 and 3) for both frames: [B, 96, D] -> [B, 6, 16]."""
    frames = video.view(len(video), 2 * CHUNKS, PATCHES_PER_FRAME, -1)
    return -F.cosine_similarity(frames, frames.mean(2, keepdim=True), dim=-1)


def chance(video: Tensor) -> Tensor:
    return torch.rand(len(video), 2 * CHUNKS, PATCHES_PER_FRAME, generator=torch.Generator().manual_seed(len(video)))


def teacher_attention(bench: Bench) -> Score:
    """The full-token model's own attention on the evaluated clips, as a score."""
    shown = bench.check.video[:CHECKS].float().flatten(1)

    def score(video: Tensor) -> Tensor:
        clip = torch.cdist(video.flatten(1), shown).argmin(dim=1)
        return targets[clip].view(len(video), 2 * CHUNKS, PATCHES_PER_FRAME)

    targets = record_attention(bench, bench.check, CHECKS)
    return score


def record_attention(bench: Bench, features: Any, clips: int) -> Tensor:
    settings = replace(NanoSettings(), teacher_clips=clips)
    config = bench.config()
    return selector_training.video_attention_targets(
        config.model, bench.layout, bench.build.writer, features, settings, True
    )


def learned(bench: Bench, seed: int, targets: Tensor) -> Score:
    torch.manual_seed(seed)
    video_score = VideoScore(WIDTH)
    selector_training.distill_video_score(
        video_score, targets, bench.features, replace(NanoSettings(), seed=seed, selector_steps=200)
    )
    video_score.eval()
    return lambda video: learned_video_scores(video_score, video)


def keeping(score: Score, retain: float) -> Select:
    """Keep all audio and the highest video tokens of every frame."""

    @torch.no_grad()
    def select(video: Tensor, _audio: Tensor) -> KeptTokens:
        audio = torch.arange(CHUNKS * AUDIO_PER_CHUNK).expand(len(video), -1)
        return KeptTokens(top_indices(score(video), kept_count(PATCHES_PER_FRAME, retain)), audio)

    return select


def measure(bench: Bench, score: Score) -> dict[str, Any]:
    """Accuracy, and the share kept of the tokens that show a shape, at every ratio."""
    model, result = bench.config().model, {}
    shown = bench.check.video_class[:CHECKS] > 0
    for retain in RETAINS:
        select = keeping(score, retain)
        kept = select(bench.check.video[:CHECKS].float(), bench.check.audio[:CHECKS].float()).video
        mask = torch.zeros(shown.shape).scatter(1, kept, 1.0)
        accuracy = accuracies(model, bench.layout, bench.build.writer, bench.check, select, clips=CHECKS)
        result[f"{retain:g}"] = {
            "shown": round(float(mask[shown].mean()), 4),
            "accuracy": {name: round(value, 4) for name, value in accuracy.items()},
        }
    return result


def rows(bench: Bench) -> Iterator[tuple[str, Score]]:
    yield from (("stvp", stvp_scores), ("spatial", spatial), ("random", chance), ("teacher", teacher_attention(bench)))
    targets = record_attention(bench, bench.features, TRAINING_CLIPS)
    for seed in range(SEEDS):
        yield f"learned seed={seed}", learned(bench, seed, targets)


def page(path: Path) -> str:
    """The table of docs/distill.md."""
    lines = [line for _, line in JsonLines(path).records()]
    runs = {line["run"]: line for line in lines if "run" in line}
    seeds = [line for name, line in runs.items() if name.startswith("learned")]
    named = [(NAMES[name], [runs[name]]) for name in ("teacher", "spatial", "stvp", "random")]
    rows = []
    for name, result in [("**learned score**", seeds), *named]:
        cells = [spread(result, retain, what) for retain in RETAINS for what in ("shown", "mean")]
        rows.append([name, str(len(result)), *cells])
    head = [title for retain in RETAINS for title in (f"{100 * retain:g} %: shapes kept", "accuracy")]
    session, full = lines[0]["session"], runs["all"]["accuracy"]["mean"]
    versions = f"commit {session['commit'][:7]}, torch {session['torch']}, transformers {session['transformers']}"
    rows_table = table(["video selected by", "seeds", *head], rows)
    return rows_table + f"\nWith all tokens {100 * full:.1f} %. (`benchmarks/accuracy/video_score.py`, {versions})"


def spread(runs: list[dict[str, Any]], retain: float, what: str) -> str:
    values = [100 * (run[f"{retain:g}"]["shown"] if what == "shown" else run[f"{retain:g}"]["accuracy"]["mean"])
              for run in runs]  # fmt: skip
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def main(arguments: list[str] | None = None) -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/plain"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/picture.jsonl"))
    options = parser.parse_args(arguments)
    bench = Bench(options.work)
    full = accuracies(bench.config().model, bench.layout, bench.build.writer, bench.check, None, clips=CHECKS)
    lines: list[dict[str, Any]] = [{"session": provenance()}]
    lines.append({"run": "all", "accuracy": {name: round(value, 4) for name, value in full.items()}})
    for name, score in rows(bench):
        lines.append({"run": name, **measure(bench, score)})
        print(name, {key: lines[-1][key]["accuracy"]["mean"] for key in ("0.25", "0.125", "0.0625")}, flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(options.out, lines)
    print(page(options.out))


if __name__ == "__main__":
    main()
