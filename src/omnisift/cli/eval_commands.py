"""`omnisift eval` with its subcommands: published benchmarks, run by lmms-eval."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.help_screens import Command
from omnisift.cli.options import OUTPUT, Force, Json, ModelOptions, resolved_device, with_records
from omnisift.config import CompressionConfig, ReadOptions
from omnisift.errors import UsageError, install_hint

if TYPE_CHECKING:
    from omnisift.evaluation.public.rows import Row
    from omnisift.evaluation.public.running import EvalSettings

app = typer.Typer(invoke_without_command=True, pretty_exceptions_enable=False)
METADATA_NAMES = ("data.jsonl", "data.json", "{name}.jsonl", "{name}.json", "qa.json", "worldsense_qa.json")
"""Published names of metadata files, tried in this order in the folder of videos."""

BENCHMARK, ENGINE = "Benchmark", "Engine"
"""Panels of the help screen."""

Benchmark = Annotated[
    str | None,
    typer.Option(help="worldsense, dailyomni, omnivideobench, videomme or video_salmonn2.", rich_help_panel=BENCHMARK),
]
VideoRoot = Annotated[
    Path | None,
    typer.Option(help="Folder to which the paths in the metadata are relative.", rich_help_panel=BENCHMARK),
]
Metadata = Annotated[
    Path | None,
    typer.Option(
        help="The benchmark's metadata file.", show_default="found in --video-root", rich_help_panel=BENCHMARK
    ),
]
Wording = Annotated[
    str,
    typer.Option(help="Prompts: paper, official (the benchmark's own) or question.", rich_help_panel=BENCHMARK),
]
Rule = Annotated[
    str,
    typer.Option(
        help="Rule that extracts the answer's letter: videomme, official, released or strict.",
        rich_help_panel=BENCHMARK,
    ),
]
Out = Annotated[
    Path | None, typer.Option(help="New folder of the result.", show_default="below runs/eval", rich_help_panel=OUTPUT)
]
Tokens = Annotated[
    int | None,
    typer.Option(
        min=1, help="Maximum number of new tokens.", show_default="256, captions 1024", rich_help_panel=OUTPUT
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N questions.", rich_help_panel=BENCHMARK)]
BadClip = Annotated[
    str,
    typer.Option(
        help="For an unreadable clip: stop, or wrong to count its questions as wrong.", rich_help_panel=BENCHMARK
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Questions per batch.", rich_help_panel=ENGINE)]
Processes = Annotated[int, typer.Option(min=1, help="Number of processes, one device each.", rich_help_panel=ENGINE)]


@app.callback()
@with_records
def evaluate(
    context: typer.Context,
    *,
    benchmark: Benchmark = None,
    video_root: VideoRoot = None,
    metadata: Metadata = None,
    out: Out = None,
    host: ModelOptions,
    method: CompressionConfig,
    wording: Wording = "paper",
    rule: Rule = "videomme",
    read_options: ReadOptions,
    max_new_tokens: Tokens = None,
    limit: Limit = None,
    bad_clip: BadClip = "stop",
    batch_size: BatchSize = 1,
    processes: Processes = 1,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Run a published benchmark with lmms-eval.

    Clips are read with video and audio. Answers, scores and settings are
    kept in one folder. Needs lmms-eval (docs/public-benchmarks.md).
    """
    if context.invoked_subcommand is not None:
        return
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.evaluation.public.eval_run import read_run
    from omnisift.evaluation.public.report import as_markdown, cells, lines
    from omnisift.evaluation.public.running import EvalSettings, check, run
    from omnisift.pipeline.method import resolve_settings
    from omnisift.pipeline.report import with_reason

    settings = EvalSettings(
        model=host.model,
        **method.compression,
        **read_options.reading,
        **host.placement | {"device": resolved_device(host.device)},
        wording=wording,
        rule=rule,
        max_new_tokens=max_new_tokens,
        bad_clip=bad_clip,
        batch_size=batch_size,
        processes=processes,
    )
    rows = _rows(benchmark, video_root, metadata)[:limit]
    settings.check()
    settings, reason = resolve_settings(settings, host.model)
    folder = out if out is not None else _default_out(rows[0].benchmark, settings)
    check(folder, rows, settings)  # before an older result is deleted
    _prepare_folder(folder, force)
    console = console_for(stderr=True)
    if reason and not as_json:
        console.print(f"method: {with_reason(settings.compressor, reason)}", style="dim", soft_wrap=True, markup=False)
    with CountBar(console, f"{rows[0].benchmark}: questions", len(rows), quiet=as_json) as step:
        run(folder, rows, settings, _steps(step, len(rows)))
    report_lines = lines([read_run(folder)])
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **cells(report_lines[0])}))
    else:
        typer.echo(as_markdown(report_lines))
        typer.echo(f"{folder} (omnisift eval report {folder} ...)")


def _steps(step: Callable[[], None], total: int, done: int = 0) -> Callable[[int], None]:
    """Turn a count of finished questions into single steps, from ``done`` to at most ``total``."""

    def progress(now: int) -> None:
        nonlocal done
        for _ in range(min(now, total) - done):
            step()
        done = max(done, min(now, total))

    return progress


@app.command(cls=Command)
def prepare(
    benchmark: Benchmark = None,
    video_root: VideoRoot = None,
    metadata: Metadata = None,
    tasks: Annotated[Path | None, typer.Option(help="Folder of tasks.", show_default="see tasks-path")] = None,
    wording: Wording = "paper",
    rule: Rule = "videomme",
) -> None:
    """Convert a benchmark's metadata to an lmms-eval task."""
    from omnisift.evaluation.public.lmms_hooks import default_folder, task_name, write_task

    rows = _rows(benchmark, video_root, metadata)
    folder = default_folder() if tasks is None else tasks
    write_task(folder, rows, wording, rule)
    typer.echo(f"{task_name(rows[0].benchmark)}: {len(rows)} questions in {folder}")


@app.command(cls=Command)
def judge(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A result of `omnisift eval` with captions.")],
    address: Annotated[
        str | None, typer.Option(help="Base address of an OpenAI-compatible service, for example https://host/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The judge's model name; the paper used gpt-4.1.")] = None,
    key_name: Annotated[str, typer.Option(help="Environment variable with the API key.")] = "OPENAI_API_KEY",
    words: Annotated[
        bool,
        typer.Option("--words", help="Compare words offline instead, for tests; not comparable with other results."),
    ] = (False),
) -> None:
    """Count missing, wrong and invented events in captions with a judge model.

    If the command is interrupted, run it again: it resumes.
    """
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.evaluation.public.eval_run import judge_captions, read_run
    from omnisift.evaluation.public.llm_judge import CaptionJudge, EndpointJudge, WordJudge, rates

    if words == (address is not None) or (address is None) != (model is None):
        raise UsageError("give a judge: --address and --model together, or --words")
    run = read_run(folder)
    referee: CaptionJudge = WordJudge()
    if address is not None and model is not None:
        referee = EndpointJudge(address, model, os.environ.get(key_name))
    total, known = len(run.answers), len(run.counts)
    with CountBar(console_for(stderr=True), "captions", total, known) as step:
        judge_captions(run, referee, _steps(step, total, known))
    shares = rates(list(read_run(folder).counts.values()))
    typer.echo(", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))


@app.command(cls=Command)
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Results of `omnisift eval`.")],
    out: Annotated[Path | None, typer.Option(help="Write OUT.md, OUT.csv and OUT.svg.")] = None,
    rule: Annotated[
        str | None, typer.Option(help="Score with another answer rule.", show_default="each run's own")
    ] = None,
    published: Annotated[str | None, typer.Option(help="Add the paper's numbers for 7b or 3b.")] = None,
) -> None:
    """Make a table like the paper's from results.

    Columns: tokens kept, score, share of the full run, p, FLOPs, seconds, memory.
    """
    from omnisift.evaluation.public.eval_run import read_run
    from omnisift.evaluation.public.report import SIZES, as_csv, as_markdown, lines
    from omnisift.utils.atomic_io import write_atomic

    if published is not None and published not in SIZES:
        raise UsageError(f"the paper has numbers for {' and '.join(SIZES)}, got {published!r}")
    rows = lines([read_run(folder) for folder in dict.fromkeys(folders)], rule, published)
    text = as_markdown(rows, rule)
    if out is None:
        typer.echo(text)
        return
    if find_spec("matplotlib") is None:
        raise UsageError("the plot needs matplotlib, which is not installed: " + install_hint("eval"))
    if not out.parent.is_dir():
        raise UsageError(f"folder {out.parent} does not exist; create it first")
    from omnisift.evaluation.public.report import draw

    markdown, table, plot = (out.with_name(f"{out.name}.{end}") for end in ("md", "csv", "svg"))
    write_atomic(markdown, text)
    write_atomic(table, as_csv(rows))
    draw(rows, plot)
    typer.echo(f"{markdown}, {table}, {plot}")


def _rows(benchmark: str | None, video_root: Path | None, metadata: Path | None) -> list[Row]:
    from omnisift.evaluation.public.metadata import BENCHMARKS, convert

    if benchmark is None or video_root is None:
        raise UsageError(f"give --benchmark ({', '.join(BENCHMARKS)}) and --video-root, the folder of its videos")
    if benchmark not in BENCHMARKS:
        raise UsageError(f"no benchmark named {benchmark!r}; choose one of: {', '.join(BENCHMARKS)}")
    if not video_root.is_dir():
        raise UsageError(f"folder {video_root} does not exist; give the folder of the benchmark's videos")
    names = [pattern.format(name=benchmark) for pattern in METADATA_NAMES]
    candidates = [metadata] if metadata is not None else [video_root / name for name in names]
    existing = [path for path in candidates if path.is_file()]
    if not existing and metadata is None:
        raise UsageError(f"no metadata in {video_root} ({', '.join(names)}); give the file with --metadata")
    return convert(benchmark, (existing or candidates)[0], video_root.resolve())


def _default_out(benchmark: str, settings: EvalSettings) -> Path:
    budget = settings.budget
    parts = [budget.retain] if budget.retain is not None else [budget.retain_video, budget.retain_audio]
    share = "-".join(f"{100 * (part or 0):g}" for part in parts) if budget.tokens is None else f"{budget.tokens}-tokens"
    share = "all" if settings.keeps_all else share
    name = f"{benchmark}-{Path(settings.model).name}-{settings.compressor}-{share}"
    return Path("runs/eval") / "".join(letter if letter.isalnum() or letter in "-.+_" else "_" for letter in name)


def _prepare_folder(folder: Path, force: bool) -> None:
    """Check the result folder. With ``--force`` an earlier result is deleted, and nothing but a result."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise UsageError(f"{folder} exists; choose another name (--out) or add --force")
    if not (folder / "harness.log").is_file():
        raise UsageError(
            f"{folder} holds no result of this command, so --force does not replace it; delete it yourself"
        )
    shutil.rmtree(folder)
