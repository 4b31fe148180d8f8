"""``python -m omnisift.lab.compare``: compare ways of training the selector on one trained model.

Reads the working folder of `omnisift.lab.nano` (stages ``features`` and ``language``) and writes ``compare.json``
there. All rows keep the same counts and select video with STVP; they differ in which audio tokens stay.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnisift.lab.nano import NanoBuild
from omnisift.lab.training import selector as selector_training
from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.forward import KeptTokens
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.packed import clip_layout
from omnisift.lab.training.selections import (
    Select,
    audio_saliency,
    omnisift_selection,
    random_scores,
    select_with,
    selector_scores,
    stvp_scores,
)
from omnisift.lab.training.settings import NanoSettings
from omnisift.models.selector import new_selector
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import provenance
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
RETAINS = (0.25, 0.15)


def shuffled_video(selector: VGAS, retain: float) -> Select:
    """A control: the selector sees another clip's video; the kept video tokens are the clip's own."""

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        other = video.roll(1, 0)
        guided = selector_scores(selector, other, audio, stvp_scores(other), retain)
        return select_with(stvp_scores(video), guided, retain)

    return select


def without_selector(kind: str, retain: float) -> Select:
    """STVP with ``random`` or ``salient`` audio."""
    rng = torch.Generator().manual_seed(0)

    def select(video: Tensor, audio: Tensor) -> KeptTokens:
        scores = audio_saliency(audio) if kind == "salient" else random_scores(len(video), rng)[1]
        return select_with(stvp_scores(video), scores, retain)

    return select


class SelectorComparison:
    """The table: what each selector keeps of the audio, and how well the model then answers.

    Args:
        build: folder of a finished language model.
        seeds: seeds per row.
        steps: steps of the straight-through training.
    """

    def __init__(self, build: NanoBuild, seeds: int, steps: int):
        self.build, self.seeds, self.steps = build, seeds, steps
        self.model = build.model("language")
        self.layout = clip_layout(self.model, build.tokenizer)
        self.features, self.check = build.load_features("train"), build.load_features("validation")
        self.targets = selector_training.attention_targets(
            self.model, self.layout, build.writer, self.features, build.settings
        )
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, seed: int | None, make: Any, model: Any = None) -> None:
        """Measure one row at both ratios; ``make(retain)`` returns its selection."""
        row: dict[str, Any] = {"selector": name, "seed": seed}
        for retain in RETAINS:
            kept = selector_training.kept_events(make(retain), self.check, retain)
            accuracy = accuracies(
                model or self.model, self.layout, self.build.writer, self.check, make(retain), clips=100
            )
            row[f"{retain:g}"] = {"kept": kept, "accuracy": {k: round(v, 4) for k, v in accuracy.items()}}
            logger.info("%s seed %s retain %g: %s %s", name, seed, retain, kept, format_accuracies(accuracy))
        self.rows.append(row)

    def run(self) -> list[dict[str, Any]]:
        """Measure all rows."""
        for kind in ("random", "salient"):
            self.add(kind, None, lambda retain, kind=kind: without_selector(kind, retain))
        for seed in range(self.seeds):
            for timed in (False, True):
                name = "VGAS with time" if timed else "VGAS"
                self.add(f"{name}, untrained", seed, self._row(new_selector(WIDTH, timed, seed)))
                self.add(f"{name}, distilled", seed, self._row(self._distilled(timed, seed)))
                self._straight_through(name, timed, seed)
            vgas = self._distilled(True, seed, shuffled=True)
            self.add("VGAS with time, distilled, blind", seed, lambda retain, vgas=vgas: shuffled_video(vgas, retain))
        return self.rows

    def _row(self, vgas: VGAS) -> Any:
        return lambda retain: omnisift_selection(vgas, retain)

    def _distilled(self, timed: bool, seed: int, shuffled: bool = False) -> VGAS:
        vgas = new_selector(WIDTH, timed, seed)
        selector_training.distill(
            vgas, self.targets, self.features, replace(self.build.settings, seed=seed), shuffled_video=shuffled
        )
        return vgas

    def _straight_through(self, name: str, timed: bool, seed: int) -> None:
        model, vgas = self.build.model("language"), new_selector(WIDTH, timed, seed)
        settings = replace(self.build.settings, seed=seed)
        selector_training.straight_through(
            vgas, model, self.layout, self.build.writer, self.features, settings, self.steps
        )
        self.add(f"{name}, straight-through with the model", seed, self._row(vgas), model)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.lab.compare", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/nano"), help="working folder of training.nano")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150, help="steps of the straight-through training")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    rows = SelectorComparison(NanoBuild(options.out, NanoSettings()), options.seeds, options.steps).run()
    path = options.out / "compare.json"
    write_atomic(path, json.dumps({**provenance(), "steps": options.steps, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
