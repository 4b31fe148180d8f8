"""What subtitles are worth: questions about clips read with sound, with lines of text, with both or with neither.

All conditions of a budget keep the same number of tokens of a clip: video, sound and lines together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from omnisift.budget import Budget, Counts
from omnisift.chunks import ChunkShapes
from omnisift.compressors import Compressor, make_compressor
from omnisift.exact_counts import exact_counts, exact_text
from omnisift.lab.benchmark.encoded import Encoded, encode_scenes
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.lab.benchmark.plan import QUESTION_STREAM
from omnisift.lab.training.clip_lines import LinePlaces, line_token
from omnisift.media import Media
from omnisift.media.lines import Line
from omnisift.pipeline.loading import load_host
from omnisift.tokens import Modality
from omnisift.vgas import VGAS
from omnisift.world import WIDE_TYPES, make_scene, questions, subtitles, world_setting

SETTING = "wide"
METHODS = ("resift", "omnisift")
SHARES = (0.25, 0.1, 0.05)
"""Totals, as shares of the video and audio tokens of a clip with sound."""
ALL = 1.0
"""The share that keeps everything; lines come on top of it."""


@dataclass(frozen=True)
class Condition:
    """How a clip is read."""

    sound: bool
    lines: str = ""
    """``right`` or a degradation of `omnisift.world.SUBTITLE_DEGRADATIONS`; empty has no lines."""
    pays: str = ""
    """Which modality has fewer tokens for the lines than without them: ``audio`` or ``video``; empty is the library's
    rule, by which both do."""
    retain_text: float = 1.0
    """Share of the lines' tokens that stays."""


CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "neither": Condition(sound=False),
        "sound": Condition(sound=True),
        "lines": Condition(sound=False, lines="right"),
        "both": Condition(sound=True, lines="right"),
        "both, sound pays": Condition(sound=True, lines="right", pays="audio"),
        "both, video pays": Condition(sound=True, lines="right", pays="video"),
        "both, half of the lines": Condition(sound=True, lines="right", retain_text=0.5),
        "wrong lines": Condition(sound=False, lines="wrong"),
        "both, wrong lines": Condition(sound=True, lines="wrong"),
        "late lines": Condition(sound=False, lines="late"),
        "both, late lines": Condition(sound=True, lines="late"),
    }
)
PLAIN = ("neither", "sound", "lines", "both")
"""Conditions that are measured with every method; the others with the first."""


@dataclass(frozen=True, repr=False)
class PaidBudget(Budget):
    """A number of tokens of one clip where one modality alone pays for the subtitles."""

    pays: str = "audio"
    """``audio`` or ``video``."""

    def counts(self, shapes: ChunkShapes) -> Counts:
        """Give the other modality what it has in the same clip without subtitles."""
        without = Budget(tokens=self.tokens).counts(replace(shapes, text=torch.zeros_like(shapes.text)))
        text = exact_text(shapes, self.tokens or 0, 1.0)
        video = int(without.frame0.sum() + without.frame1.sum()) - (int(text[0]) if self.pays == "video" else 0)
        rate = torch.tensor([video / int(shapes.frame0.sum() + shapes.frame1.sum())], dtype=torch.float64)
        return Counts(*exact_counts(shapes, self.tokens or 0, rate, text).unbind(dim=1))


def lined(clip: Encoded, lines: Sequence[Line], tokenizer: Any) -> Encoded:
    """One encoded clip with lines at their places; the evaluator embeds them.

    Args:
        clip: one clip, without lines.
        lines: in order of their start.
        tokenizer: the model's.

    Raises:
        UsageError: a line is not one token.
    """
    if not lines:
        return clip
    length, added = len(clip.ids), len(lines)
    places = LinePlaces.of(clip.modality, clip.position[0], clip.seconds_per_position)
    after, placed, shift = places.place(lines)
    order = torch.cat([2 * torch.arange(length), 2 * after + 1]).argsort(stable=True)
    position = clip.position + shift * (torch.arange(length) >= places.begin)
    ids = torch.tensor([line_token(line, tokenizer) for line in lines])
    kind = torch.full((added,), int(Modality.SUBTITLE), dtype=clip.modality.dtype)

    def joined(values: torch.Tensor, new: torch.Tensor, dim: int) -> torch.Tensor:
        return torch.cat([values, new], dim=dim).index_select(dim, order)

    return replace(
        clip,
        embeds=joined(clip.embeds, clip.embeds.new_zeros(1, added, clip.embeds.shape[2]), 1),
        modality=joined(clip.modality, kind, 0),
        position=joined(position, placed.expand(3, -1), 1),
        ids=joined(clip.ids, ids, 0),
        extras={name: joined(values, values.new_zeros(1, added), 1) for name, values in clip.extras.items()},
    )


class Study:
    """A backbone, and what it answers about test clips in all conditions.

    Args:
        backbone: folder of the checkpoint.
        selector: folder of the selector of ``omnisift``.
    """

    def __init__(self, backbone: Path, selector: Path) -> None:
        self.host = load_host(str(backbone), "cpu", None, None)
        self.evaluate = PackedEvaluator(self.host)
        self.selector = VGAS.from_pretrained(str(selector))
        self.selector.train(False)

    @torch.inference_mode()
    def clip(self, seed: int, split: str = "test") -> dict[str, dict[str, Any]]:
        """Ask a question of each type about one clip in every condition.

        Returns:
            Key (`key_of`) -> ``right``, a digit 0 or 1 for each type of `omnisift.world.WIDE_TYPES`; ``kept``, the
            kept tokens of video, audio and lines.
        """
        scene = make_scene(seed, split, world_setting(SETTING).config)
        asked = questions(scene, np.random.default_rng((QUESTION_STREAM, scene.number)), WIDE_TYPES)
        processor = self.host.processor
        packed = PackedQuestions.of(processor, [[question.text for question in asked]])
        due = torch.tensor([processor.tokenizer(question.answer).input_ids[0] for question in asked])
        with tempfile.TemporaryDirectory() as folder:
            clips = {
                sound: encode_scenes(self.host, [scene], files=Path(folder), seen=_heard if sound else _muted)
                for sound in (True, False)
            }
        result = {}
        for name, condition in CONDITIONS.items():
            degradation = None if condition.lines == "right" else condition.lines
            rows = subtitles(scene, degradation) if condition.lines else ()
            clip = lined(clips[condition.sound], rows, processor.tokenizer)
            for method, share in budgets_of(name):
                answers = self.evaluate(clip, packed, self._method(method, share, condition, clips[True]))
                right = "".join(str(int(hit)) for hit in answers.words[0] == due)
                kinds = torch.bincount(clip.modality[answers.keep[0]].long(), minlength=4)[1:].tolist()
                result[key_of(name, method, share)] = {"right": right, "kept": kinds}
        return result

    def _method(self, method: str, share: float, condition: Condition, full: Encoded) -> Compressor | None:
        if share == ALL:
            return None
        total = tokens_of(share, int(((full.modality == Modality.VIDEO) | (full.modality == Modality.AUDIO)).sum()))
        budget = Budget(tokens=total, retain_text=condition.retain_text)
        if condition.pays:
            budget = PaidBudget(tokens=total, pays=condition.pays)
        return make_compressor(method, budget, selector=self.selector).eval()


def _heard(media: Media) -> Media:
    return media


def _muted(media: Media) -> Media:
    return replace(media, waveform=None)


def budgets_of(name: str) -> list[tuple[str, float]]:
    """The methods and shares with which a condition is measured; with all tokens there is no method."""
    condition = CONDITIONS[name]
    everything = [] if condition.pays or condition.retain_text < 1 else [("", ALL)]
    methods = METHODS if name in PLAIN else METHODS[:1]
    return everything + [(method, share) for method in methods for share in SHARES]


def tokens_of(share: float, tokens: int) -> int:
    """The number of tokens that a share is."""
    return int(share * tokens + 0.5)


def key_of(condition: str, method: str, share: float) -> str:
    """The key of a result: ``both | resift | 0.1``."""
    return f"{condition} | {method} | {share:g}"
