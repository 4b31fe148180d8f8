"""The work of `omnisift bench-quality`: prepare what a recipe needs, run it, write one result file.

Every step can be resumed. The working folder holds encoded clips, distilled selectors and fine-tuned models, each
named by a digest of its inputs, so that recipes share them.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.lab.benchmark.journal import Journal
from omnisift.lab.benchmark.plan import Plan, encoders_digest, settings_of, tensors_digest
from omnisift.lab.benchmark.recipe import Recipe, RecipeRow, load_recipe
from omnisift.lab.benchmark.workers import end_with_parent, run, stop
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.training.losses import ANSWERS
from omnisift.utils.atomic_io import atomic_folder
from omnisift.utils.checkpoint_files import read_json_object
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries

PLAIN = [ANSWERS, None]
"""Loss and falling budget of models that are named without them."""
SHARD = 160
"""Number of training clips in one encoded file."""


@dataclass(frozen=True)
class Bench:
    """Settings of `bench-quality`, apart from the recipe."""

    backbone: Path
    work: Path
    out: Path
    workers: int
    clips: int | None
    progress: Callable[[str, int, int], AbstractContextManager[Callable[[], None]]]
    """Title, total and finished pieces -> a context that gives the function to call after each piece."""

    @property
    def learned(self) -> Path:
        """Folder of selectors and models trained from this backbone."""
        return self.work / f"backbone-{tensors_digest(self.backbone)}"

    def run_recipe(self, path: Path) -> Path:
        """Prepare and run one recipe; returns the path of the result file."""
        recipe = load_recipe(path)
        clips = recipe.clips if self.clips is None else self.clips
        selectors = self._selectors(recipe)
        models, own_selectors = self._models(recipe, selectors) if recipe.protocol == "trained" else ({}, {})
        plan = Plan(recipe, str(self.backbone), self.work, selectors, models, own_selectors)
        result = self.out / f"{recipe.name}.jsonl"
        journal = Journal(result, settings_of(plan), key=line_key)
        done = {line_key(record): int(record["clips"]) for record in journal.records.values()}
        total = sum(1 for job in plan.jobs(clips))
        missing = len(plan.missing(clips, done))
        software = provenance()
        if missing:
            journal.note({"session": software})
        with self.progress(f"{recipe.name}: rows x batches", total, total - missing) as step:

            def finished(line: dict[str, Any]) -> None:
                journal.add(line)
                step()

            start = time.monotonic()
            run(plan, clips, done, finished, self.workers)
        if missing:
            spent = {"minutes": round((time.monotonic() - start) / 60, 2), "pieces": missing, "workers": self.workers}
            journal.note({"session": software | spent})
        return result

    def _selectors(self, recipe: Recipe) -> dict[str, str]:
        """Name -> folder of each selector in the recipe; those that the backbone lacks are distilled from it."""
        from omnisift.lab.training.protocol import selector_config

        names = sorted({method.selector for method in recipe.methods if method.selector})
        bundled = {name: self.backbone / name for name in names}
        folders = {
            name: bundled[name] if bundled[name].is_dir() else self.learned / "selectors" / name for name in names
        }
        missing = [name for name, folder in folders.items() if not (folder / "config.json").is_file()]
        if missing:
            for name in missing:
                selector_config(name)  # raises for a name of another form
            self._training_clips()
            tasks = [(_distill_selector, self.backbone, self.work, name, folders[name]) for name in missing]
            self._run_all(tasks, "distilling selectors from the backbone's attention")
        return {name: str(folder) for name, folder in folders.items()}

    def _models(self, recipe: Recipe, selectors: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
        """Row -> folder of its language model, and row -> folder of its selector where both are trained together."""
        unknown = sorted(recipe.train.keys() - {"steps"})
        if unknown or not isinstance(recipe.train.get("steps"), int):
            raise UsageError(f"recipe {recipe.name!r} has protocol trained: give train: {{steps: N}} and nothing else")
        steps = recipe.train["steps"]
        names = {row.key: _folder_name(row, selectors) for row in recipe.rows()}
        rows = {names[row.key]: row for row in recipe.rows()}
        folders = {name: self.learned / "trained" / f"{steps}" / name for name in rows}
        missing = [name for name, folder in folders.items() if not (folder / "done").is_file()]
        if missing:
            self._training_clips()
            tasks = [(_tune, self.backbone, self.work, rows[p], selectors, steps, folders[p]) for p in missing]
            self._run_all(tasks, f"training the backbone under each method, {steps} steps")
        models = {key: str(folders[name]) for key, name in names.items()}
        own_selectors = {
            row.key: str(folders[names[row.key]] / "selector") for row in recipe.rows() if row.method.straight_through
        }
        return models, own_selectors

    def _training_clips(self) -> None:
        from omnisift.lab.training.protocol import CLIPS

        kind = read_json_object(self.backbone / "config.json").get("model_type")
        if kind not in Qwen25OmniAdapter.model_types:
            raise UsageError(
                f"{self.backbone.name} is of model_type {kind!r}, but only Qwen2.5-Omni is trained here: leave out "
                "protocol trained, and name a selector that the backbone's folder has"
            )
        firsts = [first for first in range(0, CLIPS, SHARD) if not _shard(self.work, self.backbone, first).is_file()]
        self._run_all([(_encode, self.backbone, self.work, first) for first in firsts], "encoding training clips")

    def _run_all(self, tasks: list[tuple[Any, ...]], title: str) -> None:
        """Run ``tasks``, each a function and its arguments, on the worker processes."""
        with self.progress(title, len(tasks), 0) as step:
            if self.workers == 0:
                for function, *arguments in tasks:
                    function(*arguments)
                    step()
                return
            pool = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_one_thread)
            try:
                for future in as_completed([pool.submit(*task) for task in tasks]):
                    future.result()
                    step()
            except BaseException:
                stop(pool)
                raise
            pool.shutdown()


def line_key(record: dict[str, Any]) -> tuple[str, int]:
    """Key of a result line: its row and its first clip."""
    return str(record["row"]), int(record["first"])


def _folder_name(row: RecipeRow, selectors: dict[str, str]) -> str:
    """Folder name for a row of the trained protocol: its label and a digest of everything the model depends on.

    Settings and seeds share a model; another method under the same label does not.
    """
    selector = tensors_digest(Path(selectors[row.method.selector])) if row.method.selector else ""
    budget = (row.video, row.audio) if row.method.method else ()
    how = [row.method.loss, row.method.retain_start]
    what = repr((row.method.method, selector, row.method.straight_through, budget, *(how if how != PLAIN else ())))
    label = "".join(letter if letter.isalnum() or letter in "-.+" else "_" for letter in row.method.label)
    return f"{label}-{hashlib.sha256(what.encode()).hexdigest()[:10]}"


def _shard(work: Path, backbone: Path, first: int) -> Path:
    return work / "clips" / f"train-{first:06d}-{encoders_digest(backbone)}.safetensors"


def _one_thread() -> None:
    import logging

    import torch

    end_with_parent()
    torch.set_num_threads(1)
    silence_libraries()
    logging.disable(logging.WARNING)


def _encode(backbone: Path, work: Path, first: int) -> None:
    from omnisift.lab.benchmark.encoded import encode_scenes
    from omnisift.pipeline.loading import load_host
    from omnisift.world import make_scene

    scenes = [make_scene(seed, "train") for seed in range(first, first + SHARD)]
    encode_scenes(load_host(str(backbone), "cpu", None, None), scenes).save(_shard(work, backbone, first))


def _protocol(backbone: Path, work: Path) -> Any:
    from omnisift.lab.benchmark.encoded import Encoded
    from omnisift.lab.training.protocol import CLIPS, TrainedProtocol

    parts = [Encoded.load(_shard(work, backbone, first)) for first in range(0, CLIPS, SHARD)]
    return TrainedProtocol(backbone, Encoded.join(parts))


def _distill_selector(backbone: Path, work: Path, name: str, folder: Path) -> None:
    with atomic_folder(folder) as unfinished:  # an interrupted save must not look like a selector
        _protocol(backbone, work).distill(name).save_pretrained(unfinished)


def _tune(backbone: Path, work: Path, row: RecipeRow, selectors: dict[str, str], steps: int, folder: Path) -> None:
    from omnisift.compressors import make_compressor
    from omnisift.errors import UnreachableBudget
    from omnisift.vgas import VGAS

    protocol = _protocol(backbone, work)
    folder.mkdir(parents=True, exist_ok=True)
    compressor = None
    if row.method.straight_through:
        model, vgas = protocol.straight_through(row.method.selector or "cross", steps)
        vgas.save_pretrained(folder / "selector")
    else:
        if row.method.method:
            selector = VGAS.from_pretrained(selectors[row.method.selector]) if row.method.selector else None
            compressor = make_compressor(row.method.method, row.budget, selector=selector)
        try:
            model = protocol.tune(compressor, steps, folder / "steps", row.method.loss, row.method.retain_start)
        except UnreachableBudget:  # the benchmark records this error in the row
            model = protocol.model()
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((backbone / name).read_bytes())
    (folder / "done").write_text("", encoding="utf-8")


def summary(path: Path) -> dict[str, Any]:
    """Row -> mean accuracy of a result file."""
    from omnisift.lab.benchmark.results import read_result

    return {row.key: row.accuracy for row in read_result(path).rows if row.accuracy is not None}
