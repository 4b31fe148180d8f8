"""The controlled benchmark: every row of a recipe on the same test clips, in batches that can be interrupted.

The unit of work is one row on one batch of clips. Each finished unit is one line of the result file; a later run does
only what is missing. Encoded clips are kept in the working folder, so that all rows and recipes share them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.compressors import Compressor, make_compressor
from omnisift.compressors.random import seed_rows
from omnisift.errors import UnreachableBudget
from omnisift.evaluation.judge import Asked, Judge
from omnisift.evaluation.recipe import Recipe, Row
from omnisift.evaluation.survival import Evidence
from omnisift.pipeline.loading import load_host
from omnisift.vgas import VGAS
from omnisift.world import make_scene, questions, truth, world_setting
from omnisift.world.encoded import Encoded, encode_scenes

logger = logging.getLogger(__name__)
SPLIT, QUESTION_STREAM = "test", 11
BATCH, AT_ONCE = 250, 50
"""Clips of one unit of work, and of one pass of the model."""


@dataclass(frozen=True)
class Job:
    """One row on one batch of clips."""

    row: Row
    first: int
    count: int

    @property
    def key(self) -> tuple[str, int]:
        """What a finished job is known by."""
        return self.row.key, self.first


@dataclass(frozen=True)
class Plan:
    """A recipe with everything that it needs: the backbone, selectors, and models that were trained for a row."""

    recipe: Recipe
    backbone: str
    """Checkpoint folder."""
    folder: Path
    """Working folder: encoded clips are kept here."""
    selectors: Mapping[str, str] = field(default_factory=dict)
    """Name -> folder."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> checkpoint folder of its own language model."""
    own_selectors: Mapping[str, str] = field(default_factory=dict)
    """Key of a row -> selector that was trained together with its model."""

    def jobs(self, clips: int) -> Iterator[Job]:
        """Batch by batch, so that a worker stays with the clips that it has in memory."""
        rows = list(self.recipe.rows())
        for setting in self.recipe.settings:
            for first in range(0, clips, BATCH):
                count = min(BATCH, clips - first)
                yield from (Job(row, first, count) for row in rows if row.setting == setting)

    def missing(self, clips: int, done: Mapping[tuple[str, int], int]) -> list[Job]:
        """Jobs of which ``done`` (key -> clips) has not all clips: a shorter run before this one left them."""
        return [job for job in self.jobs(clips) if done.get(job.key, 0) < job.count]


def encoders_digest(checkpoint: Path) -> str:
    """12 hexadecimal digits: of a checkpoint's tensors other than the language model's, by name and value."""
    from safetensors import safe_open

    digest = hashlib.sha256()
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                if "visual" in name or "audio_tower" in name:
                    digest.update(name.encode())
                    digest.update(file.get_tensor(name).contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


class Workplace:
    """What one process needs, loaded when first used. Two batches of clips are kept in memory."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.batch = lru_cache(maxsize=2)(self._batch)
        self.judge = lru_cache(maxsize=2)(self._judge)
        self.selector = lru_cache(maxsize=4)(self._selector)

    def do(self, job: Job) -> dict[str, Any]:
        """The line of a result: answers right or wrong, what survived, and the time that the method took."""
        row = job.row
        clips, asked, answers, evidence = self.batch(row.setting, job.first, job.count)
        judge = self.judge(self.plan.models.get(row.key, self.plan.backbone))
        compressor = self.compressor(row)
        keeps, words, seconds = [], [], 0.0
        try:
            for first in range(0, job.count, AT_ONCE):
                part = clips.part(first, AT_ONCE)
                if compressor is not None:
                    seed_rows(compressor, clip_seeds(row.seed, job.first + first, len(part)))
                verdict = judge(part, asked.part(first, AT_ONCE), compressor)
                keeps.append(verdict.keep)
                words.append(verdict.words)
                seconds += verdict.seconds
        except UnreachableBudget as error:
            return {"row": row.key, "first": job.first, "clips": job.count, "unreachable": str(error)}
        right = (torch.cat(words) == answers).numpy()
        return {
            "row": row.key,
            "first": job.first,
            "clips": job.count,
            "right": pack(right),
            "kept": evidence.survived(torch.cat(keeps)),
            "ms": round(1000 * seconds / job.count, 3),
        }

    def compressor(self, row: Row) -> Compressor | None:
        """The row's method; None for all tokens."""
        if not row.way.method:
            return None
        named = row.way.selector and self.plan.selectors[row.way.selector]
        place = self.plan.own_selectors.get(row.key, named)
        selector = None if place is None else self.selector(place)
        return make_compressor(row.way.method, row.budget, selector=selector, seed=row.seed).eval()

    def _selector(self, place: str) -> VGAS:
        vgas: Any = VGAS.from_pretrained(place)
        loaded: VGAS = vgas.float().eval()
        return loaded

    def _judge(self, model: str) -> Judge:
        return Judge(load_host(model, "cpu", None, None))

    def _batch(self, setting: str, first: int, count: int) -> tuple[Encoded, Asked, torch.Tensor, Evidence]:
        chosen = world_setting(setting)
        host = self.judge(self.plan.backbone).host
        scenes = [make_scene(seed, SPLIT, chosen.config) for seed in range(first, first + count)]
        clips = self._encoded(setting, first, count)
        asked = [questions(s, np.random.default_rng((QUESTION_STREAM, s.number)), chosen.types) for s in scenes]
        encode = host.processor.tokenizer
        answers = torch.tensor([[encode(q.answer)["input_ids"][0] for q in qs] for qs in asked])
        evidence = Evidence.of(clips.modality, [truth(scene) for scene in scenes], asked)
        return clips, Asked.of(host.processor, [[q.text for q in qs] for qs in asked]), answers, evidence

    def _encoded(self, setting: str, first: int, count: int) -> Encoded:
        """From the working folder, or made and put there, ``BATCH`` clips a file."""
        path = self._place(setting, first)
        if not path.is_file():
            encode_batch(self.plan, setting, first, count)
        clips = Encoded.load(path)
        if len(clips) < count:
            encode_batch(self.plan, setting, first, count)
            clips = Encoded.load(path)
        return clips.part(0, count)

    def _place(self, setting: str, first: int) -> Path:
        return encoded_path(self.plan, setting, first)


def encoded_path(plan: Plan, setting: str, first: int) -> Path:
    """Where a batch of encoded clips lies: named by the encoders and the scene, so that a change makes new files."""
    chosen = world_setting(setting)
    scene = make_scene(first, SPLIT, chosen.config).fingerprint()[:12]
    return plan.folder / "clips" / f"{setting}-{first:06d}-{scene}-{encoders_digest(Path(plan.backbone))}.safetensors"


def encode_batch(plan: Plan, setting: str, first: int, count: int) -> None:
    """Encode one batch of test clips into the working folder."""
    host = load_host(plan.backbone, "cpu", None, None)
    config = world_setting(setting).config
    scenes = [make_scene(seed, SPLIT, config) for seed in range(first, first + count)]
    encode_scenes(host, scenes).save(encoded_path(plan, setting, first))


def clip_seeds(seed: int, first: int, count: int) -> list[int]:
    """Each clip of each seed draws by a number of its own."""
    return [1_000_003 * seed + clip for clip in range(first, first + count)]


def pack(right: np.ndarray) -> str:
    """[clips, questions] bool, at most 8 questions -> two hexadecimal digits a clip."""
    return np.packbits(right, axis=1).tobytes().hex()


def unpack(text: str, each: int) -> np.ndarray:
    """[clips, questions] bool from `pack`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)[:, None], axis=1)[:, :each].astype(bool)


_workplace: list[Workplace] = []


def _begin(plan: Plan) -> None:
    """In each worker: one thread, one workplace."""
    torch.set_num_threads(1)
    _workplace[:] = [Workplace(plan)]


def _do(job: Job) -> dict[str, Any]:
    return _workplace[0].do(job)


def run(
    plan: Plan,
    clips: int,
    done: Mapping[tuple[str, int], int],
    finished: Callable[[dict[str, Any]], None],
    workers: int = 2,
) -> None:
    """Do all jobs that are not ``done`` (key -> clips), and hand each line to ``finished`` as it comes.

    ``workers`` processes of one thread each; 0 works in this process. An interruption loses the units at work only.
    """
    jobs = plan.missing(clips, done)
    if not jobs:
        return
    if workers == 0:
        _begin(plan)
        for job in jobs:
            finished(_do(job))
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(plan,))
    try:
        for line in _in_order(pool, _interleaved(jobs, workers), workers):
            finished(line)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _interleaved(jobs: list[Job], workers: int) -> list[list[Job]]:
    """One list a worker: whole batches, dealt in turn, so that no two workers load the same clips."""
    batches: dict[tuple[str, int], list[Job]] = {}
    for job in jobs:
        batches.setdefault((job.row.setting, job.first), []).append(job)
    lists: list[list[Job]] = [[] for _ in range(workers)]
    for batch in sorted(batches.values(), key=len, reverse=True):
        min(lists, key=len).extend(batch)
    return lists


def _in_order(pool: ProcessPoolExecutor, lists: list[list[Job]], workers: int) -> Iterator[dict[str, Any]]:
    """Lines as they come. Each list is in work at one place at a time."""
    queues = [iter(jobs) for jobs in lists]
    pending: dict[Future[dict[str, Any]], Iterator[Job]] = {}
    for queue in queues[:workers]:
        for job in islice(queue, 1):
            pending[pool.submit(_do, job)] = queue
    while pending:
        ready, _ = wait(pending, return_when=FIRST_COMPLETED)
        for future in ready:
            queue = pending.pop(future)
            for job in islice(queue, 1):
                pending[pool.submit(_do, job)] = queue
            yield future.result()


def settings_of(plan: Plan) -> dict[str, Any]:
    """What must be equal for two lines to belong to one result."""
    recipe = plan.recipe.as_dict()
    recipe.pop("clips")
    plain: dict[str, Any] = json.loads(
        json.dumps(
            {
                "recipe": recipe,
                "split": SPLIT,
                "question_stream": QUESTION_STREAM,
                "backbone": tensors_digest(Path(plan.backbone)),
                "selectors": {name: tensors_digest(Path(place)) for name, place in sorted(plan.selectors.items())},
                "worlds": {
                    name: make_scene(0, SPLIT, world_setting(name).config).fingerprint()[:16]
                    for name in plan.recipe.settings
                },
            }
        )
    )
    return plain


def tensors_digest(folder: Path) -> str:
    """16 hexadecimal digits: SHA-256 of the folder's own safetensors files."""
    files = sorted(folder.glob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]
