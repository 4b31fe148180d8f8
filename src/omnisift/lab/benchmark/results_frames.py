"""Frames and pixels at an equal number of tokens: the section of the results page, and the table of `omnisift.advise`.

``python -m omnisift.lab.benchmark.results_frames`` writes the table from the committed results into the package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.evaluation.statistics import Interval
from omnisift.evaluation.tables import ALL_TOKENS, bold_best, pct, points, table
from omnisift.lab.benchmark.condition import Condition
from omnisift.lab.benchmark.results import Result, ResultRow, read_result
from omnisift.lab.benchmark.results_tables import csv_links, percents, versions
from omnisift.profiling.advice import TABLE
from omnisift.utils.atomic_io import write_atomic

FRAMES = ("frames-wide20", "frames-wide60")
"""Names of the results, one for each length of clips."""
KNOWN = "frames-wide20-known"
"""Name of the control: fewer and coarser images at the rate and size that the backbone knows."""
SPLIT = "frames-wide20-split"
"""Name of the control: more audio at four images per second."""
PAGE = (*FRAMES, KNOWN, SPLIT)
OURS = "resift"
_SHARES = {1.0: "all", 0.5: "half", 0.25: "a quarter"}
"""Share of the pixels of an image -> the same in words."""
TITLE = """## Frames and pixels at an equal number of tokens

Is it worth reading more images per second, or smaller ones, and keeping the same number of tokens? **On 20 s the rate
and size at which the backbone was trained win at every number of tokens: four times the images pay up to that rate;
more images, or smaller ones, lose. But what fewer or smaller images lose is nearly all unfamiliarity**: shown at the
rate and size that the backbone knows, with as many tokens before compression, one image per second tells as much as
two, and a quarter of the pixels nearly as much. For four images per second, which it doesn't know either, the two
can't be told apart. Paired differences of `{ours}` in points, the lowest and the highest over the numbers of tokens:

{facts}

Best sampling for each number of tokens:

{best}

- **What it rests on**: one backbone of nano's size that was trained at two images per second and all pixels, with all
  tokens, on clips of 6 and 20 s. Other rates and sizes are new to it, and cost it accuracy with all tokens too (the
  column *all tokens*). With all tokens of two images per second it answers {full}: a table of clips that it can't read
  shows what it can still use, not what a model that reads such clips would gain.
- Numbers of tokens are [divided](budgets.md#a-number-of-tokens) between video and audio by the rule of every budget:
  the more video tokens there are before compression, the fewer audio tokens stay.
- `omnisift advise` [recommends](budgets.md#frames-and-pixels-for-a-number-of-tokens) from these tables.

In the tables, *images* are those per second, *pixels* the share of each image's, and *encoded* is the number of video
tokens before compression, to which the encoder's work is about proportional. Differences are from the first line at the
same number of tokens. {clips}

"""


FACTS = (
    (FRAMES[0], "wide20", "wide20 fps=0.5", "Two images per second instead of 0.5 (four times the images)"),
    (FRAMES[0], "wide20 fps=4", "wide20", "Four images per second instead of two"),
    (FRAMES[0], "wide20 fps=2 pixels=39200", "wide20", "Half of the pixels, at two images per second"),
    (FRAMES[0], "wide20 fps=4 pixels=39200", "wide20", "Twice the images at half of the pixels"),
    (KNOWN, "wide20", "wide20 hold=2", "Two different images per second instead of one, shown at the rate of two"),
    (KNOWN, "wide20", "wide20 hold=4", "Two instead of 0.5 (four times the images), shown at the rate of two"),
    (KNOWN, "wide20", "wide20 hold=8", "Two instead of 0.25 (eight times the images), shown at the rate of two"),
    (KNOWN, "wide20 detail=39200", "wide20", "The detail of half of the pixels, shown at the size of all"),
    (KNOWN, "wide20 detail=19600", "wide20", "The detail of a quarter of the pixels, shown at the size of all"),
)
"""Result, two settings whose difference is stated, and what it means."""
CONTROL = """### Is it the images, or a rate that the backbone knows?

The same clips, all at two images per second and all pixels, as the backbone was trained: but each image is held for
two, four or eight (*images* are those that differ), or scaled down to half or a quarter of the pixels and up again.
Differences are from the first line. {clips}

<!-- not run: takes hours -->
```bash
omnisift bench-quality recipes/{name}.yaml
```

"""


DIVIDED = """### Is it the images, or the audio that they displace?

Four images per second, and the same clips: about as many tokens, with more of them audio than the rule of a
number of tokens gives. *said* is the accuracy of the questions about the voice. {clips}

<!-- not run: takes hours -->
```bash
omnisift bench-quality recipes/{name}.yaml
```

"""


@dataclass(frozen=True)
class Sampling:
    """How the clips of one setting are read, and its rows."""

    setting: str
    fps: float
    """Different images per second."""
    pixels: float
    """Share of the pixels of an image, or of their detail."""
    video: int
    """Video tokens of a clip before compression."""
    audio: int
    full: ResultRow

    @classmethod
    def of(cls, result: Result, setting: str) -> Sampling:
        """Describe a setting of a result."""
        condition, full = Condition.parse(setting), result.full(setting)
        whole = condition.world.config.size**2
        pixels = (condition.pixels or condition.detail or whole) / whole
        video, audio = (full.kept[name][1] // result.clips[setting] for name in ("video", "audio"))
        return cls(setting, condition.fps / condition.hold, pixels, video, audio, full)

    def row(self, result: Result, label: str, kept: str) -> ResultRow:
        """The row of a method at a number of tokens."""
        found = result.row(self.setting, label, kept)
        assert found is not None
        return found


def frames_section(results: Mapping[str, Result]) -> str:
    """Return the section; empty without results.

    Args:
        results: All results by name.
    """
    known = [results[name] for name in FRAMES if name in results]
    if not known:
        return ""
    names = [str(result.recipe["name"]) for result in known]
    commands = " ".join(f"recipes/{name}.yaml" for name in names)
    counts = " and ".join(f"{next(iter(result.clips.values()))} test clips of {_seconds(result)} s" for result in known)
    clips = f"{counts}. {''.join(dict.fromkeys(map(versions, known)))}{csv_links(names)}"
    clips += f"\n\n<!-- not run: takes hours -->\n```bash\nomnisift bench-quality {commands}\n```"
    full = " and ".join(
        f"{pct(_usual(result).full.accuracy)} % of the questions on {_seconds(result)} s" for result in known
    )
    best = "\n".join(line for result in known for line in _conclusions(result))
    head = TITLE.format(ours=OURS, facts=_facts(results), best=best, clips=clips, full=full)
    tables = [f"### Clips of {_seconds(result)} s\n\n{_ours(result)}\n{_rivals(result)}" for result in known]
    return head + "\n".join([*tables, _divided(results), _control(results)])


def _facts(results: Mapping[str, Result]) -> str:
    """Ranges of the paired differences that answer the question."""
    lines = []
    for name, one, other, words in FACTS:
        if name in results and {one, other} <= set(results[name].recipe["settings"]):
            lines.append(f"- {words}: {_range(results[name], (one, OURS), (other, OURS))}.")
    if FRAMES[0] in results:
        setting = _usual(results[FRAMES[0]]).setting
        for rival in [label for label in results[FRAMES[0]].methods if label != OURS]:
            gaps = _range(results[FRAMES[0]], (setting, OURS), (setting, rival))
            lines.append(f"- `{OURS}` instead of `{rival}`, at two images per second: {gaps}.")
    return "\n".join(lines)


def _range(result: Result, one: tuple[str, str], other: tuple[str, str]) -> str:
    """Smallest and largest difference of two rows, each a setting and a method, over the numbers of tokens."""
    gaps = []
    for kept in percents(result):
        rows = [result.row(setting, label, kept) for setting, label in (one, other)]
        if rows[0] is not None and rows[1] is not None:
            gaps.append(100 * result.difference(rows[0], rows[1])[0].value)
    return f"{min(gaps):+.1f} to {max(gaps):+.1f}"


def _control(results: Mapping[str, Result]) -> str:
    """What fewer and coarser images tell at the usual rate and size; empty without the result."""
    if KNOWN not in results:
        return ""
    result = results[KNOWN]
    clips = f"{versions(result)}{csv_links([KNOWN])}"
    return CONTROL.format(name=KNOWN, clips=clips) + _ours(result)


def _divided(results: Mapping[str, Result]) -> str:
    """Both splits of every number of tokens; empty without the results."""
    if SPLIT not in results or FRAMES[0] not in results:
        return ""
    ruled, other = results[FRAMES[0]], results[SPLIT]
    setting, lines = other.recipe["settings"][0], []
    for kept, split in zip(percents(ruled), percents(other), strict=True):
        pair = ruled.row(setting, OURS, kept), other.row(setting, OURS, split)
        usual = _usual(ruled).row(ruled, OURS, kept)
        if pair[0] is None or pair[1] is None:
            continue
        gap = ruled.difference(pair[1], pair[0])[0]
        lines.append([f"{_tokens(kept):,}", *_split_cells(pair[0]), *_split_cells(pair[1]), points(gap)])
        lines[-1] += [pct(usual.accuracy), pct(usual.by_type[usual.types.index("said")])]
    head = ["tokens", "video + audio", "accuracy", "said", "video + audio", "accuracy", "said", "difference"]
    clips = f"{versions(other)}{csv_links([SPLIT])}"
    return DIVIDED.format(name=SPLIT, clips=clips) + table([*head, "2 images", "said"], lines)


def _split_cells(row: ResultRow) -> list[str]:
    clips = len(row.right) if row.right is not None else 1
    video, audio = (row.kept[name][0] // clips for name in ("video", "audio"))
    return [f"{video:,} + {audio:,}", pct(row.accuracy), pct(row.by_type[row.types.index("said")])]


def measured(results: Mapping[str, Result]) -> dict[str, Any]:
    """Return what `omnisift.advise` reads, as plain data; accuracies and differences are in percent."""
    known = [results[name] for name in FRAMES if name in results]
    return {"method": OURS, "lengths": [_length(result) for result in known]}


def _length(result: Result) -> dict[str, Any]:
    usual = _usual(result)
    return {
        "setting": Condition.parse(usual.setting).setting,
        "backbone": result.recipe["backbone"],
        "seconds": _seconds(result),
        "clips": result.clips[usual.setting],
        "all_tokens": _percent(usual.full.accuracy),
        "levels": [
            {
                "tokens": _tokens(kept),
                "share": _tokens(kept) / (usual.video + usual.audio),
                "samplings": [
                    {
                        "fps": each.fps,
                        "pixels": each.pixels,
                        "all_tokens": _percent(each.full.accuracy),
                        "accuracy": _percent(each.row(result, OURS, kept).accuracy),
                        "minus_best": [_percent(v) for v in (gap.value, gap.low, gap.high)],
                    }
                    for each, gap in _from_best(result, kept)
                ],
            }
            for kept in percents(result)
        ],
    }


def _from_best(result: Result, kept: str) -> list[tuple[Sampling, Interval]]:
    """Every sampling with its paired difference from the most accurate one at the same number of tokens."""
    samplings = _samplings(result)
    best = _best(result, kept).row(result, OURS, kept)
    return [(each, result.difference(each.row(result, OURS, kept), best)[0]) for each in samplings]


def _best(result: Result, kept: str) -> Sampling:
    return max(_samplings(result), key=lambda each: each.row(result, OURS, kept).accuracy or 0.0)


def _samplings(result: Result) -> list[Sampling]:
    return [Sampling.of(result, setting) for setting in result.recipe["settings"]]


def _usual(result: Result) -> Sampling:
    """The sampling on which the backbone was trained."""
    return next(each for each in _samplings(result) if (each.fps, each.pixels) == (2.0, 1.0))


def _conclusions(result: Result) -> list[str]:
    """One line for each number of tokens: the best sampling, its lead over the first, and what is within chance."""
    first, lines = _samplings(result)[0], []
    for kept in percents(result):
        best = _best(result, kept)
        row = best.row(result, OURS, kept)
        lead = points(result.difference(row, first.row(result, OURS, kept))[0])
        within = [
            _words(each) for each, gap in _from_best(result, kept) if gap.high >= 0 and each.setting != best.setting
        ]
        what = f"{_seconds(result)} s, {_tokens(kept):,} tokens: {_words(best)} is best ({pct(row.accuracy)})"
        lines.append(f"- {what}, {lead} from {_words(first)}; within chance of it: {', '.join(within) or 'no other'}.")
    return lines


def _words(sampling: Sampling) -> str:
    return f"{sampling.fps:g} images per second" + (
        "" if sampling.pixels == 1 else f" at {_SHARES[sampling.pixels]} of the pixels"
    )


def _ours(result: Result) -> str:
    """Accuracy of our method at every sampling, and its difference from the first one."""
    samplings, columns = _samplings(result), percents(result)
    cells = [
        [_cells_of(each)[0], *(pct(each.row(result, OURS, kept).accuracy) for kept in columns)] for each in samplings
    ]
    bold_best(cells)
    lines = []
    for each, values in zip(samplings, cells, strict=True):
        line = [*_cells_of(each), pct(each.full.accuracy)]
        for kept, value in zip(columns, values[1:], strict=True):
            gap = result.difference(each.row(result, OURS, kept), samplings[0].row(result, OURS, kept))[0]
            line.append(value if each is samplings[0] else f"{value}: {points(gap)}")
        lines.append(line)
    head = ["images", "pixels", "encoded", ALL_TOKENS, *(f"`{OURS}`, {_tokens(kept):,}" for kept in columns)]
    return table(head, lines)


def _rivals(result: Result) -> str:
    """Accuracy of every method at every sampling."""
    samplings = _samplings(result)
    head = ["method, tokens", *(" / ".join(_cells_of(each)[:2]) for each in samplings)]
    lines = [
        [f"{label}, {_tokens(kept):,}", *(pct(each.row(result, label, kept).accuracy) for each in samplings)]
        for kept in percents(result)
        for label in result.methods
    ]
    return f"Other methods, by images / pixels:\n\n{table(head, lines)}"


def _cells_of(sampling: Sampling) -> list[str]:
    return [f"{sampling.fps:g}", _SHARES[sampling.pixels], f"{sampling.video:,}"]


def _seconds(result: Result) -> int:
    return Condition.parse(result.recipe["settings"][0]).world.config.seconds


def _tokens(kept: str) -> int:
    return int(kept.partition(" ")[0])


def _percent(share: float | None) -> float:
    return round(100 * (share or 0.0), 2)


def main(folder: Path = Path("benchmarks/results/quality")) -> None:
    """Write the table that the package reads."""
    found: Sequence[Path] = [folder / f"{name}.jsonl" for name in FRAMES]
    data = measured({path.stem: read_result(path) for path in found if path.is_file()})
    write_atomic(TABLE, json.dumps(data) + "\n")


if __name__ == "__main__":
    main()
