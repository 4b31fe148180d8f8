"""The controlled benchmark: one row of a recipe on one batch of test clips is one line of the result file.

Encoded clips are kept in the working folder, so that all rows and recipes share them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch

from omnisift.compressors import Compressor, make_compressor
from omnisift.compressors.random import seed_rows
from omnisift.errors import UnreachableBudget
from omnisift.evaluation.evidence_recall import Evidence
from omnisift.evaluation.packed_eval import Asked, Judge
from omnisift.evaluation.plan import QUESTION_STREAM, SPLIT, Job, Plan, encoded_path
from omnisift.evaluation.recipe import Row
from omnisift.pipeline.loading import load_host
from omnisift.vgas import VGAS
from omnisift.world import make_scene, questions, truth, world_setting
from omnisift.world.encoded import Encoded, encode_scenes

AT_ONCE = 50
"""Clips of one pass of the model."""


class BenchWorker:
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
        clips = self._encoded(host, setting, first, count)
        asked = [questions(s, np.random.default_rng((QUESTION_STREAM, s.number)), chosen.types) for s in scenes]
        encode = host.processor.tokenizer
        answers = torch.tensor([[encode(q.answer)["input_ids"][0] for q in qs] for qs in asked])
        evidence = Evidence.of(clips.modality, [truth(scene) for scene in scenes], asked)
        return clips, Asked.of(host.processor, [[q.text for q in qs] for qs in asked]), answers, evidence

    def _encoded(self, host: Any, setting: str, first: int, count: int) -> Encoded:
        """From the working folder; made and put there where it is missing or a shorter run left fewer clips."""
        path = encoded_path(self.plan, setting, first)
        clips = Encoded.load(path) if path.is_file() else None
        if clips is None or len(clips) < count:
            config = world_setting(setting).config
            clips = encode_scenes(host, [make_scene(seed, SPLIT, config) for seed in range(first, first + count)])
            clips.save(path)
        return clips.part(0, count)


def clip_seeds(seed: int, first: int, count: int) -> list[int]:
    """Each clip of each seed draws by a number of its own."""
    return [1_000_003 * seed + clip for clip in range(first, first + count)]


def pack(right: np.ndarray) -> str:
    """[clips, questions] bool, at most 8 questions -> two hexadecimal digits a clip."""
    return np.packbits(right, axis=1).tobytes().hex()


def unpack(text: str, each: int) -> np.ndarray:
    """[clips, questions] bool from `pack`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)[:, None], axis=1)[:, :each].astype(bool)
