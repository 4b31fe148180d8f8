"""Questions about old and new events of long streams, by policy and budget. (Two hours; resumes.)

    python benchmarks/accuracy/old_events.py --out benchmarks/results/old_events.jsonl
    python benchmarks/accuracy/old_events.py --quick        # a few streams of each kind
    python benchmarks/accuracy/old_events.py --table        # the tables of docs/streaming.md

A stream has seconds without events, six seconds of events of nano's world or of ``wide``, and again seconds without
events; then one question of each type is asked. Clips are encoded and compressed once, by ``resift:causal=true``, and
read into the cache of a session as its policy says. ``nano-long`` and ``wide-long`` are nano and wide after training on
such streams (`omnisift.lab.nano_long`). How the memory works was chosen on the validation split (``--split
validation``).
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from omnisift.evaluation.statistics import ClusterBootstrap, Interval
from omnisift.evaluation.tables import pct, pct_with_interval
from omnisift.evaluation.tables import table as markdown
from omnisift.lab.benchmark.old_events import Condition, Outcome, counts, measure
from omnisift.lab.nano import load_thinker
from omnisift.lab.training.packed import Writer
from omnisift.lab.training.stream_bank import StreamBank
from omnisift.pipeline.loading import load_host
from omnisift.streaming.policies import KeepAll, MemoryBank, NestedBudgets, Policy, SlidingWindow
from omnisift.utils.assets import bundled_path
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.provenance import provenance
from omnisift.utils.quiet import silence_libraries
from omnisift.world import WIDE_TYPES

logger = logging.getLogger(__name__)
MODELS = {"nano": "base", "nano-long": "base", "wide": "wide", "wide-long": "wide"}
"""Bundled checkpoint -> setting of the world that it knows."""
BUDGETS = {"25%": (0.10, 0.05), "10%": (0.05, 0.025)}
"""Budget -> the lower ones of `NestedBudgets`."""
LONGEST = 150
"""Seconds for which the models have positions: a session of everything refuses what is longer."""
FILLERS = 48
"""Clips of each kind without events."""
CONDITIONS = (
    Condition("just seen"),
    Condition("18 s ago", after=18),
    Condition("54 s ago", after=54),
    Condition("114 s ago", after=114),
    Condition("594 s ago", after=594),
    Condition("new after 54 s", before=54),
    Condition("new after 114 s", before=114),
    Condition("24 s apart, 54 s ago", after=54, gap=24),
    Condition("54 s ago, other sounds", after=54, kind="sounds"),
    Condition("54 s ago, other shapes", after=54, kind="shapes"),
    Condition("114 s ago, other shapes", after=114, kind="shapes"),
)
AGES = ("just seen", "18 s ago", "54 s ago", "114 s ago", "594 s ago", "new after 54 s", "new after 114 s")
FEWER = ("just seen", "54 s ago", "114 s ago", "new after 54 s", "54 s ago, other shapes")
"""Conditions at the lower budget, and for ``wide``, which takes four times as long."""
BUSY = ("24 s apart, 54 s ago", "54 s ago, other sounds", "54 s ago, other shapes", "114 s ago, other shapes")


def policies(model: str, budget: str) -> dict[str, Policy]:
    """Name -> policy. ``wide`` has three times as many tokens as nano, so its memory is as much larger."""
    small = 64 if model.startswith("nano") else 160
    low, lowest = BUDGETS[budget]
    sizes = ((small, 2), (small, 4), (small, 8), (2 * small, 8))
    nested = f"budgets {budget[:-1]} % for 12 s, {100 * low:g} % for 30 s, then {100 * lowest:g} %"
    return {
        "keep all": KeepAll(),
        "window of 12 s": SlidingWindow(12),
        nested: NestedBudgets(((12, None), (42, low), (130, lowest))),
        **{f"window of 6 s, memory of {tokens} in {span} s": MemoryBank(6, tokens, span) for tokens, span in sizes},
    }


@dataclass(frozen=True)
class Options:
    """What is measured."""

    models: tuple[str, ...]
    budgets: tuple[str, ...]
    split: str
    events: int
    conditions: tuple[Condition, ...]


def is_measured(model: str, budget: str, policy: str, condition: Condition) -> bool:
    """Whether a cell is part of the benchmark."""
    if policy == "keep all" and condition.after > LONGEST:
        return False
    if model.startswith("wide"):
        return budget == "25%" and condition.name in (*FEWER, "24 s apart, 54 s ago")
    return budget == "25%" or condition.name in FEWER


def cells(options: Options, done: set[tuple[str, ...]]) -> Iterator[dict[str, Any]]:
    """Measure each cell that is not done, as a line of the result file."""
    made = provenance()
    about = {name: made[name] for name in ("commit", "changed", "python", "torch", "transformers", "numpy", "date")}
    for name in options.models:
        todo = [
            (budget, policy, condition)
            for budget in options.budgets
            for policy in policies(name, budget)
            for condition in options.conditions
            if (name, options.split, budget, policy, condition.name) not in done
            and is_measured(name, budget, policy, condition)
        ]
        if not todo:
            continue
        model, writer, bank = prepared(name, options)
        for budget, title, condition in todo:
            policy = policies(name, budget)[title]
            units = f"{budget}, unmerged" if policy.drops_by_rank else budget
            begin = time.process_time()
            outcomes = measure(model, bank, writer, policy, units, condition, options.events)
            line = {
                "model": name,
                "split": options.split,
                "budget": budget,
                "policy": title,
                "condition": condition.name,
            }
            yield {**line, **summary(outcomes), "cpu_seconds": round(time.process_time() - begin, 1), **about}


def prepared(name: str, options: Options) -> tuple[Any, Writer, StreamBank]:
    """A model, and the clips of its world, encoded by it."""
    source = bundled_path(name)
    model, tokenizer = (
        load_thinker(source).float().eval(),
        load_host(str(source), "cpu", None, None).processor.tokenizer,
    )
    spread = [1 + i % 2 for i in range(2 * options.events)]
    budgets = [b for budget in options.budgets for b in (budget, f"{budget}, unmerged")]
    bank = StreamBank.build(model, tokenizer, options.split, MODELS[name], spread, FILLERS, budgets)
    return model, Writer(tokenizer), bank


def summary(outcomes: list[Outcome]) -> dict[str, Any]:
    """Accuracy over all questions and of each type, with intervals over streams, and what is in the cache."""
    bootstrap = ClusterBootstrap(len(outcomes))
    right, total = counts(outcomes)
    types = [name for name in WIDE_TYPES if any(name in outcome.right for outcome in outcomes)]
    return {
        "streams": len(outcomes),
        "questions": sum(total),
        "tokens": round(sum(o.tokens for o in outcomes) / len(outcomes)),
        "positions": max(o.positions for o in outcomes),
        "accuracy": _rounded(bootstrap.share(right, total)),
        "types": {name: _rounded(bootstrap.share(*counts(outcomes, [name]))) for name in types},
    }


def _rounded(interval: Interval) -> list[float]:
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: by age, for streams with other events, and by type."""
    parts = []
    for split, model, budget in dict.fromkeys((row["split"], row["model"], row["budget"]) for row in rows):
        mine = [r for r in rows if (r["split"], r["model"], r["budget"]) == (split, model, budget)]
        names = list(dict.fromkeys(row["policy"] for row in mine))
        found = {(row["policy"], row["condition"]): row for row in mine}
        title = f"`{model}`, {budget[:-1]} %" + ("" if split == "test" else f", {split} split")
        parts.append(_by_condition(f"{title}: events of some age in a quiet stream", names, found, AGES))
        parts.append(_by_condition(f"{title}: events far apart, and streams with other events", names, found, BUSY))
        parts.append(_by_type(f"{title}: by type, 54 s ago", names, found, "54 s ago"))
    return "\n".join(parts)


def short_table(rows: list[dict[str, Any]]) -> str:
    """Markdown: each model with a policy of each kind at 25 %."""
    conditions = ("just seen", "54 s ago", "114 s ago", "594 s ago", "new after 54 s", "54 s ago, other shapes")
    lines = []
    for model in ("nano", "nano-long", "wide", "wide-long"):
        names = [name for name in policies(model, "25%") if not name.endswith(("in 2 s", "in 4 s"))]
        found = {
            (row["policy"], row["condition"]): row
            for row in rows
            if (row["model"], row["budget"], row["split"]) == (model, "25%", "test")
        }
        for name in names:
            cells = [found.get((name, condition)) for condition in conditions]
            shares = [pct(cell["accuracy"][0]) if cell else "-" for cell in cells]
            order = pct(found[name, "54 s ago"]["types"]["order"][0])
            lines.append([f"`{model}`", name, f"{max(c['tokens'] for c in cells[:3] if c):,}", *shares, order])
    return markdown(["model", "policy", "tokens", *conditions, "`order`, 54 s ago"], lines)


Found = dict[tuple[str, str], dict[str, Any]]


def _by_condition(title: str, names: list[str], found: Found, conditions: tuple[str, ...]) -> str:
    columns = [condition for condition in conditions if any((name, condition) in found for name in names)]
    lines = []
    for name in names:
        rows = [found.get((name, condition)) for condition in columns]
        tokens = max((row["tokens"] for row in rows if row), default=None)
        shares = [pct_with_interval(Interval(*row["accuracy"])) if row else "-" for row in rows]
        if tokens is not None:
            lines.append([name, f"{tokens:,}", *shares])
    return f"{title}\n\n{markdown(['policy', 'tokens', *columns], lines)}" if lines else ""


def _by_type(title: str, names: list[str], found: Found, condition: str) -> str:
    rows = {name: found[name, condition] for name in names if (name, condition) in found}
    if not rows:
        return ""
    types = list(next(iter(rows.values()))["types"])
    lines = [[name, *(pct(row["types"][kind][0]) for kind in types)] for name, row in rows.items()]
    return f"{title}\n\n{markdown(['policy', *(f'`{kind}`' for kind in types)], lines)}"


def main(arguments: list[str] | None = None) -> None:
    """Measure and append to the result file, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/old_events.jsonl"))
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=tuple(MODELS))
    parser.add_argument("--budgets", nargs="+", choices=tuple(BUDGETS), default=tuple(BUDGETS))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--events", type=int, help="streams of each kind (default: 48, and 24 of wide)")
    parser.add_argument("--quick", action="store_true", help="four streams of a minute of each kind; writes no file")
    parser.add_argument("--table", action="store_true", help="print the tables of the result file")
    options = parser.parse_args(arguments)
    file = JsonLines(options.out)
    rows = [row for _, row in file.records()]
    if options.table:
        print(tables([row for row in rows if row["split"] == options.split]))
        return
    torch.set_num_threads(1)
    silence_libraries()
    if options.quick:
        short = tuple(c for c in CONDITIONS if c.before + c.after + c.gap < 80)
        quick = Options(tuple(options.models), tuple(options.budgets), options.split, 4, short)
        print(tables(list(cells(quick, set()))))
        return
    done = {tuple(str(row[key]) for key in ("model", "split", "budget", "policy", "condition")) for row in rows}
    for name in options.models:
        events = options.events or (24 if name.startswith("wide") else 48)
        for row in cells(Options((name,), tuple(options.budgets), options.split, events, CONDITIONS), done):
            file.append(row)
            print(row["model"], row["budget"], row["policy"], row["condition"], row["accuracy"], flush=True)


if __name__ == "__main__":
    main()
