"""``python -m omnisift.lab.neutral``: train the benchmark's backbone, which never sees a compressed prompt.

nano's language model is trained with selections of STVP and fine-tuned under OmniSIFT, so a comparison of methods on it
would favour those. This one keeps nano's encoders and trains a new language model on all tokens only: first on the base
setting of the world, then on all its settings. Run it again to resume.
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

from omnisift.lab.nano import NanoBuild, recipe_provenance
from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache, encode_features
from omnisift.lab.training.language_model import ClipSource
from omnisift.lab.training.losses import LossWeights
from omnisift.lab.training.nano_model import build_model, build_processor, core_of
from omnisift.lab.training.packed import TYPE_WEIGHTS, clip_layout
from omnisift.lab.training.settings import NanoSettings
from omnisift.utils.assets import nano_path
from omnisift.utils.atomic_io import atomic_file
from omnisift.world import SETTINGS

logger = logging.getLogger(__name__)
STEPS, MIXED_STEPS, MIXED_RATE = 1300, 500, 1e-3
CLIPS, LONG_CLIPS, CHECKS = 400, 250, 50
"""Training clips of each setting, of the longest setting, and validation clips."""
HARD = tuple(name for name in SETTINGS if name != "base")


class NeutralBuild(NanoBuild):
    """A `NanoBuild` with other stages.

    Args:
        out: working folder.
        settings: all numbers of the run.
        mixed_steps: steps on clips of all settings.
        clips: training clips per setting.
    """

    stages: ClassVar[tuple[str, ...]] = ("encoders", "features", "language", "hard", "mixed", "finish")

    def __init__(self, out: Path, settings: NanoSettings, mixed_steps: int, clips: int) -> None:
        super().__init__(out, settings)
        self.mixed_steps, self.clips = mixed_steps, clips

    def encoders(self) -> dict[str, Any]:
        """Stage 1: nano's encoders with an untrained language model."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        model = build_model(self.tokenizer, self.settings.seed)
        nano = Thinker.from_pretrained(nano_path(), trust_remote_code=False)
        for name in ("visual", "audio_tower"):
            getattr(core_of(model), name).load_state_dict(getattr(core_of(nano), name).state_dict())
        model.save_pretrained(self.out / "encoders")
        return {"from": "nano"}

    def hard(self) -> dict[str, Any]:
        """Encode clips of the harder settings."""
        counts = {name: min(self.clips, LONG_CLIPS) if name == "long" else self.clips for name in HARD}
        work = [(self.out, name, "train", count, 0.4) for name, count in counts.items()]
        work += [(self.out, name, "validation", min(CHECKS, self.clips), 1.0) for name in HARD]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(_encode, work))
        return {"clips": counts}

    def mixed(self) -> dict[str, Any]:
        """Continue training on all settings; each step takes clips of one."""
        model = self.model("language")
        config = self._config(model, self.load_features("train"), self.mixed_steps, MIXED_RATE, 1.0, ())
        sources = tuple(self._source(model, name, "train") for name in SETTINGS)
        self._train(model, replace(config, sources=sources, warmup_steps=20), "mixed")
        return self.measure_settings(model)

    def measure_settings(self, model: Any) -> dict[str, Any]:
        """Accuracy with all tokens on validation clips of every setting."""
        result = {}
        for name in SETTINGS:
            source = self._source(model, name, "validation")
            accuracy = accuracies(
                model, source.layout, self.writer, source.features, clips=CHECKS, types=tuple(source.types)
            )
            logger.info("%s: %s", name, format_accuracies(accuracy))
            result[name] = {kind: round(value, 4) for kind, value in accuracy.items()}
        return result

    def finish(self) -> dict[str, Any]:
        """Write the checkpoint folder, in float32 like nano."""
        folder = self.out / "checkpoint"
        model = self.model("mixed")
        model.generation_config.max_new_tokens = 64
        model.save_pretrained(folder)
        build_processor(self.tokenizer).save_pretrained(folder)
        recipe = {
            "made_by": f"python -m omnisift.lab.neutral --seed {self.settings.seed}",
            **recipe_provenance(),
            "settings": self.settings.as_dict(),
            "stages": {
                name: json.loads((self.out / f"{name}.json").read_text(encoding="utf-8")) for name in self.stages[:-1]
            },
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return {}

    def _source(self, model: Any, name: str, split: str) -> ClipSource:
        setting = SETTINGS[name]
        features = (
            self.load_features(split)
            if name == "base"
            else FeatureCache.load(_file(self.out, name, split), split, 0, name)
        )
        layout = clip_layout(model, self.tokenizer, setting.config.seconds, setting.config.sound)
        return ClipSource(features, layout, {kind: TYPE_WEIGHTS[kind] for kind in setting.types})


def _file(out: Path, setting: str, split: str) -> Path:
    return out / f"hard-{setting}-{split}.safetensors"


def _encode(job: tuple[Path, str, str, int, float]) -> None:
    out, setting, split, count, share = job
    path = _file(out, setting, split)
    if path.is_file():
        return
    torch.set_num_threads(1)
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    with atomic_file(path) as unfinished:
        encoders = Thinker.from_pretrained(out / "encoders", trust_remote_code=False).eval()
        encode_features(encoders, split, count, share, 0, setting).save(unfinished)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.lab.neutral", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/neutral"), help="working folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="run every stage in about a minute; learns nothing")
    parser.add_argument("--bundle", action="store_true", help="copy the result into the package")
    parser.add_argument("--no-pointer", action="store_true", help="leave out the pointer loss")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps on the base setting")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    settings = replace(NanoSettings(), steps=options.steps, full_share=1.0)
    if options.small:
        settings = replace(NanoSettings.small(), full_share=1.0)
    steps, clips = (2, 25) if options.small else (MIXED_STEPS, CLIPS)
    build = NeutralBuild(options.out, replace(settings, seed=options.seed), steps, clips)
    if options.no_pointer:
        build.weights = LossWeights(pointer=0.0)
    build.run()
    if options.bundle:
        build.bundle("neutral")


if __name__ == "__main__":
    main()
