"""Compare estimators on the world ``wide``: which audio tokens does a selector keep? (Half an hour; resumes.)

The model is the backbone of ``wide``, and the last script writes docs/estimators.md:

    python -m omnisift.lab.wide
    python benchmarks/accuracy/estimators_wide.py && python benchmarks/figures/estimators_page.py

The first part, ``tune``, tries three learning rates (ridge: penalties) on validation clips with one seed. The second,
``test``, measures every row on test clips, which no other part reads. Finished runs are skipped.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from estimators import RATES, TUNING_SEED, name_of
from omnisift.budget import Budget
from omnisift.chunks import MICROSECONDS, index_stream
from omnisift.compressors.resift import ReSiftCompressor
from omnisift.lab.compare import without_selector
from omnisift.lab.training.estimating import DISTILLATION, EstimatorConfig, train_with
from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.feature_cache import FeatureCache, encode_features
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.packed import WIDE_WEIGHTS
from omnisift.lab.training.ridge import fit_ridge
from omnisift.lab.training.selections import (
    AUDIO_PER_CHUNK,
    CHUNKS,
    Select,
    omnisift_selection,
    patches_of,
    select_with,
    stvp_scores,
)
from omnisift.lab.training.selector import attention_targets, kept_events
from omnisift.lab.wide import CLIPS, SETTINGS, WideBuild
from omnisift.models.selector import new_selector
from omnisift.tokens import Modality
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.provenance import provenance
from omnisift.world import WIDE_TYPES

TRAINED = ("straight_through", "perturbed", "reinforce", DISTILLATION)
RIDGES = ("ridge", "ridge-video")
UNTRAINED = ("all", "oracle", "resift", "salient", "random")
AUDIO_TYPES = ("heard", "sound_with", "color_with_sound", "said")
"""The question types whose answer is heard."""
PENALTIES = (1e-3, 1e-1, 1e1)
RETAINS = (0.25, 0.10)
STEPS, SEEDS, TEST_CLIPS, TUNING_CLIPS = 80, 2, 160, 100


class Bench:
    """The model, its clips and its attention targets."""

    def __init__(self, work: Path) -> None:
        torch.set_num_threads(1)
        self.build = WideBuild(work, SETTINGS, CLIPS)
        self.model = self.build.model("language").eval()
        self.layout = self.build.layout(self.model, "wide")
        self.train = self.build.load_features("train", "wide")
        self.targets = self._attention("train", self.train)
        self.checks = {"tune": self.build.load_features("validation", "wide"), "test": self._test()}

    def _test(self) -> FeatureCache:
        path = self.build.out / "wide-test-000000.safetensors"
        if not path.is_file():
            encode_features(self.model, "test", TEST_CLIPS, 1.0, 0, "wide").save(path)
        return FeatureCache.load(path, "test", 0, "wide")

    def _attention(self, name: str, features: FeatureCache) -> Tensor:
        """[N, 150]: the model's own attention, without the head that the pointer loss trained."""
        path = self.build.out / f"attention-{name}.safetensors"
        if not path.is_file():
            begin = time.process_time()
            targets = attention_targets(
                self.model, self.layout, self.build.writer, features, SETTINGS, types=WIDE_WEIGHTS
            )
            save_file({"targets": targets}, path, metadata={"cpu_seconds": f"{time.process_time() - begin:.1f}"})
        return load_file(path)["targets"]

    def run(self, job: dict[str, Any]) -> dict[str, Any]:
        """One line of the result."""
        way, check = job["way"], self.checks[job["part"]]
        begin = time.process_time()
        if way in TRAINED or way == "untrained":
            selector = new_selector(WIDTH, True, job["seed"])
            if way in TRAINED:
                config = EstimatorConfig(
                    self.model, self.layout, self.build.writer, self.train, self.targets,
                    retain=RETAINS[0], tight=RETAINS[1], types=WIDE_WEIGHTS,
                )  # fmt: skip
                job = job | {"loss": train_with(selector, way, config, STEPS, job["rate"], job["seed"]).loss}
            selector.train(False)
            return self._measured(job, begin, check, lambda retain: omnisift_selection(selector, retain))
        if way in RIDGES:
            ridges = {
                retain: fit_ridge(self.train, self.targets, job["rate"], retain if way == "ridge-video" else None)
                for retain in (RETAINS if way == "ridge-video" else RETAINS[:1])
            }
            return self._measured(
                job, begin, check, lambda retain: ridges.get(retain, ridges[RETAINS[0]]).selection(retain)
            )
        if way == "all":
            return job | {"accuracy": self._accuracy(check, None, job["part"])}
        return self._measured(job, begin, check, lambda retain: self._fixed(way, check, retain))

    def _fixed(self, way: str, check: FeatureCache, retain: float) -> Select:
        """A selection that is not learned."""
        if way == "resift":
            return resift_audio(retain)
        if way in ("random", "salient"):
            return without_selector(way, retain)
        return from_table(check, evidence_first(check), retain)  # oracle

    def _measured(
        self, job: dict[str, Any], begin: float, check: FeatureCache, make: Callable[[float], Select]
    ) -> dict[str, Any]:
        """Tokens kept and accuracy at both ratios; ``make(retain)`` returns the selection."""
        result: dict[str, Any] = {"cpu_seconds": round(time.process_time() - begin, 1)}
        for retain in RETAINS:
            result[f"{retain:g}"] = {
                "kept": kept_events(make(retain), check, retain, TEST_CLIPS),
                "accuracy": self._accuracy(check, make(retain), job["part"]),
            }
        return job | result

    def _accuracy(self, check: FeatureCache, select: Select | None, part: str) -> dict[str, float]:
        clips = TUNING_CLIPS if part == "tune" else TEST_CLIPS
        result = accuracies(self.model, self.layout, self.build.writer, check, select, clips=clips, types=WIDE_TYPES)
        result["audio"] = statistics.mean(result[name] for name in AUDIO_TYPES)
        return {name: round(value, 4) for name, value in result.items()}


def evidence_first(features: FeatureCache) -> Tensor:
    """[N, 150]: ranks that keep one token of every sound and word of a chunk, then a second of each, and so on."""
    rng = np.random.default_rng(0)
    ranks = torch.zeros(features.audio.shape[:2])
    for clip, truth in enumerate(features.truths):
        for tokens in truth.sound_tokens:
            for chunk in range(CHUNKS):
                mine = tokens[tokens // AUDIO_PER_CHUNK == chunk]
                ranks[clip, mine] = torch.from_numpy(1.0 / (1 + rng.permutation(len(mine)))).float()
    return ranks


def from_table(features: FeatureCache, ranks: Tensor, retain: float) -> Select:
    """STVP, and the audio that ``ranks`` [N, 150] puts first; a clip is recognised by its audio."""
    marks = features.audio[:, AUDIO_PER_CHUNK].float()

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        clip = torch.cdist(audio[:, AUDIO_PER_CHUNK], marks).argmin(dim=1)
        return select_with(stvp_scores(video), ranks[clip].view(len(video), CHUNKS, -1), retain)

    return select


def resift_audio(retain: float) -> Select:
    """STVP, and the audio that ReSift covers, without merging: the rows differ in which tokens stay, not in them."""
    compressor = ReSiftCompressor(Budget(retain_video=retain, retain_audio=retain), merge=False)

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        rows, patches, frames = len(video), patches_of(video), 2 * CHUNKS
        # The tokens of each clip with their times, rows and columns: all video, then all audio.
        side = round(patches**0.5)
        place = torch.arange(patches).repeat(frames)
        seconds = torch.cat([torch.arange(frames).repeat_interleave(patches), torch.arange(audio.shape[1]) / 25])
        nowhere = torch.zeros(audio.shape[1], dtype=torch.int64)
        position = torch.stack([
            (seconds * MICROSECONDS).round().long(),
            torch.cat([place // side, nowhere]), torch.cat([place % side, nowhere]),
        ])  # fmt: skip
        modality = torch.cat([torch.full((len(place),), int(Modality.VIDEO)), nowhere + int(Modality.AUDIO)])
        row = torch.arange(rows).repeat_interleave(len(modality))
        embeds = torch.cat([video, audio], dim=1).flatten(0, 1)
        stream = index_stream(embeds, modality.to(torch.int8).repeat(rows), row, position.repeat(1, rows), row)
        keep = compressor(stream).keep.view(rows, -1)[:, len(place) :]
        return select_with(stvp_scores(video), keep.float().view(rows, CHUNKS, -1), retain)

    return select


def jobs(part: str, lines: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The runs of a part; ``test`` uses the best rate of ``tune``."""
    if part == "tune":
        for way in (*TRAINED, *RIDGES):
            for rate in PENALTIES if way in RIDGES else RATES:
                yield {"part": part, "way": way, "rate": rate, "seed": TUNING_SEED}
        return
    for way in (*UNTRAINED, *RIDGES):
        yield {"part": part, "way": way} | ({"rate": best_rate(lines, way)} if way in RIDGES else {})
    for seed in range(SEEDS):
        for way in (*TRAINED, "untrained"):
            yield {"part": part, "way": way, "seed": seed} | ({"rate": best_rate(lines, way)} if way in TRAINED else {})


def best_rate(lines: dict[str, dict[str, Any]], way: str) -> float:
    """The rate with the best accuracy on questions about sound, over both ratios."""
    tried = [line for line in lines.values() if line["part"] == "tune" and line["way"] == way]
    return float(max(tried, key=lambda line: sum(line[f"{r:g}"]["accuracy"]["audio"] for r in RETAINS))["rate"])


def main(arguments: list[str] | None = None) -> None:
    """Run the missing jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/wide"), help="folder of `python -m omnisift.lab.wide`")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/estimators_wide.jsonl"))
    options = parser.parse_args(arguments)
    out = JsonLines(options.out)
    out.prepare()
    lines = {record["run"]: record for _, record in out.records() if "run" in record}
    bench = Bench(options.work)
    out.append({"session": provenance()})
    for part in ("tune", "test"):
        for job in jobs(part, lines):
            name = name_of(job)
            if name not in lines:
                lines[name] = {"run": name, **bench.run(job)}
                out.append(lines[name])
                print(name, flush=True)


if __name__ == "__main__":
    main()
