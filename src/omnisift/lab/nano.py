"""``python -m omnisift.lab.nano``: train nano from nothing, stage by stage; run it again to resume.

Stages: ``encoders`` (both encoders), ``features`` (their outputs for all clips), ``language`` (the language model),
``selector`` (VGAS from the model's own attention), ``finetune`` (the model under compression), ``finish`` (the
checkpoint
folder). Each leaves its result and a marker in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from omnisift.lab.training import selector as selector_training
from omnisift.lab.training.encoder_training import train_encoders
from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache, encode_features
from omnisift.lab.training.language_model import TrainConfig, init_embeddings, train_language_model
from omnisift.lab.training.losses import Hints, LossWeights
from omnisift.lab.training.nano_model import WIDTH, build_model, build_processor
from omnisift.lab.training.packed import Writer, clip_layout
from omnisift.lab.training.selections import omnisift_selection, random_selection
from omnisift.lab.training.settings import NanoSettings
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.models import model_class
from omnisift.models.selector import new_selector
from omnisift.utils.atomic_io import atomic_file, write_atomic
from omnisift.utils.provenance import PACKAGES, provenance
from omnisift.vgas import VGAS
from omnisift.world import vocabulary

logger = logging.getLogger(__name__)
SHARD = 500
"""Clips per file of features."""


class NanoBuild:
    """The working folder of one run: the results and measurements of its stages.

    Args:
        out: working folder.
        settings: all numbers of the run.
        method: how the selector is trained: ``distill`` or ``straight_through``.
    """

    stages: ClassVar[tuple[str, ...]] = ("encoders", "features", "language", "selector", "finetune", "finish")
    """Names of the stages, which are methods, in order."""

    processes: ClassVar[int] = 2
    """Processes that encode clips."""

    weights: LossWeights = LossWeights()
    """Weights of the parts of the language model's loss."""

    def __init__(self, out: Path, settings: NanoSettings, method: str = "distill"):
        self.out, self.settings, self.method = out, settings, method
        out.mkdir(parents=True, exist_ok=True)
        self.tokenizer = self.make_tokenizer()
        self.writer = Writer(self.tokenizer)

    def make_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the questions."""
        return build_tokenizer(vocabulary())

    def run(self) -> None:
        """Run all stages in order; finished ones are skipped."""
        for name in self.stages:
            self.stage(name, getattr(self, name))

    def bundle(self, name: str) -> None:
        """Copy the finished checkpoint into the package."""
        target = Path(__file__).resolve().parents[1] / "checkpoints" / name
        shutil.copytree(self.out / "checkpoint", target, dirs_exist_ok=True)
        logger.info("bundled: %s", target)

    def stage(self, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Run ``work`` unless its marker exists; the marker holds its measurements and its minutes."""
        marker = self._marker(name)
        if marker.is_file():
            logger.info("%s: done before", name)
            done: dict[str, Any] = json.loads(marker.read_text(encoding="utf-8"))
            return done
        begin, cpu = time.monotonic(), time.process_time()
        result = work()
        result["minutes"] = round((time.monotonic() - begin) / 60, 2)
        result["cpu_minutes"] = round((time.process_time() - cpu) / 60, 2)
        write_atomic(marker, json.dumps(result, indent=1))
        logger.info("%s: %s", name, result)
        return result

    def _marker(self, name: str) -> Path:
        return self.out / f"{name}.json"

    def model(self, name: str) -> Any:
        """The model that stage ``name`` saved."""
        return load_thinker(self.out / name)

    def encoders(self) -> dict[str, Any]:
        """Stage 1: train both encoders."""
        model = build_model(self.tokenizer, self.settings.seed)
        result: dict[str, Any] = dict(train_encoders(model, self.settings))
        model.save_pretrained(self.out / "encoders")
        return result

    def features(self) -> dict[str, Any]:
        """Stage 2: encode all clips, on two processes, since rendering, writing and reading files takes most of the
        time."""
        settings = self.settings
        jobs = [("train", first, settings.decoded_share) for first in range(0, settings.train_clips, SHARD)]
        jobs += [("validation", first, 1.0) for first in range(0, settings.validation_clips, SHARD)]
        total = {"train": settings.train_clips, "validation": settings.validation_clips}
        self.encode([(split, first, min(SHARD, total[split] - first), share, "base") for split, first, share in jobs])
        return {"clips": total}

    def encode(self, jobs: list[tuple[str, int, int, float, str]]) -> None:
        """Write files of features; a job is split, first clip, clips, decoded share and setting."""
        with ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool:
            list(pool.map(_encode_shard, [(self.out, *job) for job in jobs]))

    def load_features(self, split: str, setting: str = "base") -> FeatureCache:
        """All features of a split and setting."""
        shards = sorted(self.out.glob(_shard_name(split, "*", setting)))
        parts = [load_file(str(path)) for path in shards]
        video, audio = (torch.cat([part[name] for part in parts]) for name in ("video", "audio"))
        return FeatureCache(split, int(shards[0].stem.rpartition("-")[2]), video, audio, setting)

    def language(self) -> dict[str, Any]:
        """Stage 3: train the language model."""
        settings, model, features = self.settings, self.model("encoders"), self.load_features("train")
        init_embeddings(model, self.tokenizer, features, settings.embedding_std, settings.seed)
        config = self._config(
            model, features, settings.steps, settings.learning_rate, settings.full_share, settings.retains
        )
        return self._train(model, config, "language")

    def selector(self) -> dict[str, Any]:
        """Stage 4: train selectors with and without time embedding, by distillation or with the paper's estimator."""
        settings, model = self.settings, self.model("language")
        features, check = self.load_features("train"), self.load_features("validation")
        layout, result = clip_layout(model, self.tokenizer), {}
        targets = selector_training.attention_targets(model, layout, self.writer, features, settings)
        for name, timed in (("selector-exact", False), ("selector", True)):
            vgas = new_selector(WIDTH, timed, settings.seed)
            if self.method == "straight_through":
                trained = self.model("language")
                selector_training.straight_through(
                    vgas, trained, layout, self.writer, features, settings, settings.selector_steps
                )
                if timed:
                    trained.save_pretrained(self.out / "language")
            else:
                selector_training.distill(vgas, targets, features, settings)
            vgas.save_pretrained(self.out / name)
            result[name] = {f"{r:g}": selector_training.kept_events(vgas, check, r) for r in (0.25, 0.15)}
        return result

    def finetune(self) -> dict[str, Any]:
        """Stage 5: fine-tune the language model under compression with the selector."""
        settings, model, features = self.settings, self.model("language"), self.load_features("train")
        vgas = self._selector()
        retains = (0.35, 0.25, 0.15)
        config = self._config(model, features, settings.finetune_steps, settings.finetune_learning_rate, 0.4, retains)
        return self._train(model, replace(config, selector=vgas, warmup_steps=20), "finetune")

    def finish(self) -> dict[str, Any]:
        """Stage 6: write the checkpoint folder with ``recipe.json``."""
        folder = self.out / "checkpoint"
        model, vgas = self.model("finetune"), self._selector()
        model.generation_config.max_new_tokens = 64
        model.save_pretrained(folder)
        build_processor(self.tokenizer).save_pretrained(folder)
        for name in ("selector", "selector-exact"):
            shutil.copytree(self.out / name, folder / name, dirs_exist_ok=True)
        result = self.measure(model, vgas)
        recipe = {
            "made_by": f"python -m omnisift.lab.nano --seed {self.settings.seed} --selector {self.method}",
            **recipe_provenance(),
        }
        recipe |= {"settings": self.settings.as_dict(), "selector": self.method, "measured": result}
        recipe["stages"] = {
            name: json.loads(self._marker(name).read_text(encoding="utf-8"))
            for name in self.stages[:-1]
            if self._marker(name).is_file()
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return result

    def measure(self, model: Any, vgas: VGAS) -> dict[str, Any]:
        """Accuracies on the validation clips, all of which went through files."""
        check, layout = self.load_features("validation"), clip_layout(model, self.tokenizer)
        selections = {"full": None} | {
            f"{name} {r:g}": make(r)
            for r in (0.35, 0.25, 0.15)
            for name, make in (("omnisift", lambda r: omnisift_selection(vgas, r)), ("random", random_selection))
        }
        result = {}
        for name, select in selections.items():
            result[name] = accuracies(model, layout, self.writer, check, select, clips=len(check))
            logger.info("%s: %s", name, format_accuracies(result[name]))
        return {name: {k: round(v, 4) for k, v in value.items()} for name, value in result.items()}

    def _selector(self) -> VGAS:
        vgas = VGAS.from_pretrained(str(self.out / "selector"))
        vgas.train(False)
        return vgas

    def _config(
        self,
        model: Any,
        features: FeatureCache,
        max_steps: int,
        learning_rate: float,
        full_share: float,
        retains: tuple[float, ...],
    ) -> TrainConfig:
        layout = clip_layout(model, self.tokenizer)
        return TrainConfig(
            features,
            layout,
            self.writer,
            self.settings,
            max_steps,
            learning_rate,
            full_share,
            retains,
            weights=self.weights,
        )

    def _train(self, model: Any, config: TrainConfig, name: str) -> dict[str, Any]:
        torch.manual_seed(self.settings.seed)
        check, hints = self.load_features("validation"), Hints(WIDTH, self.tokenizer)
        train_language_model(model, hints, config, check, self.out / f"{name}-steps")
        model.save_pretrained(self.out / name)
        return dict(accuracies(model, config.layout, self.writer, check, clips=len(check)))


def _shard_name(split: str, first: str, setting: str) -> str:
    return f"{split}-{first}.safetensors" if setting == "base" else f"{setting}-{split}-{first}.safetensors"


def _encode_shard(job: tuple[Path, str, int, int, float, str]) -> None:
    """Write one file of features; an existing file is kept."""
    out, split, first, count, share, setting = job
    path = out / _shard_name(split, f"{first:06d}", setting)
    if path.is_file():
        return
    torch.set_num_threads(1)
    model = load_thinker(out / "encoders").eval()
    with atomic_file(path) as unfinished:
        encode_features(model, split, count, share, first, setting).save(unfinished)


def load_thinker(folder: Path) -> Any:
    """The thinker of a checkpoint folder, of either family."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return model_class(config.model_type).from_pretrained(folder, trust_remote_code=False)


def recipe_provenance() -> dict[str, Any]:
    """Commit, versions and machine, for ``recipe.json``."""
    record = provenance()
    versions = {name: record[name] for name in PACKAGES}
    return {name: record[name] for name in ("commit", "python", "machine")} | {"versions": versions}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.lab.nano", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/nano"), help="working folder (default: build/nano)")
    parser.add_argument("--selector", choices=("distill", "straight_through"), default="distill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="run every stage in about a minute; learns nothing")
    parser.add_argument("--bundle", action="store_true", help="copy the result into the package")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)  # two threads on a busy two-core machine are several times slower than one
    settings = replace(NanoSettings.small() if options.small else NanoSettings(), seed=options.seed)
    build = NanoBuild(options.out, settings, options.selector)
    build.run()
    if options.bundle:
        build.bundle("nano")


if __name__ == "__main__":
    main()
