"""``python -m omnisift.training.compare``: how the selector's training matters, on one trained model, row by row.

Reads the working folder of `omnisift.training.nano` (stages ``features`` and ``language``) and writes ``compare.json``
there. All rows keep the same counts and use STVP for the picture; they differ in which sounds stay.
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

from omnisift.training import selector as selecting
from omnisift.training.evaluate import accuracies, in_words
from omnisift.training.forward import Kept
from omnisift.training.nano import NanoBuild, provenance
from omnisift.training.nano_model import WIDTH
from omnisift.training.packed import clip_layout
from omnisift.training.selections import (
    Select,
    audio_saliency,
    omnisift,
    random_scores,
    select_with,
    selector_scores,
    stvp_scores,
)
from omnisift.training.settings import NanoSettings
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
RETAINS = (0.25, 0.15)


def blind(selector: VGAS, retain: float) -> Select:
    """The selector sees the picture of another clip; the kept picture is the right one."""

    def select(video: Tensor, audio: Tensor) -> Kept:
        other = video.roll(1, 0)
        guided = selector_scores(selector, other, audio, stvp_scores(other), retain)
        return select_with(stvp_scores(video), guided, retain)

    return select


def without_selector(kind: str, retain: float) -> Select:
    """STVP with ``random`` or ``salient`` sound."""
    rng = torch.Generator().manual_seed(0)

    def select(video: Tensor, audio: Tensor) -> Kept:
        sound = audio_saliency(audio) if kind == "salient" else random_scores(len(video), rng)[1]
        return select_with(stvp_scores(video), sound, retain)

    return select


class Comparison:
    """The table: each row is what stays of the sounds, and what the model then answers."""

    def __init__(self, shop: NanoBuild, seeds: int, steps: int):
        self.shop, self.seeds, self.steps = shop, seeds, steps
        self.model = shop.model("language")
        self.layout = clip_layout(self.model, shop.tokenizer)
        self.bank, self.check = shop.bank("train"), shop.bank("validation")
        self.targets = selecting.teach(self.model, self.layout, shop.writer, self.bank, shop.settings)
        self.rows: list[dict[str, Any]] = []

    def add(self, name: str, seed: int | None, make: Any, model: Any = None) -> None:
        """Measure one row at both ratios; ``make(retain)`` gives its selection."""
        row: dict[str, Any] = {"selector": name, "seed": seed}
        for retain in RETAINS:
            kept = selecting.kept_events(make(retain), self.check, retain)
            right = accuracies(model or self.model, self.layout, self.shop.writer, self.check, make(retain), clips=100)
            row[f"{retain:g}"] = {"kept": kept, "accuracy": {k: round(v, 4) for k, v in right.items()}}
            logger.info("%s seed %s retain %g: %s %s", name, seed, retain, kept, in_words(right))
        self.rows.append(row)

    def run(self) -> list[dict[str, Any]]:
        """All rows."""
        for kind in ("random", "salient"):
            self.add(kind, None, lambda retain, kind=kind: without_selector(kind, retain))
        for seed in range(self.seeds):
            for timed in (False, True):
                name = "VGAS with time" if timed else "VGAS"
                self.add(f"{name}, untrained", seed, self._row(selecting.new_selector(WIDTH, timed, seed)))
                self.add(f"{name}, distilled", seed, self._row(self._distilled(timed, seed)))
                self._straight_through(name, timed, seed)
            vgas = self._distilled(True, seed, unseeing=True)
            self.add("VGAS with time, distilled, blind", seed, lambda retain, vgas=vgas: blind(vgas, retain))
        return self.rows

    def _row(self, vgas: VGAS) -> Any:
        return lambda retain: omnisift(vgas, retain)

    def _distilled(self, timed: bool, seed: int, unseeing: bool = False) -> VGAS:
        vgas = selecting.new_selector(WIDTH, timed, seed)
        selecting.distil(vgas, self.targets, self.bank, replace(self.shop.settings, seed=seed), blind=unseeing)
        return vgas

    def _straight_through(self, name: str, timed: bool, seed: int) -> None:
        student, vgas = self.shop.model("language"), selecting.new_selector(WIDTH, timed, seed)
        settings = replace(self.shop.settings, seed=seed)
        selecting.straight_through(vgas, student, self.layout, self.shop.writer, self.bank, settings, self.steps)
        self.add(f"{name}, straight-through with the model", seed, self._row(vgas), student)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, fill the table, write it."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.training.compare", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/nano"), help="working folder of training.nano")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150, help="steps of the straight-through training")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    rows = Comparison(NanoBuild(options.out, NanoSettings()), options.seeds, options.steps).run()
    path = options.out / "compare.json"
    path.write_text(json.dumps({**provenance(), "steps": options.steps, "rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
