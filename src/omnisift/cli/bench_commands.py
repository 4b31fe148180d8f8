"""`omnisift methods`, `bench-quality` and `bench-report`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import Json
from omnisift.errors import UsageError, install_hint

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.compressors import Compressor

_PUBLISHED = Path("benchmarks/results/quality")
"""The results shown in the documentation. `bench-quality` writes elsewhere by default, so it does not resume them."""


def methods(as_json: Json = False) -> None:
    """List the compression methods.

    For each: its name, its idea, what it needs and its source.
    """
    from omnisift.cli.screen import console_for
    from omnisift.compressors import COMPRESSORS, DEFAULT

    if as_json:
        rows = {
            name: {
                "default": name == DEFAULT,
                "idea": m.idea,
                "trained": m.trained,
                "needs": sorted(m.needs),
                "source": m.source,
            }
            for name, m in COMPRESSORS.items()
        }
        typer.echo(json.dumps(rows))
    else:
        show_methods(console_for(stderr=False), COMPRESSORS)


def bench_quality(
    recipes: Annotated[
        list[Path],
        typer.Argument(metavar="RECIPE", help="YAML files, for example recipes/training-free.yaml."),
    ],
    out: Annotated[Path, typer.Option(help="Folder of result files; existing results are resumed.")] = Path(
        "runs/quality/results"
    ),
    work: Annotated[Path, typer.Option(help="Folder of encoded clips, selectors and models.")] = Path("runs/quality"),
    backbone: Annotated[
        Path | None, typer.Option(help="Checkpoint folder.", show_default="the recipe's, which is bundled")
    ] = None,
    clips: Annotated[int | None, typer.Option(help="Number of test clips.", show_default="the recipe's", min=1)] = None,
    workers: Annotated[int, typer.Option(help="Number of processes; 0 uses this one.", min=0)] = 2,
    as_json: Json = False,
) -> None:
    """Compare the methods of a recipe on generated clips.

    If the command is interrupted, run it again: it resumes.
    """
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.lab.benchmark.recipe import load_recipe
    from omnisift.lab.benchmark.run import Bench, summary
    from omnisift.utils.assets import bundled_path

    if backbone is not None and not (backbone / "config.json").is_file():
        raise UsageError(f"{backbone} has no config.json; give a checkpoint folder, or leave --backbone out")
    console = console_for(stderr=True)

    def progress(title: str, total: int, done: int) -> CountBar:
        return CountBar(console, title, total, done, quiet=as_json)

    accuracies = {}
    for path in recipes:
        checkpoint = backbone or bundled_path(load_recipe(path).backbone)
        bench = Bench(checkpoint, work, out, workers, clips, progress)
        accuracies[path.stem] = summary(bench.run_recipe(path))
    if as_json:
        typer.echo(json.dumps(accuracies))
    else:
        for name, rows in accuracies.items():
            show_summary(console_for(stderr=False), name, rows)


def bench_report(
    results: Annotated[Path, typer.Option(help="Folder of result files.")] = _PUBLISHED,
    out: Annotated[Path, typer.Option(help="Page to write; plots and CSV go to a folder of the same name.")] = Path(
        "docs/results.md"
    ),
) -> None:
    """Write the pages of results, their plots, all rows as CSV, and a page for each result on another backbone."""
    from omnisift.lab.benchmark.plots import draw, draw_budgets, draw_surfaces
    from omnisift.lab.benchmark.results import read_result
    from omnisift.lab.benchmark.results_claim import BUDGETS, MAIN, OURS, SURFACES, claim_page
    from omnisift.lab.benchmark.results_page import PLOTTED, has_own_page, own_page, page
    from omnisift.lab.benchmark.results_tables import SHORT_RESULTS, as_csv, short_table
    from omnisift.lab.benchmark.results_wide import wide_page
    from omnisift.utils.atomic_io import write_atomic

    if not results.is_dir() or not any(results.glob("*.jsonl")):
        raise UsageError(f"no result files in {results}: run `omnisift bench-quality` first")
    if not out.parent.is_dir():
        raise UsageError(f"folder {out.parent} does not exist; create it first, or give another --out")
    _require("matplotlib", "eval", "plots")
    text, folder = page(results), out.with_suffix("")
    folder.mkdir(exist_ok=True)
    known = {path.stem: read_result(path) for path in sorted(results.glob("*.jsonl"))}
    if claim := claim_page(known):
        write_atomic(out.with_name("more-results.md"), text)
        text = claim
        draw_budgets([known[name] for name in (*MAIN, *BUDGETS) if name in known], folder / "budgets.svg")
        draw_surfaces([known[name] for name in SURFACES if name in known], OURS, folder / "surface.svg")
    if wide := wide_page(known):
        write_atomic(out.with_name("wide-results.md"), wide)
    for name, result in known.items():
        write_atomic(folder / f"{name}.csv", as_csv(result))
        if name in PLOTTED:
            draw(result, folder / f"{name}.svg")
        if has_own_page(result):
            earlier = results.parent / f"{name}.json"
            own = own_page(result, earlier=earlier if earlier.is_file() else None)
            write_atomic(out.with_name(f"{name}-results.md"), own)
    write_atomic(out, text)
    typer.echo(f"{out}: {len(text.splitlines())} lines")
    if all((results / f"{name}.jsonl").is_file() for name in SHORT_RESULTS):
        typer.echo(short_table(results))


def _require(library: str, extra: str, what: str) -> None:
    if find_spec(library) is None:
        raise UsageError(f"{what} need {library}, which is not installed: " + install_hint(extra))


def show_methods(console: Console, methods: Mapping[str, type[Compressor]]) -> None:
    """Print one line for each method, and how to combine them."""
    from rich.table import Table

    from omnisift.compressors import DEFAULT

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("method", "idea", "needs", "source"):
        table.add_column(title)
    for name, method in methods.items():
        needs = "selector weights" if method.trained else "encoder attention" if method.needs else "-"
        table.add_row(f"{name} (default)" if name == DEFAULT else name, method.idea, needs, method.source)
    console.print(table)
    console.print(
        "\nOptions follow a colon: evs:mode=frame. A plus pairs a video and an audio method: stvp+random. "
        "A model that was trained with an OmniSIFT selector uses omnisift unless told otherwise.",
        style="dim",
    )


def show_summary(console: Console, name: str, rows: Mapping[str, float]) -> None:
    """Print the accuracy of every row of a result, best first."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title=name, title_justify="left")
    table.add_column("row")
    table.add_column("accuracy, %", justify="right")
    for key, accuracy in sorted(rows.items(), key=lambda item: -item[1]):
        table.add_row(key, f"{100 * accuracy:.1f}")
    console.print(table)
