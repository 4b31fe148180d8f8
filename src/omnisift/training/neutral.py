"""``python -m omnisift.training.neutral``: the benchmark's backbone, which has never seen a compressed prompt.

nano's language model was taught with selections of STVP and fine-tuned under OmniSIFT, so a table of methods on it
would favour those. This one keeps nano's encoders and learns a new language model from all tokens only: first on the
plain world, then on all its settings, so that it knows what harder clips look like. Run it again to go on.
"""

from __future__ import annotations

import argparse
import json
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import torch

from omnisift.assets import nano_path
from omnisift.training.evaluate import accuracies, in_words
from omnisift.training.feature_cache import FeatureCache, encode_bank
from omnisift.training.host import core_of
from omnisift.training.language_model import Course
from omnisift.training.losses import LossWeights
from omnisift.training.nano import NanoBuild, provenance
from omnisift.training.nano_model import build_model, build_processor
from omnisift.training.packed import TYPE_WEIGHTS, clip_layout
from omnisift.training.settings import NanoSettings
from omnisift.world import SETTINGS

logger = logging.getLogger(__name__)
STEPS, MIXED_STEPS, MIXED_RATE = 1300, 500, 1e-3
CLIPS, LONG_CLIPS, CHECKS = 400, 250, 50
"""Training clips of each setting, of the longest one, and validation clips."""
HARD = tuple(name for name in SETTINGS if name != "base")


class NeutralBuild(NanoBuild):
    """nano's workshop with other stages."""

    stages: ClassVar[tuple[str, ...]] = ("encoders", "features", "language", "hard", "mixed", "finish")

    def __init__(self, out: Path, settings: NanoSettings, mixed_steps: int, clips: int) -> None:
        super().__init__(out, settings)
        self.mixed_steps, self.clips = mixed_steps, clips

    def encoders(self) -> dict[str, Any]:
        """nano's own encoders under an untrained language model."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        model, nano = build_model(self.tokenizer, self.settings.seed), Thinker.from_pretrained(nano_path())
        for name in ("visual", "audio_tower"):
            getattr(core_of(model), name).load_state_dict(getattr(core_of(nano), name).state_dict())
        model.save_pretrained(self.out / "towers")
        return {"from": "nano"}

    def hard(self) -> dict[str, Any]:
        """What the encoders say about clips of the harder settings."""
        counts = {name: min(self.clips, LONG_CLIPS) if name == "long" else self.clips for name in HARD}
        work = [(self.out, name, "train", count, 0.4) for name, count in counts.items()]
        work += [(self.out, name, "validation", min(CHECKS, self.clips), 1.0) for name in HARD]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(_encode, work))
        return {"clips": counts}

    def mixed(self) -> dict[str, Any]:
        """The language model goes on with clips of all settings, each step with those of one."""
        model = self.model("language")
        lesson = self._lesson(model, self.bank("train"), self.mixed_steps, MIXED_RATE, 1.0, ())
        courses = tuple(self._course(model, name, "train") for name in SETTINGS)
        self._teach(model, replace(lesson, courses=courses, warmup=20), "mixed")
        return self.measure_settings(model)

    def measure_settings(self, model: Any) -> dict[str, Any]:
        """Accuracy with all tokens on validation clips of every setting."""
        result = {}
        for name in SETTINGS:
            course = self._course(model, name, "validation")
            found = accuracies(model, course.layout, self.writer, course.bank, clips=CHECKS, types=tuple(course.types))
            logger.info("%s: %s", name, in_words(found))
            result[name] = {kind: round(value, 4) for kind, value in found.items()}
        return result

    def finish(self) -> dict[str, Any]:
        """The checkpoint folder; weights in float32, as nano's."""
        folder = self.out / "checkpoint"
        model = self.model("mixed")
        model.generation_config.max_new_tokens = 64
        model.save_pretrained(folder)
        build_processor(self.tokenizer).save_pretrained(folder)
        recipe = {
            "made_by": f"python -m omnisift.training.neutral --seed {self.settings.seed}",
            **provenance(),
            "settings": self.settings.as_dict(),
            "stages": {
                name: json.loads((self.out / f"{name}.json").read_text(encoding="utf-8")) for name in self.stages[:-1]
            },
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return {}

    def _course(self, model: Any, name: str, split: str) -> Course:
        setting = SETTINGS[name]
        bank = self.bank(split) if name == "base" else FeatureCache.load(_file(self.out, name, split), split, 0, name)
        layout = clip_layout(model, self.tokenizer, setting.config.seconds, setting.config.sound)
        return Course(bank, layout, {kind: TYPE_WEIGHTS[kind] for kind in setting.types})


def _file(out: Path, setting: str, split: str) -> Path:
    return out / f"hard-{setting}-{split}.safetensors"


def _encode(job: tuple[Path, str, str, int, float]) -> None:
    out, setting, split, count, share = job
    path = _file(out, setting, split)
    if path.is_file():
        return
    torch.set_num_threads(1)
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    part = path.with_suffix(".part")
    encode_bank(Thinker.from_pretrained(out / "towers").eval(), split, count, share, 0, setting).save(part)
    part.rename(path)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.training.neutral", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/neutral"), help="working folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a minute's run of every stage that learns nothing")
    parser.add_argument("--bundle", action="store_true", help="put the result into the package")
    parser.add_argument("--no-pointer", action="store_true", help="leave out the loss that points at the evidence")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps on the plain world")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    settings = replace(NanoSettings(), steps=options.steps, full_share=1.0)
    if options.small:
        settings = replace(NanoSettings.small(), full_share=1.0)
    steps, clips = (2, 25) if options.small else (MIXED_STEPS, CLIPS)
    shop = NeutralBuild(options.out, replace(settings, seed=options.seed), steps, clips)
    if options.no_pointer:
        shop.weights = LossWeights(pointer=0.0)
    shop.run()
    if options.bundle:
        shop.bundle("neutral")


if __name__ == "__main__":
    main()
