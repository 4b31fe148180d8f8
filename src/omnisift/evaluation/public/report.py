"""Reports of finished runs: Markdown, CSV and a plot of the score against the percentage kept (extra ``eval``)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.compressors import FULL, reads_all_tokens
from omnisift.errors import UsageError
from omnisift.evaluation.plots import plot_style, save_svg
from omnisift.evaluation.public.eval_run import EvalRun, by_group, paired, score
from omnisift.evaluation.public.llm_judge import rates
from omnisift.evaluation.public.metadata import BENCHMARKS
from omnisift.evaluation.statistics import clustered_error, clustered_p
from omnisift.evaluation.tables import ALL_TOKENS, p_value, table

SIZES = ("7b", "3b")
_COLUMNS = ("worldsense", "omnivideobench", "videomme", "dailyomni", "video_salmonn2")
"""Benchmarks of the paper (arXiv 2602.04804 v2, tables 1 and 2), in percent correct; the last in errors of captions as
a percentage of events."""

_TABLE = """
7b full      100  49.7 35.6 67.6 72.2 48.1
7b omnizip    35  48.9 35.1 66.7 67.7 54.1
7b random     35  48.3 33.4 67.3 66.3 53.1
7b dycoke     35  48.6 34.4 67.9 67.9 52.7
7b omnisift   35  50.0 35.6 68.3 73.2 50.5
7b omnizip    25  48.1 34.1 66.0 66.2 57.2
7b random     25  47.1 32.6 66.1 65.2 56.9
7b dycoke     25  48.1 34.1 65.9 64.7 56.3
7b omnisift   25  49.9 35.4 68.2 72.5 51.2
3b full      100  45.8 33.5 64.2 67.0 53.6
3b omnizip    35  44.1 33.7 63.5 64.7 59.1
3b random     35  45.5 33.4 62.7 62.9 58.7
3b dycoke     35  45.3 32.8 63.3 63.2 58.5
3b omnisift   35  45.7 33.7 63.7 65.3 56.9
3b omnizip    25  43.8 32.4 62.3 64.2 62.1
3b random     25  43.3 33.0 62.3 61.2 62.0
3b dycoke     25  44.1 33.0 62.5 61.7 61.9
3b omnisift   25  45.8 33.1 63.0 64.7 58.3
"""


def _read(table: str) -> dict[tuple[str, str, int], Mapping[str, float]]:
    lines = [line.split() for line in table.strip().splitlines()]
    return {
        (size, method, int(percent)): dict(zip(_COLUMNS, map(float, values), strict=True))
        for size, method, percent, *values in lines
    }


PUBLISHED = _read(_TABLE)
"""(size, method, percent of tokens kept) -> benchmark -> number."""


def published(size: str, method: str, percent: float, benchmark: str) -> float | None:
    """Return the paper's number, or None where it has none.

    Args:
        size: ``7b`` or ``3b``.
        method: Name of the method; `FULL` or an older name of it is all tokens.
        percent: Percentage requested; it may differ from the paper's by one point.
        benchmark: Name of the benchmark.
    """
    name = FULL if reads_all_tokens(method) else method
    for (row_size, row_method, row_percent), row in PUBLISHED.items():
        if (row_size, row_method) == (size, name) and abs(row_percent - percent) <= 1:
            return row.get(benchmark)
    return None


NAMES = {
    "benchmark": "benchmark",
    "model": "model",
    "method": "method",
    "asked": "requested",
    "kept_video": "video kept, %",
    "kept_audio": "audio kept, %",
    "kept": "kept, %",
    "score": "score, %",
    "error": "± error",
    "of_full": "% of full",
    "p": "paired p",
    "flops": "FLOPs, % of full",
    "prefill": "prefill, s",
    "end_to_end": "end to end, s",
    "memory": "peak memory, GiB",
    "questions": "questions",
    "unread": "unread",
    "published": "published",
}
"""Columns of the table: key in the CSV -> title."""


@dataclass(frozen=True)
class Line:
    """One run, compared with the full-token run of the same model if there is one. Proportions are 0 to 1."""

    run: EvalRun
    value: float | None
    """Proportion correct; for captions the fraction of events missed or incorrect; None without a judge's counts."""
    error: float | None
    of_full: float | None
    p: float | None
    """Two-sided, paired by question, clustered by video."""
    flops: float | None
    """As a fraction of those of the full run."""
    published: float | None
    """Percent, from the paper."""


def lines(runs: Sequence[EvalRun], rule: str | None = None, size: str | None = None) -> list[Line]:
    """Return one line per run, ordered by benchmark and model, full runs first, then from many tokens to few.

    Args:
        runs: At least one run.
        rule: Answer rule for all runs; None takes that of each run.
        size: ``7b`` or ``3b`` adds the paper's numbers.
    """
    order = sorted(runs, key=lambda o: (o.settings["benchmark"], o.settings["model"], -(o.kept_together or 1.0)))
    return [_line(run, _full_of(run, runs), rule, size) for run in order]


def _full_of(run: EvalRun, runs: Sequence[EvalRun]) -> EvalRun | None:
    fulls = [other for other in runs if other.is_full and run.comparable(other)]
    if len(fulls) > 1:
        raise UsageError(
            f"two full-token runs for one table: {fulls[0].folder} and {fulls[1].folder}; leave out one of them"
        )
    return fulls[0] if fulls else None


def _line(run: EvalRun, full: EvalRun | None, rule: str | None, size: str | None) -> Line:
    rule = rule or str(run.settings["rule"])  # also for the full-token run
    value, error = _value(run, rule)
    reference = None if full is None else _value(full, rule)[0]
    p = None
    if full is not None and full is not run:
        p = _p(run, full, rule)
    flops = None
    if full is not None and run.flops and full.flops:
        flops = run.flops / full.flops
    quoted = None
    if size is not None:
        requested = run.settings["percent"]
        percent = 100 * (run.kept_together or 1.0) if requested is None else float(requested)
        quoted = published(size, str(run.settings["compressor"]), percent, str(run.settings["benchmark"]))
    of_full = value / reference if value is not None and reference else None
    return Line(run, value, error, of_full, p, flops, quoted)


def _p(run: EvalRun, full: EvalRun, rule: str) -> float | None:
    if run.is_choice:
        return paired(run.graded(rule), full.graded(rule))[1]
    counts, reference = run.counted, full.counted
    if counts is None or reference is None or run.judge != full.judge or counts.keys() != reference.keys():
        return None
    return clustered_p([counts[name].wrong - reference[name].wrong for name in counts])


def _value(run: EvalRun, rule: str) -> tuple[float | None, float | None]:
    if run.is_choice:
        result = score(run.graded(rule))
        value, error = result.value, result.error
    elif run.counted is None:
        return None, None
    else:
        counts = list(run.counted.values())
        value = rates(counts)["total"]
        error = clustered_error([count.wrong for count in counts], [count.events for count in counts])
    return value, None if math.isnan(error) else error


def method_name(run: EvalRun) -> str:
    """Return the name of a run's method in tables and plots."""
    return ALL_TOKENS if run.is_full else str(run.settings["compressor"])


def cells(line: Line) -> dict[str, str]:
    """Return the cells of a run by column; ``-`` where there is no value."""
    run, settings = line.run, line.run.settings
    memory = run.peak_memory_bytes
    return {
        "benchmark": BENCHMARKS[str(settings["benchmark"])].title,
        "model": str(settings["model"]),
        "method": method_name(run),
        "asked": str(settings["retain"]),
        "kept_video": _percent(run.kept("video")),
        "kept_audio": _percent(run.kept("audio")),
        "kept": _percent(run.kept_together),
        "score": _percent(line.value),
        "error": _percent(line.error),
        "of_full": _percent(line.of_full),
        "p": "-" if line.p is None else p_value(line.p),
        "flops": _percent(line.flops),
        "prefill": _number(run.seconds("prefill")),
        "end_to_end": _number(run.seconds("decode")),
        "memory": _number(None if memory is None else memory / 2**30),
        "questions": str(len(run.answers)),
        "unread": str(run.unread),
        "published": "-" if line.published is None else f"{line.published:.1f}",
    }


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def as_csv(report_lines: Sequence[Line]) -> str:
    """Return the table as CSV, with the keys of `NAMES` as header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(NAMES), lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells(line) for line in report_lines)
    return text.getvalue()


def as_markdown(report_lines: Sequence[Line], rule: str | None = None) -> str:
    """Return the table, notes on its columns, the groups of each benchmark, and the rates of captions."""
    rows = [cells(line) for line in report_lines]
    quoted = any(line.published is not None for line in report_lines)
    columns = [key for key in NAMES if key != "published" or quoted]
    parts = [
        table([NAMES[key] for key in columns], [[row[key] for key in columns] for row in rows]),
        _notes(report_lines),
    ]
    for benchmark in dict.fromkeys(str(line.run.settings["benchmark"]) for line in report_lines):
        benchmark_lines = [line for line in report_lines if line.run.settings["benchmark"] == benchmark]
        parts.append(f"### {BENCHMARKS[benchmark].title}\n")
        parts.append(_groups(benchmark_lines, rule) if benchmark_lines[0].run.is_choice else _captions(benchmark_lines))
    return "\n".join(parts)


def _notes(report_lines: Sequence[Line]) -> str:
    batch_size = max((line.run.settings.get("batch_size", 1) for line in report_lines), default=1)
    words = [
        "Errors are standard errors clustered by video; p is two-sided, paired with the full-token run by question and",
        "clustered by video. Seconds are means over the questions that run the encoders (the first about each clip),",
        "without reading and preparing the clip: encoders, compression and language model; on a CPU, memory is the",
        "peak of the whole process.",
    ]
    if batch_size > 1:
        words.append("In batches, the seconds of a call are divided evenly among its questions.")
    if any(not line.run.is_choice for line in report_lines):
        words.append(
            "For captions the score is the percentage of events missed or described incorrectly: lower is better."
        )
    if any(line.published is not None for line in report_lines):
        words.append("Published numbers are quoted from the paper (arXiv 2602.04804 v2).")
    return " ".join(words) + "\n"


def _groups(benchmark_lines: Sequence[Line], rule: str | None) -> str:
    scored = [by_group(line.run.graded(rule)) for line in benchmark_lines]
    parts = []
    for kind in scored[0]:
        names = list(dict.fromkeys(name for groups in scored for name in groups.get(kind, {})))
        body = []
        for line, groups in zip(benchmark_lines, scored, strict=True):
            row = cells(line)
            shares = [groups[kind][name] if name in groups.get(kind, {}) else None for name in names]
            body.append([row["method"], row["kept"], *(_percent(s.value if s else None) for s in shares), row["score"]])
        counts = [
            max(groups[kind][name].questions for groups in scored if name in groups.get(kind, {})) for name in names
        ]
        heads = [f"{name} ({count})" for name, count in zip(names, counts, strict=True)]
        parts.append(
            f"By {kind.replace('_', ' ')} (questions):\n\n" + table(["method", "kept, %", *heads, "all"], body)
        )
    return "\n".join(parts)


def _captions(benchmark_lines: Sequence[Line]) -> str:
    body = []
    for line in benchmark_lines:
        run, row = line.run, cells(line)
        shares = rates(list(run.counted.values())) if run.counted is not None else {}
        names = ("missed", "hallucinated", "total")
        judge = run.judge or "-"
        body.append([row["method"], row["kept"], judge, *(_percent(shares.get(name)) for name in names)])
    head = ["method", "kept, %", "judge", "missed, %", "incorrect or invented, %", "total, %"]
    return table(head, body)


def draw(report_lines: Sequence[Line], path: Path) -> None:
    """Write the plot; bars are one standard error, and runs without a score are left out.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    scored = [line for line in report_lines if line.value is not None]
    names = list(dict.fromkeys(str(line.run.settings["benchmark"]) for line in scored)) or [""]
    with plot_style():
        figure = Figure(figsize=(3.6 * len(names) + 1.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(names), squeeze=False)[0]
        for axes, name in zip(panels, names, strict=True):
            _panel(axes, name, [line for line in scored if line.run.settings["benchmark"] == name])
        save_svg(figure, path)


def _panel(axes: Any, benchmark: str, lines: Sequence[Line]) -> None:
    methods: dict[str, list[Line]] = {}
    for line in lines:
        settings = line.run.settings
        methods.setdefault(f"{settings['model']}, {method_name(line.run)}", []).append(line)
    for label, benchmark_lines in methods.items():
        kept = [100 * (line.run.kept_together or 1.0) for line in benchmark_lines]
        values = [100 * (line.value or 0.0) for line in benchmark_lines]
        errors = [100 * (line.error or 0.0) for line in benchmark_lines]
        axes.errorbar(kept, values, errors, marker="o", markersize=4, linewidth=1.2, capsize=2, label=label)
    axes.set_title(BENCHMARKS[benchmark].title if benchmark else "no scores")
    axes.set_xlabel("video and audio tokens kept, %")
    wrong = bool(lines) and not lines[0].run.is_choice
    axes.set_ylabel("events missed or incorrect, %" if wrong else "accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    if methods:
        axes.legend(frameon=False, fontsize=7)
