"""Worker of the controlled benchmark: it measures one row of a recipe on one batch of test clips.

Encoded clips are kept in the working folder, so that all rows and recipes share them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from omnisift.budget import Budget, Counts
from omnisift.compressors import Compressor, make_compressor
from omnisift.compressors.random import seed_rows
from omnisift.errors import CompressorError, UnreachableBudget
from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.encoded import Encoded, encode_scenes
from omnisift.lab.benchmark.evidence_recall import Evidence
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.lab.benchmark.plan import QUESTION_STREAM, Job, Plan, encoded_path
from omnisift.lab.benchmark.recipe import RecipeRow
from omnisift.models import adapter_for
from omnisift.pipeline.loading import load_host
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.vgas import VGAS
from omnisift.world import make_scene, questions, truth

AT_ONCE = 50
"""Clips in one forward pass of the model, fewer where a clip has more than a thousand tokens."""


class BenchWorker:
    """State of one worker process; models, selectors and two batches of clips are loaded on first use."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.batch = lru_cache(maxsize=2)(self._batch)
        self.evaluator = lru_cache(maxsize=2)(self._evaluator)
        self.selector = lru_cache(maxsize=4)(self._selector)

    def do(self, job: Job) -> dict[str, Any]:
        """Return one line of the result file: correct answers, kept evidence and the method's time per clip."""
        row = job.row
        clips, asked_questions, answers, evidence = self.batch(row.setting, job.first, job.count)
        evaluator = self.evaluator(self.plan.models.get(row.key, self.plan.backbone))
        compressor = self.compressor(row)
        condition = Condition.parse(row.setting)
        offset = condition.offset(clips) if condition.shift else None
        keeps, words, seconds = [], [], 0.0
        at_once = max(1, min(AT_ONCE, int(AT_ONCE * (1000 / clips.embeds.shape[1]) ** 2)))
        try:
            for first in range(0, job.count, at_once):
                part = clips.part(first, at_once)
                # Random draws depend on the clip's number, not on the batch that it is in.
                if compressor is not None:
                    seed_rows(compressor, clip_seeds(row.seed, job.first + first, len(part)))
                answered = evaluator(part, asked_questions.part(first, at_once), compressor, offset)
                keeps.append(answered.keep)
                words.append(answered.words)
                seconds += answered.seconds
        except UnreachableBudget as error:
            return {"row": row.key, "first": job.first, "clips": job.count, "unreachable": str(error)}
        right = (torch.cat(words) == answers).numpy()
        return {
            "row": row.key,
            "first": job.first,
            "clips": job.count,
            "right": pack(right),
            "kept": evidence.kept_counts(torch.cat(keeps)),
            "ms": round(1000 * seconds / job.count, 3),
        }

    def compressor(self, row: RecipeRow) -> Compressor | None:
        """Return the row's method; None for all tokens."""
        spec = row.method
        if spec.only:
            return OneSense(row.budget, spec.only).eval()
        if not spec.method:
            return None
        # A selector that was trained together with the row's model takes precedence over the recipe's.
        named = spec.selector and self.plan.selectors[spec.selector]
        folder = self.plan.own_selectors.get(row.key, named)
        selector = None if folder is None else self.selector(folder)
        compressor = make_compressor(spec.method, row.budget, selector=selector, seed=row.seed)
        return (ShuffledVideo(compressor) if spec.shuffled_video else compressor).eval()

    def _selector(self, folder: str) -> VGAS:
        vgas: Any = VGAS.from_pretrained(folder)
        loaded: VGAS = vgas.float().eval()
        return loaded

    def _evaluator(self, model: str) -> PackedEvaluator:
        return PackedEvaluator(load_host(model, "cpu", None, None))

    def _batch(self, setting: str, first: int, count: int) -> tuple[Encoded, PackedQuestions, torch.Tensor, Evidence]:
        condition = Condition.parse(setting)
        chosen = condition.world
        host = self.evaluator(self.plan.backbone).host
        scenes = [make_scene(seed, self.plan.recipe.split, chosen.config) for seed in range(first, first + count)]
        clips = condition.noisy(self._encoded(host, condition, first, count), first)
        asked_questions = [
            questions(s, np.random.default_rng((QUESTION_STREAM, s.number)), chosen.types) for s in scenes
        ]
        # Every answer is one word: its first token decides.
        encode = host.processor.tokenizer
        answers = torch.tensor([[encode(q.answer)["input_ids"][0] for q in qs] for qs in asked_questions])
        rate = adapter_for(host.thinker).audio_tokens(100)  # of a second
        truths = [truth(scene, rate) for scene in scenes] if condition.as_drawn else None
        evidence = Evidence.of(clips.modality, truths, asked_questions)
        return (
            clips,
            PackedQuestions.of(host.processor, [[q.text for q in qs] for qs in asked_questions]),
            answers,
            evidence,
        )

    def _encoded(self, host: Any, condition: Condition, first: int, count: int) -> Encoded:
        """Load clips from the working folder; encode them where the file is missing or has fewer clips."""
        path = encoded_path(self.plan, condition, first)
        clips = Encoded.load(path) if path.is_file() else None
        if clips is None or len(clips) < count:
            config, split = condition.world.config, self.plan.recipe.split
            scenes = [make_scene(seed, split, config) for seed in range(first, first + count)]
            worlds = [Condition.parse(name).setting for name in self.plan.recipe.settings]
            again = worlds.count(condition.setting) > 1  # another condition reads the same files
            files = self.plan.folder / "files" if again else None
            clips = encode_scenes(host, scenes, condition.fps, condition.pixels or None, files, condition.seen)
            clips.save(path)
        return clips.part(0, count)


class OneSense(Compressor):
    """Baseline: keep every token of one sense and none of the other, or no token of the clip at all.

    Args:
        budget: Ignored.
        sense: ``video``, ``audio``, or ``question`` for neither.
    """

    name: ClassVar[str] = "one-sense"

    def __init__(self, budget: Budget, sense: str) -> None:
        super().__init__(budget)
        self.kept = {"video": Modality.VIDEO, "audio": Modality.AUDIO}.get(sense, Modality.TEXT)

    def select(self, stream: TokenStream, counts: Counts) -> Selection:  # noqa: ARG002 - the budget is ignored
        """Keep the tokens of the sense, and all text."""
        return Selection(keep=(stream.modality == self.kept) | (stream.modality == Modality.TEXT))


class ShuffledVideo(Compressor):
    """Control for guidance by video: select audio by the video of the previous clip of the batch.

    Video is selected as usual. The accuracy lost against ``inner`` is due to guidance by video; what remains is due to
    the audio alone.

    Args:
        inner: The method.
    """

    name: ClassVar[str] = "shuffled-video"

    def __init__(self, inner: Compressor) -> None:
        super().__init__(inner.budget)
        self.inner = inner

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Run ``inner`` on the true stream for video, and on the stream with exchanged video for audio.

        Args:
            stream: At least two clips, all with the same number of video tokens.
            counts: Kept tokens of every chunk.

        Raises:
            CompressorError: The batch has one clip, or clips of different lengths.
        """
        video = stream.modality == Modality.VIDEO
        per_clip = torch.bincount(stream.sample[video])
        if len(per_clip) < 2 or len(set(per_clip.tolist())) > 1:
            raise CompressorError(
                f"the control needs two clips or more with equal video tokens, got {per_clip.tolist()}: "
                "change the number of clips"
            )
        # Give every clip the video of the previous one.
        embeds = stream.embeds.clone()
        embeds[video] = embeds[video].view(len(per_clip), -1, embeds.shape[1]).roll(1, 0).flatten(0, 1)
        keep = self.inner.select(stream, counts).keep
        shuffled = self.inner.select(replace(stream, embeds=embeds), counts).keep
        return Selection(keep=torch.where(stream.modality == Modality.AUDIO, shuffled, keep))


def clip_seeds(seed: int, first: int, count: int) -> list[int]:
    """Return the random seed of each clip, different for every pair of clip and seed."""
    return [1_000_003 * seed + clip for clip in range(first, first + count)]


def pack(right: np.ndarray) -> str:
    """Encode [clips, questions] bool as two hexadecimal digits per clip for every eight questions."""
    return np.packbits(right, axis=1).tobytes().hex()


def unpack(text: str, each: int) -> np.ndarray:
    """Decode [clips, questions] bool from `pack`; ``each`` is the number of questions per clip."""
    rows = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, math.ceil(each / 8))
    return np.unpackbits(rows, axis=1)[:, :each].astype(bool)
