"""What static scales by modality are worth: accuracy of fake-quantised language models. (Twenty minutes; resumes.)

    python benchmarks/accuracy/scales.py --out benchmarks/results/scales.json
    python benchmarks/accuracy/scales.py --table        # the tables of docs/small-machines.md

Nano's world and ``wide``, each read by its own backbone: scales are calibrated on validation clips, and the first test
clips are asked one question of each type; the first word of an answer counts. Weights and inputs of all linear layers
of the language model are rounded to the grid of a few bits in float arithmetic (`omnisift.fake_quantized`). All
conditions get the same questions, so that differences are paired, with intervals over clips. What was answered is kept
in ``--work``, from which an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from omnisift.budget import Counts
from omnisift.calibration import Scales, fake_quantized
from omnisift.calibration.linears import PADDING, TokenModality
from omnisift.calibration.ranges import RangeCollector
from omnisift.calibration.scales import Calibration
from omnisift.compressors import Compressor, make_compressor
from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import pct, pct_with_interval, points
from omnisift.evaluation.tables import table as markdown
from omnisift.lab.benchmark.encoded import Encoded, encode_scenes
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.lab.benchmark.plan import QUESTION_STREAM, tensors_digest
from omnisift.models.prompt_cut import PromptCut
from omnisift.pipeline.loading import load_host
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import make_scene, questions, world_setting

WORLDS = {"nano": "base", "wide": "wide"}
"""Backbone -> setting of its world."""
TITLES = {"nano": "nano", "wide": "`wide`"}
CLIPS = {"nano": 120, "wide": 50}
"""Backbone -> test clips."""
METHOD = "resift"
ALL = 1.0
SHARES = (ALL, 0.25, 0.1)
"""Shares of the video and audio tokens that are kept; `ALL` has no method."""
FULL_BITS = 16
"""Bits of what is not rounded."""
BITS = ((8, 8), (8, 4), (4, 4), (16, 4), (16, 3))
"""Bits of weights and activations."""
LARGEST_ALONE = ((8, 8), (8, 4))
"""Bits with which static scales cover the largest value alone."""
BOTH_SOURCES = ((16, 4),)
"""Bits with which static scales are also calibrated with all tokens."""
STATISTICS = ("largest", "percentile")
STATIC = ("tensor", "modality")
"""Granularities of static scales."""
NAMES: dict[Any, str] = {
    "tensor": "one scale",
    "modality": "by modality",
    "largest": "largest",
    "percentile": "99.9 %",
    **{share: f"{100 * share:g} %" for share in SHARES},
    ALL: "all tokens",
}
"""Of values in tables."""
KINDS = ("text", "video", "audio")
CALIBRATION_CLIPS = 16
"""Validation clips of each world with which scales are made."""
AT_ONCE = 10
"""Clips that are read together."""


@dataclass(frozen=True)
class Condition:
    """How the language model is rounded."""

    weights: int = 16
    activations: int = 16
    granularity: str = ""
    """As `fake_quantized` has it; empty rounds nothing."""
    statistic: str = ""
    """Of static scales."""
    source: str = ""
    """Of static scales: ``kept`` calibrates with the tokens that the budget keeps, ``all`` with all tokens."""

    @property
    def bits(self) -> str:
        """``W8A4``."""
        return f"W{self.weights}A{self.activations}"

    @property
    def key(self) -> str:
        """``W8A4 | modality | largest | kept``."""
        return " | ".join([self.bits, self.granularity, self.statistic, self.source])


def conditions(share: float) -> list[Condition]:
    """All conditions of a budget."""
    found = [Condition(), Condition(weights=4)]
    for bits in BITS:
        found.append(Condition(*bits, "token"))
        sources = ("kept", "all") if share < ALL and bits in BOTH_SOURCES else ("kept",)
        statistics = STATISTICS[:1] if bits in LARGEST_ALONE else STATISTICS
        found += [
            Condition(*bits, granularity, statistic, source)
            for granularity in STATIC
            for statistic in statistics
            for source in sources
        ]
    return found


class Noting(Compressor):
    """A method that notes which tokens it keeps, for the next call of the language model."""

    name: ClassVar[str] = "noting"

    def __init__(self, inner: Compressor, note: Any) -> None:
        super().__init__(inner.budget)
        self.inner, self.note = inner, note

    def select(self, stream: TokenStream, counts: Counts) -> Selection:
        """Select as ``inner`` does."""
        selection = self.inner.select(stream, counts)
        self.note(selection.keep)
        return selection


class World:
    """A backbone with its scales, and what it answers about the clips of its world.

    Args:
        backbone: name of a bundled checkpoint.
        calibration_clips: validation clips with which scales are made.
    """

    def __init__(self, backbone: str, calibration_clips: int) -> None:
        self.backbone, self.setting = backbone, world_setting(WORLDS[backbone])
        self.host = load_host(str(bundled_path(backbone)), "cpu", None, None)
        self.evaluate = PackedEvaluator(self.host)
        parts = [
            self._batch("validation", first, min(AT_ONCE, calibration_clips - first))
            for first in range(0, calibration_clips, AT_ONCE)
        ]
        self.scales = {share: self._calibrated(share, parts) for share in SHARES}
        """Share of tokens that were kept in calibration -> scales."""

    def _calibrated(self, share: float, parts: Sequence[tuple[Encoded, PackedQuestions, Tensor]]) -> Scales:
        with RangeCollector(self.host.thinker) as collector:
            for clips, asked, _ in parts:
                self._answers(clips, asked, share, collector.tokens)
        names = tuple(f"validation {number}" for number in range(sum(len(clips) for clips, _, _ in parts)))
        about = self.backbone, METHOD if share < ALL else "none", f"{share:g}", names, len(self.setting.types)
        return collector.scales(Calibration(*about, provenance()))

    def _batch(self, split: str, first: int, count: int) -> tuple[Encoded, PackedQuestions, Tensor]:
        """Encoded clips, their questions, and the right first tokens of the answers [clips, types]."""
        scenes = [make_scene(seed, split, self.setting.config) for seed in range(first, first + count)]
        asked = [questions(s, np.random.default_rng((QUESTION_STREAM, s.number)), self.setting.types) for s in scenes]
        processor = self.host.processor
        packed = PackedQuestions.of(processor, [[question.text for question in row] for row in asked])
        due = [[processor.tokenizer(question.answer).input_ids[0] for question in row] for row in asked]
        return encode_scenes(self.host, scenes), packed, torch.tensor(due)

    def _answers(self, clips: Encoded, asked: PackedQuestions, share: float, tokens: TokenModality | None) -> Tensor:
        """First tokens of the answers [clips, types]."""

        def note(keep: Tensor) -> None:
            if tokens is not None:
                tokens.given = read_tokens(clips, asked, keep)

        method = None
        if share == ALL:
            note(torch.ones(clips.modality.numel() * len(clips), dtype=torch.bool))
        else:
            method = Noting(make_compressor(METHOD, share).eval(), note).eval()
        return self.evaluate(clips, asked, method).words

    def outcomes(self, first: int, count: int) -> dict[str, list[int]]:
        """Right answers about each of ``count`` test clips in every condition, by ``0.25 | W8A4 | ...``."""
        clips, asked, due = self._batch("test", first, count)
        found = {}
        for share in SHARES:
            for condition in conditions(share):
                with self._rounded(condition, share) as tokens:
                    words = self._answers(clips, asked, share, tokens)
                found[key_of(share, condition)] = (words == due).sum(dim=1).tolist()
        return found

    def _rounded(self, condition: Condition, share: float) -> AbstractContextManager[TokenModality | None]:
        """The block in which the model is rounded."""
        if condition == Condition():
            return nullcontext()
        static = condition.granularity in STATIC
        given: dict[str, Any] = {"weight_bits": condition.weights} if condition.weights < FULL_BITS else {}
        if condition.granularity:
            given |= {"activation_bits": condition.activations, "granularity": condition.granularity}
        if static:
            source = ALL if condition.source == "all" else share
            given |= {"scales": self.scales[source], "statistic": condition.statistic}
        return fake_quantized(self.host.thinker, **given)


def read_tokens(clips: Encoded, asked: PackedQuestions, keep: Tensor) -> Tensor:
    """[N, K + T] int8: modality of each token that `PackedEvaluator` gives to the language model.

    Args:
        clips: N clips of S tokens.
        asked: their questions, T tokens for each clip.
        keep: [N * S] bool: kept tokens.
    """
    kept = keep.view(len(clips), -1)
    cut = PromptCut.plan(kept, torch.ones_like(kept))
    clip = clips.modality.repeat(len(clips))[cut.source].masked_fill(~cut.mask, PADDING)
    text = torch.where(asked.segment > 0, int(Modality.TEXT), PADDING).to(clip.dtype)
    return torch.cat([clip, text], dim=1)


class Tables:
    """The tables of a result.

    Args:
        result: of `measure`.
    """

    def __init__(self, result: Mapping[str, Any]) -> None:
        self.ranges = {name: world["ranges"] for name, world in result["worlds"].items()}
        self.types = {name: world["types"] for name, world in result["worlds"].items()}
        self.right = {
            name: {key: np.array(counts.split(), dtype=int) for key, counts in world["right"].items()}
            for name, world in result["worlds"].items()
        }
        """Backbone -> key -> right answers about each clip."""
        self._bootstrap = {
            name: ClusterBootstrap(len(next(iter(right.values())))) for name, right in self.right.items()
        }

    def share(self, backbone: str, share: float, first: Condition, second: Condition | None = None) -> Interval:
        """Accuracy of a condition, or the difference of two, with its interval."""
        right = self.right[backbone][key_of(share, first)]
        if second is not None:
            right = right - self.right[backbone][key_of(share, second)]
        return self._bootstrap[backbone].share(right, np.full(len(right), self.types[backbone]))

    def accuracy(self, backbone: str) -> str:
        """Markdown: accuracy by bits, budget and scale."""
        columns = {
            "per token": ("token", ""),
            **{f"{NAMES[g]}, {NAMES[s]}": (g, s) for s in STATISTICS for g in STATIC},
        }
        lines = []
        for share in SHARES:
            full = self.share(backbone, share, Condition())
            lines.append([NAMES[share], "float32", pct_with_interval(full), *["-"] * (len(columns) - 1)])
            weights = self.share(backbone, share, Condition(weights=4))
            lines.append(["", "W4A16", pct_with_interval(weights), *["-"] * (len(columns) - 1)])
            for bits in BITS:
                cells = []
                for granularity, statistic in columns.values():
                    source = "kept" if statistic else ""
                    condition = Condition(*bits, granularity, statistic, source)
                    known = condition in conditions(share)
                    cells.append(pct(self.share(backbone, share, condition).value) if known else "-")
                lines.append(["", condition.bits, *cells])
        return markdown(["kept", "bits", *columns], lines)

    def differences(self, backbone: str) -> str:
        """Markdown: paired differences in points by bits and budget."""
        lines = []
        for bits in BITS:
            one, token = Condition(*bits, "tensor", "largest", "kept"), Condition(*bits, "token")
            clipped = replace(one, statistic="percentile")
            pairs = [
                (replace(one, granularity="modality"), one),
                (replace(clipped, granularity="modality"), clipped),
                (clipped, one),
                (token, clipped),
            ]
            for number, share in enumerate(SHARES):
                known = conditions(share)
                cells = [points(self.share(backbone, share, *pair)) if {*pair} <= {*known} else "-" for pair in pairs]
                lines.append(["" if number else one.bits, NAMES[share], *cells])
        one, clipped = (f"one scale, {NAMES[statistic]}" for statistic in STATISTICS)
        heads = [f"by modality - {one}", f"by modality - {clipped}", f"{clipped} - {NAMES['largest']}"]
        return markdown(["bits", "kept", *heads, f"per token - {clipped}"], lines)

    def sources(self) -> str:
        """Markdown: scales from kept tokens minus scales from all tokens, in points."""
        chosen = [(granularity, statistic) for statistic in STATISTICS for granularity in STATIC]
        lines = []
        for backbone in self.right:
            for bits in BOTH_SOURCES:
                for share in SHARES[1:]:
                    kept = [Condition(*bits, *choice, "kept") for choice in chosen]
                    gaps = [self.share(backbone, share, each, replace(each, source="all")) for each in kept]
                    lines.append([TITLES[backbone], kept[0].bits, NAMES[share], *map(points, gaps)])
        heads = [f"{NAMES[granularity]}, {NAMES[statistic]}" for granularity, statistic in chosen]
        return markdown(["world", "bits", "kept", *heads], lines)

    def largest(self) -> str:
        """Markdown: the ranges in calibration."""
        lines = []
        for backbone, by_share in self.ranges.items():
            for share in SHARES:
                found = by_share[f"{share:g}"]
                roles = {role["role"]: role for role in found["roles"]}
                down = [f"{roles['down_proj']['largest'][kind]:.0f}" for kind in KINDS]
                lost = [f"{found['bits_lost'][kind]:.2f}" for kind in KINDS]
                ratios = (roles["down_proj"]["ratio"], roles["down_proj"]["channels"])
                cells = [" / ".join(down), *(f"{ratio:.1f}" for ratio in ratios), " / ".join(lost)]
                lines.append([TITLES[backbone], NAMES[share], *cells, f"{found['outlier_bits']:.1f}"])
        kinds = " / ".join(KINDS)
        heads = [f"`down_proj`: largest input, {kinds}", "ratio", "channels", f"bits lost by sharing, {kinds}"]
        return markdown(["world", "tokens", *heads, "bits lost to outliers"], lines)

    def parts(self) -> dict[str, str]:
        """Name of each table of the page -> the table."""
        made = {"scales_ranges": self.largest()}
        for backbone in self.right:
            made[f"scales_{backbone}"] = self.accuracy(backbone)
            made[f"scales_{backbone}_differences"] = self.differences(backbone)
        return made | {"scales_sources": self.sources()}


def key_of(share: float, condition: Condition) -> str:
    """The key of a result: ``0.25 | W16A4 | modality | largest | kept``."""
    return f"{share:g} | {condition.key}"


def measure(options: argparse.Namespace) -> None:
    """Answer about the clips that are missing in the working file, and write the result."""
    torch.set_num_threads(1)
    silence_libraries()
    made, worlds = provenance(), {}
    options.work.parent.mkdir(parents=True, exist_ok=True)
    file = JsonLines(options.work)
    for backbone, setting in WORLDS.items():
        clips = max(1, round(options.share * CLIPS[backbone]))
        about = {"backbone": tensors_digest(bundled_path(backbone)), "commit": made["commit"]}
        rows = [row for _, row in file.records() if row["about"] == about]
        done = {row["first"]: row["right"] for row in rows if row["first"] < clips}
        world = World(backbone, CALIBRATION_CLIPS)
        for first in range(0, clips, AT_ONCE):
            if first not in done:
                done[first] = world.outcomes(first, AT_ONCE)
                file.append({"about": about, "first": first, "right": done[first]})
                print(f"{backbone}: {first + AT_ONCE} of {clips} clips", flush=True)
        right = {key: [n for first in sorted(done) for n in done[first][key]][:clips] for key in done[0]}
        worlds[backbone] = {
            "types": len(world_setting(setting).types),
            "clips": clips,
            "backbone": about["backbone"],
            "ranges": {f"{share:g}": summary(scales) for share, scales in world.scales.items()},
            "right": {key: " ".join(map(str, counts)) for key, counts in right.items()},
        }
    command = f"python benchmarks/accuracy/scales.py --share {options.share:g}"
    about = {"command": command, "method": METHOD, "calibration_clips": CALIBRATION_CLIPS}
    write_atomic(options.out, json.dumps({**about, "worlds": worlds, **made}, indent=1) + "\n")


def summary(scales: Scales) -> dict[str, Any]:
    """What `omnisift calibrate` prints of scales."""
    roles = [asdict(role) for role in scales.roles()]
    lost, outliers = scales.bits_lost(), scales.outlier_bits()
    return {"tokens": scales.counts(), "roles": roles, "bits_lost": lost, "outlier_bits": outliers}


def main(arguments: list[str] | None = None) -> None:
    """Measure, write one JSON file, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="share of the test clips")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scales.json"))
    parser.add_argument("--work", type=Path, default=Path("runs/scales.jsonl"), help="what was answered")
    parser.add_argument("--table", action="store_true", help="print the tables of the result file")
    options = parser.parse_args(arguments)
    if not options.table:
        measure(options)
    for name, table in Tables(json.loads(options.out.read_text(encoding="utf-8"))).parts().items():
        print(f"{name}\n\n{table}\n")


if __name__ == "__main__":
    main()
