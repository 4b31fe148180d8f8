"""The page about the default method: is it first, at every budget, on every backbone, under every condition?

Every table has one column or line per comparison. In each, the method is compared with every rival on the same
questions: the rivals are all methods whose name does not contain its own, and the trained selector of the paper. *Not
worse* means by less than `MARGIN`, one-sided, with the p values of a table adjusted by Holm's method; the p of a
comparison is the largest over its rivals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnisift.evaluation.statistics import Interval, holm, not_worse_p
from omnisift.evaluation.tables import ALL_TOKENS, bold_best, p_value, pct, points, table
from omnisift.lab.benchmark.results import Result, ResultRow
from omnisift.lab.benchmark.results_frames import PAGE as FRAMES
from omnisift.lab.benchmark.results_frames import frames_section
from omnisift.lab.benchmark.results_tables import csv_links, percents, rows_at, versions

OURS = "resift"
MARGIN = 0.005
"""Largest difference in accuracy that counts as not worse: half a point."""
LEVEL = 0.05
WORDS = ("first", "first, open", "not worse", "open", "behind")
"""What a comparison says, see `Comparison.verdict`."""
MAIN = ("base", "wide", "wide-qwen3")
"""Results with every method at 25 and 10 % on one backbone."""
BUDGETS = tuple(f"{name}-budgets" for name in MAIN)
DEFAULT_SPLITS = ("default-split-wide", "default-split-wide-qwen3")
"""Results at the fractions that an overall ratio gives."""
CONDITIONS = ("base-conditions", "wide-conditions")
TRAINED = "trained-resift"
SURFACES = tuple(f"surface-{name}" for name in MAIN)
SPLITS = ("split-wide", "split-wide-qwen3")
PAGE = (*MAIN, *BUDGETS, *DEFAULT_SPLITS, *CONDITIONS, TRAINED, *SURFACES, *SPLITS, *FRAMES)
"""Names of the results that this page shows."""
BASELINES = ("question only", "video only", "audio only")
"""Rows that keep other numbers of tokens."""
MORE = 0.02
"""What a condition may cost beyond what it costs all tokens."""

HEAD = """# Results: is the default the best?

{verdict}

Every number on this page was measured on [generated clips](benchmark.md#settings-of-the-world) with backbones of
[nano](nano.md)'s size, on two CPU cores. **None of them says how a method does on a full-size model.** `base` and
`wide` are two families of clips; [`wide`](wide.md) looks more like video. Its two backbones are of the classes of
Qwen2.5-Omni and Qwen3-Omni. `omnisift bench-report` writes the page from the files in `benchmarks/results/quality`;
[more results](more-results.md) has the paper's ablations, pairs of methods, and how far choices transfer.

## How to read the tables

- Methods keep the same numbers of video and audio tokens; `joint` and `routed` keep the same total. A merging method
  keeps as many merged tokens as others keep tokens. A percentage is that of the video and of the audio alike.
- Accuracy is the mean over question types in percent; an answer is right if the most likely first word of the
  vocabulary is the right one. Differences are paired, in points, with 95 % intervals bootstrapped over clips.
- Rivals are the methods without `{ours}` in their name; its variants and pairs have rows, but are not compared.
- *first* and *not worse*: `{ours}` is worse than no rival by more than {margin:g} points, at a one-sided level of
  {level:g}, with the p values of the table adjusted for their number (Holm); *first* if no rival has a higher accuracy.
  *behind*: it is not, and a rival is ahead beyond chance. *open*: the clips are too few to tell.
- n/a: the method cannot keep so few tokens; the CSV file has its error message.
"""
MAIN_TITLE = """## All methods at a quarter and a tenth of the tokens

Training-free: no backbone has ever seen a compressed prompt. {clips}

"""
BUDGETS_TITLE = """## Other budgets

All tokens, `{ours}` and the methods that were closest to it above. {clips}

![Accuracy by percentage kept, on three backbones](results/budgets.svg)

"""
DEFAULT_TITLE = """## At the default split

A quarter, a tenth and a twentieth of *all* tokens, as `--retain 0.25`, `0.1` and `0.05` keep them: a
[larger fraction](budgets.md#how-an-overall-ratio-is-split) of the audio than of the video. Columns are the percentages
of video / audio. {clips}

"""
CONDITIONS_TITLE = """## Settings, degradations, frames per second, embeddings

A tenth of the tokens; {count} test clips per line. *change* is `{ours}` minus all tokens, in points, less that of the
first line: below zero, the condition costs `{ours}` more than all tokens. {more}
`fps`: images read per second (2 elsewhere). `shift`: the method sees all embeddings moved by one vector of once or
twice their mean length, as those of large encoders are. `noise`: a random vector, a quarter or half as long as the mean
embedding, is added to every token, for all rows. {clips}

"""
TRAINED_TITLE = """## After training under each method

The backbone of `base` is trained for 150 steps on the same clips under each method and with all tokens. {clips}

"""
SURFACE_TITLE = """## How a budget is split between video and audio

![Accuracy of resift at every pair of fractions, on three backbones](results/surface.svg)

`{ours}` at every pair of fractions, on validation clips: points below all tokens. Lines join equal totals. The dots
are the [default split](budgets.md#how-an-overall-ratio-is-split) of 5, 10, 15, 25, 35 and 50 % of all tokens. {clips}

"""


@dataclass(frozen=True)
class Comparison:
    """Our method against all rivals, at one budget under one condition on one backbone."""

    name: str
    full: ResultRow
    ours: ResultRow
    rival: ResultRow
    """The most accurate one."""
    gap: Interval
    """Accuracy of ours minus that of the rival."""
    p: float
    """Largest one-sided p over all rivals that ours is worse by more than `MARGIN`."""

    @property
    def first(self) -> bool:
        """Whether no rival is more accurate."""
        return self.gap.value >= 0

    def verdict(self, adjusted: float) -> str:
        """Return one or two words, given the p value adjusted for the table."""
        if adjusted <= LEVEL:
            return "first" if self.first else "not worse"
        return "behind" if self.gap.high < 0 else "first, open" if self.first else "open"


def compare(name: str, result: Result, setting: str, percent: str) -> Comparison | None:
    """Return the comparison; None where our row has no result."""
    rows = [row for row in rows_at(result, setting, percent) if row.right is not None and row.label not in BASELINES]
    ours = next((row for row in rows if row.label == OURS), None)
    rivals = [row for row in rows if OURS not in row.label]
    if ours is None or not rivals:
        return None
    rival = max(rivals, key=lambda row: row.accuracy or 0.0)
    p = max(not_worse_p((ours.right - row.right).mean(axis=1), MARGIN) for row in rivals)  # type: ignore[operator]
    return Comparison(name, result.full(setting), ours, rival, result.difference(ours, rival)[0], p)


def claim_page(results: Mapping[str, Result]) -> str:
    """Return the page; empty where a main result is missing.

    Args:
        results: All results by name.
    """
    if any(name not in results for name in MAIN):
        return ""
    main = _by_budget([results[name] for name in MAIN])
    budgets = _by_budget([results[name] for name in BUDGETS if name in results])
    split = _by_budget([results[name] for name in DEFAULT_SPLITS if name in results])
    conditions = _by_condition([results[name] for name in CONDITIONS if name in results])
    trained = _by_budget([results[TRAINED]] if TRAINED in results else [])
    head = HEAD.format(
        verdict=_verdict(main, budgets, split, conditions, trained), ours=OURS, margin=100 * MARGIN, level=LEVEL
    )
    parts = [head, _main(results, main), _plain(results, BUDGETS, BUDGETS_TITLE, budgets)]
    parts += [_plain(results, DEFAULT_SPLITS, DEFAULT_TITLE, split), _conditions(results, conditions)]
    parts += [_plain(results, [TRAINED], TRAINED_TITLE, trained), _surfaces(results)]
    parts += [frames_section(results)]
    return "\n".join(part.rstrip() + "\n" for part in parts if part)


def _by_budget(results: Sequence[Result]) -> list[Comparison]:
    found = [
        compare(f"{_short(result)}, {percent} %", result, result.recipe["settings"][0], percent)
        for result in results
        for percent in percents(result)
    ]
    return [comparison for comparison in found if comparison is not None]


def _by_condition(results: Sequence[Result]) -> list[Comparison]:
    found = [
        compare(setting, result, setting, percent)
        for result in results
        for setting in result.recipe["settings"]
        for percent in percents(result)
    ]
    return [comparison for comparison in found if comparison is not None]


def _short(result: Result) -> str:
    return str(result.recipe["name"]).removesuffix("-budgets").removeprefix("default-split-")


def _verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    adjusted = holm([comparison.p for comparison in comparisons])
    return [each.verdict(p) for each, p in zip(comparisons, adjusted, strict=True)]


def _verdict(*tables: Sequence[Comparison]) -> str:
    """The first paragraph: where our method is first, and every place where it is not."""
    whats = (
        "25 and 10 % against all methods",
        "50, 15 and 5 % against its closest rivals",
        "25, 10 and 5 % at the default split against its closest rivals",
        "10 % under changed conditions",
        "25 and 10 % after training under each method",
    )
    lines, counts, others = list[str](), dict.fromkeys(WORDS, 0), list[str]()
    for what, comparisons in zip(whats, tables, strict=True):
        words = _verdicts(comparisons)
        for each, word in zip(comparisons, words, strict=True):
            counts[word] += 1
            if not each.first:
                others.append(f"{each.name} ({word}: `{each.rival.label}`, {points(each.gap)})")
        if comparisons:
            shares = ", ".join(f"{word} in {words.count(word)}" for word in WORDS if word in words)
            lines.append(f"- {what}, {len(words)} comparisons: {shares}.")
    total = sum(counts.values())
    shares = ", ".join(f"{word} in {count}" for word, count in counts.items() if count)
    ahead = sum(each.gap.low > 0 for comparisons in tables for each in comparisons)
    text = f"**`{OURS}` against the best rival, {total} comparisons: {shares}.** It is ahead beyond chance in {ahead}."
    text += "\n\n" + "\n".join(lines)
    return text + (f"\n\nWhere it is not first: {'; '.join(others)}." if others else "")


def _summary(comparisons: Sequence[Comparison]) -> str:
    """The table of comparisons."""
    adjusted = holm([comparison.p for comparison in comparisons])
    lines = [
        [
            each.name,
            pct(each.full.accuracy),
            pct(each.ours.accuracy),
            f"{each.rival.label} {pct(each.rival.accuracy)}",
            points(each.gap),
            p_value(p),
            each.verdict(p),
        ]
        for each, p in zip(comparisons, adjusted, strict=True)
    ]
    return table(["", ALL_TOKENS, OURS, "best rival", f"{OURS} minus it", "p (Holm)", ""], lines)


def _main(results: Mapping[str, Result], comparisons: Sequence[Comparison]) -> str:
    known = [results[name] for name in MAIN]
    return MAIN_TITLE.format(clips=_source(known)) + _summary(comparisons) + "\n" + _matrix(known)


def _matrix(known: Sequence[Result]) -> str:
    """Accuracy of every method in every column."""
    columns = [(result, percent) for result in known for percent in percents(result)]
    labels = [label for label in known[0].methods if label not in BASELINES]
    lines = [[label, *(_cell(result, label, percent) for result, percent in columns)] for label in labels]
    bold_best(lines)
    lines.insert(0, [ALL_TOKENS, *(pct(result.full(_setting(result)).accuracy) for result, _ in columns)])
    return table(["method", *(f"{_short(result)}, {percent} %" for result, percent in columns)], lines)


def _plain(results: Mapping[str, Result], names: Sequence[str], title: str, comparisons: Sequence[Comparison]) -> str:
    """A title, the table of comparisons, and that of all methods; empty without results."""
    known = [results[name] for name in names if name in results]
    if not known:
        return ""
    return title.format(ours=OURS, clips=_source(known)) + _summary(comparisons) + "\n" + _matrix(known)


def _conditions(results: Mapping[str, Result], comparisons: Sequence[Comparison]) -> str:
    known = [results[name] for name in CONDITIONS if name in results]
    if not known:
        return ""
    adjusted = holm([comparison.p for comparison in comparisons])
    # A condition is compared with the first setting of its recipe.
    by_name = {each.name: each for each in comparisons}
    plain = {name: result.recipe["settings"][0] for result in known for name in result.recipe["settings"]}
    lines, over = [], []
    for each, p in zip(comparisons, adjusted, strict=True):
        more = _loss(each) - _loss(by_name[plain[each.name]])
        over += [each.name] if more < -MORE else []
        lines.append(
            [
                each.name,
                pct(each.full.accuracy),
                pct(each.ours.accuracy),
                f"{100 * more:+.1f}",
                f"{each.rival.label} {pct(each.rival.accuracy)}",
                points(each.gap),
                each.verdict(p),
            ]
        )
    limit = f"{100 * MORE:g} points"
    text = (
        f"That is more than {limit} in {len(over)} of {len(lines)} lines: {', '.join(f'`{name}`' for name in over)}."
        if over
        else f"That is at most {limit} in every line."
    )
    counts = sorted({count for result in known for count in result.clips.values()})
    title = CONDITIONS_TITLE.format(
        ours=OURS, count=" or ".join(map(str, counts)), more=text, clips=_source(known, counted=False)
    )
    return title + table(["", ALL_TOKENS, OURS, "change", "best rival", f"{OURS} minus it", ""], lines)


def _loss(each: Comparison) -> float:
    """Return the accuracy of our method minus that of all tokens."""
    return (each.ours.accuracy or 0.0) - (each.full.accuracy or 0.0)


def _surfaces(results: Mapping[str, Result]) -> str:
    known = [results[name] for name in (*SURFACES, *SPLITS) if name in results]
    if not known:
        return ""
    text = SURFACE_TITLE.format(ours=OURS, clips=_source(known))
    splits = [results[name] for name in SPLITS if name in results]
    return text + "\n".join(map(_splits, splits))


def _splits(result: Result) -> str:
    """Accuracy of every split of every total; the best of a total is bold."""
    setting, totals = _setting(result), dict[int, list[tuple[str, str]]]()
    for percent in percents(result):
        row = result.row(setting, OURS, percent)
        if row is not None and row.right is not None:
            total = min((5, 10, 15, 25, 35, 50), key=lambda size: abs(size - 100 * row.ratio))
            totals.setdefault(total, []).append((_halves(percent), pct(row.accuracy)))
    lines = []
    for total, cells in totals.items():
        best = max(float(accuracy) for _, accuracy in cells)
        shown = [f"{split}: {f'**{value}**' if float(value) == best else value}" for split, value in cells]
        lines.append([f"{total} %", ", ".join(shown)])
    full = pct(result.full(setting).accuracy)
    title = f"`{result.recipe['name'].removeprefix('split-')}`, all tokens {full}. Percentage of video / of audio"
    return f"{title}: accuracy.\n\n" + table(["of all tokens", "splits"], lines)


def _halves(percent: str) -> str:
    video, audio = (percent.split("/") * 2)[:2]
    return f"{video} / {audio}"


def _source(known: Sequence[Result], counted: bool = True) -> str:
    """Commands, clips, versions and CSV files of several results."""
    names = [str(result.recipe["name"]) for result in known]
    commands = " ".join(f"recipes/{name}.yaml" for name in names)
    each = dict.fromkeys(
        f"{result.clips[_setting(result)]:,} {result.settings.get('split', 'test')} clips" for result in known
    )
    clips = f"{' or '.join(each)} per backbone. " if counted else ""
    sources = "".join(dict.fromkeys(versions(result) for result in known))
    block = f"\n\n<!-- not run: takes hours -->\n```bash\nomnisift bench-quality {commands}\n```\n"
    return f"{clips}{sources}{csv_links(names)}{block}"


def _cell(result: Result, label: str, percent: str) -> str:
    row = result.row(_setting(result), label, percent)
    return "" if row is None else pct(row.accuracy)


def _setting(result: Result) -> str:
    return str(result.recipe["settings"][0])
