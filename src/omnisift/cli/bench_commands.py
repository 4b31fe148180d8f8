"""`omnisift methods`, `bench-quality` and `bench-report`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import Json
from omnisift.errors import UsageError, install_hint

_KEPT = Path("benchmarks/results/quality")
"""The results that the documentation is made of. A run writes elsewhere unless it is told to, so that it measures."""


def methods(as_json: Json = False) -> None:
    """List all compression methods: name, idea, what each needs, source."""
    from omnisift.cli.screen import console_for, show_methods
    from omnisift.compressors import COMPRESSORS

    if as_json:
        found = {
            name: {"idea": m.idea, "trained": m.trained, "needs": sorted(m.needs), "source": m.source}
            for name, m in COMPRESSORS.items()
        }
        typer.echo(json.dumps(found))
    else:
        show_methods(console_for(stderr=False), COMPRESSORS)


def bench_quality(
    recipes: Annotated[list[Path], typer.Argument(help="Recipes: YAML files, as recipes/training-free.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder of result files; a run goes on with what is there.")] = Path(
        "runs/quality/results"
    ),
    work: Annotated[Path, typer.Option(help="Folder for encoded clips, selectors, models.")] = Path("runs/quality"),
    backbone: Annotated[
        Path | None, typer.Option(help="Checkpoint folder. [default: the bundled neutral backbone]")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Test clips. [default: the recipe's]", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 works in this one.", min=0)] = 2,
    as_json: Json = False,
) -> None:
    """Measure every method of a recipe on the same clips. Interrupt it and run it again: it goes on."""
    from omnisift.assets import neutral_path
    from omnisift.cli.bench import Bench, summary
    from omnisift.cli.screen import console_for, show_summary

    _require("accelerate", "train", "distilling selectors and training under methods")
    place = neutral_path() if backbone is None else backbone
    if not (place / "config.json").is_file():
        raise UsageError(f"{place} holds no config.json; give a checkpoint folder, or leave --backbone out")
    bench = Bench(place, work, out, workers, clips, console_for(stderr=True))
    found = {path.stem: summary(bench.bench(path)) for path in recipes}
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for name, rows in found.items():
            show_summary(console_for(stderr=False), name, rows)


def bench_report(
    results: Annotated[Path, typer.Option(help="Folder of result files.")] = _KEPT,
    out: Annotated[Path, typer.Option(help="The page to write; plots go to the folder of its name.")] = Path(
        "docs/results.md"
    ),
) -> None:
    """Write tables and plots of all result files as a page of the documentation."""
    from omnisift.evaluation.plots import draw
    from omnisift.evaluation.results import read_result
    from omnisift.evaluation.results_page import PLOTTED, page

    if not results.is_dir() or not any(results.glob("*.jsonl")):
        raise UsageError(f"no result files in {results}: run `omnisift bench-quality` first")
    if not out.parent.is_dir():
        raise UsageError(f"the folder {str(out.parent)!r} does not exist; create it first, or name another --out")
    _require("matplotlib", "eval", "plots")
    text = page(results)
    for path in sorted(results.glob("*.jsonl")):
        if path.stem in PLOTTED:
            draw(read_result(path), out.with_suffix("") / f"{path.stem}.svg")
    out.write_text(text, encoding="utf-8")
    typer.echo(f"{out}: {len(text.splitlines())} lines")
    if (results / "trained.jsonl").is_file() and (results / "training-free.jsonl").is_file():
        from omnisift.evaluation.results_short import short_table

        typer.echo(short_table(results))


def _require(library: str, extra: str, what: str) -> None:
    if find_spec(library) is None:
        raise UsageError(f"{what} need {library}, which is not installed: " + install_hint(extra))
