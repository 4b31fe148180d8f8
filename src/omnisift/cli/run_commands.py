"""`omnisift run`: caption, question or moderate a folder of clips, one JSON line per row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import OUTPUT, Json, MaxNewTokens, ModelOptions, resolved_device, with_records
from omnisift.cli.signal_guard import SignalGuard
from omnisift.config import CompressionConfig, EncodingOptions, ReadOptions, TextOptions
from omnisift.errors import UsageError, install_hint
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.batch import Summary
    from omnisift.batch.job import Job
    from omnisift.cli.screen import RunBar

TASK, ENGINE = "Task", "Engine"
"""Panels of the help screen."""

Source = Annotated[
    Path, typer.Argument(metavar="SOURCE", help="A clip, a folder of clips, or a text file with one path per line.")
]
Out = Annotated[
    Path,
    typer.Option("--out", "-o", help="The .jsonl file of results; existing rows are kept.", rich_help_panel=OUTPUT),
]
Question = Annotated[str | None, typer.Option(help="qa: the question for every clip.", rich_help_panel=TASK)]
Questions = Annotated[Path | None, typer.Option(help="qa: a JSONL file with clip and question.", rich_help_panel=TASK)]
Rules = Annotated[
    Path | None,
    typer.Option(help="moderate: a file with `name: yes-or-no question` on each line.", rich_help_panel=TASK),
]
Limit = Annotated[int | None, typer.Option(help="Only the first N rows.", min=1, rich_help_panel=TASK)]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Retry rows that failed.", rich_help_panel=TASK)]
Strict = Annotated[bool, typer.Option("--strict", help="Exit code 1 if any row has an error.", rich_help_panel=OUTPUT)]
Engine = Annotated[
    str, typer.Option(help="transformers, or vllm (docs/run.md); flags after -- go to vLLM.", rich_help_panel=ENGINE)
]
BatchSize = Annotated[
    int,
    typer.Option(
        help="With vllm: clips in one batch; a killed process repeats all of them.", min=1, rich_help_panel=ENGINE
    ),
]
Ray = Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster, or local.", rich_help_panel=ENGINE)]
Workers = Annotated[
    int, typer.Option(help="With --ray: number of processes, one model each.", min=1, rich_help_panel=ENGINE)
]


@with_records
def run(
    context: typer.Context,
    source: Source,
    *,
    task: Annotated[str, typer.Option(help="caption, qa or moderate.", rich_help_panel=TASK)],
    out: Out,
    question: Question = None,
    questions: Questions = None,
    rules: Rules = None,
    limit: Limit = None,
    retry_errors: RetryErrors = False,
    strict: Strict = False,
    host: ModelOptions,
    method: CompressionConfig,
    encoding: EncodingOptions,
    read_options: ReadOptions,
    text_options: TextOptions,
    max_new_tokens: MaxNewTokens = 256,
    engine: Engine = "transformers",
    batch_size: BatchSize = 1,
    together: Annotated[int | None, typer.Option(hidden=True, min=1)] = None,
    ray_address: Ray = None,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Caption, question or moderate a folder of clips.

    Each answer is one JSON line; a broken clip becomes a row with an error.
    If the command is interrupted or killed, run it again: it resumes.
    """
    from omnisift.batch import ModelSettings, items_of, make_task
    from omnisift.batch.job import Job
    from omnisift.batch.sources import describe_left_out, left_out_of
    from omnisift.cli.screen import console_for
    from omnisift.pipeline.method import resolve_settings
    from omnisift.pipeline.report import with_reason

    batch_size = together or batch_size  # the old spelling
    _check(task, question, questions, engine, batch_size, ray_address)
    work = make_task(task, rules)
    settings = ModelSettings(
        host.model,
        **method.compression,
        **encoding.encoding,
        **read_options.reading,
        **vars(text_options),
        **host.placement | {"device": resolved_device(host.device)},
        max_new_tokens=max_new_tokens,
        engine=engine,
        vllm_args=tuple(context.args),
    )
    settings.check()
    items = items_of(source, question, questions)[:limit]
    left_out = left_out_of(source)
    # The run is resumed with this method; the engine has the default's name, as it may depend on a clip's length.
    resolved, reason = resolve_settings(settings, host.model)
    if left_out and not as_json:
        note = f"left out: {describe_left_out(left_out)}; name them in a list to process them"
        console_for(stderr=True).print(note, style="dim", soft_wrap=True, markup=False)
    job = Job(source, items, work, settings, ray_address, workers, batch_size)
    if ray_address is None and not out.exists():  # nothing is written for questions that no row could answer
        job.check_questions()
    method_line = f"method: {with_reason(resolved.compressor, reason)}" if reason else ""
    summary, missing, code = _execute(job, out, retry_errors, method_line, console_for(stderr=True), quiet=as_json)
    if as_json:
        counts = {"out": str(out), "task": task, "wanted": len(items), "missing": missing, "left_out": len(left_out)}
        chosen = {"compressor": resolved.compressor, "compressor_reason": reason}
        typer.echo(json.dumps(counts | chosen | summary.to_dict()))
    else:
        show_run(console_for(stderr=False), out, missing, summary)
    if code or (strict and summary.failed):
        raise typer.Exit(code or 1)


def _check(
    task: str, question: str | None, questions: Path | None, engine: str, batch_size: int, ray_address: str | None
) -> None:
    """Check which options were given together."""
    sources = sum(option is not None for option in (question, questions))
    if sources != (task == "qa"):
        raise UsageError("--task qa needs either --question TEXT or --questions FILE; other tasks take neither")
    if batch_size > 1 and (engine != "vllm" or ray_address is not None):
        raise UsageError("--batch-size needs --engine vllm in one process; leave it out here")
    if ray_address is not None and find_spec("ray") is None:
        raise UsageError("--ray needs ray, which is not installed: " + install_hint("ray"))


def _execute(
    job: Job, out: Path, retry_errors: bool, method_line: str, console: Console, quiet: bool
) -> tuple[Summary, int, int]:
    """Load the model only if rows are missing, and run. ``method_line`` is shown; empty for a method that was named.

    Returns:
        The summary, the rows still missing, and the exit code: 0, or 130 and 143 after a signal.
    """
    from omnisift.batch import ResultsFile
    from omnisift.cli.screen import RunBar

    def tell(line: str) -> None:
        if not quiet:
            console.print(line, style="dim", soft_wrap=True, markup=False)

    guard = SignalGuard(quiet)
    with guard.watching(), ResultsFile(out, job.settings, retry_errors) as results:
        missing, total = len(results.missing(job.items)), len(job.items)
        if method_line:
            tell(method_line)
        if missing < total:
            tell(f"{total - missing} of {total} rows are already in {out}")
        if missing:
            if job.ray is None:
                silence_libraries()
            with RunBar(console, job.task.name, total, total - missing, quiet) as bar:
                job.run(results, lambda: _asking(bar, guard), bar.row, guard)
        missing = len(results.missing(job.items))
        if guard():
            tell(f"stopped with {missing} rows missing; run the same command to resume")
        return results.summary, missing, guard.code if guard() else 0


@contextmanager
def _asking(bar: RunBar, guard: SignalGuard) -> Iterator[None]:
    with guard.finishing_clip():
        bar.begin()
        yield


def show_run(console: Console, out: Path, missing: int, summary: Summary) -> None:
    """Print totals of the results file, earlier sessions included, and the first failures by name."""
    from rich.text import Text

    from omnisift.pipeline.report import kinds_in_words

    def tell(text: str) -> None:
        console.print(Text(text), soft_wrap=True)

    left = f", {missing} still missing" if missing else ""
    tell(f"{out}: {summary.rows} rows, {summary.done} answers, {summary.failed} failed{left}")
    if summary.tokens:
        share = 100 * summary.tokens_kept / summary.tokens
        each = summary.seconds / summary.rows
        kinds = kinds_in_words(has_text=summary.has_text)
        tokens = f"{kinds} tokens: {summary.tokens:,}, kept {summary.tokens_kept:,} ({share:.1f} %)"
        tell(f"{tokens}; {each:.2f} s per row")
    for rule, rows in summary.hits.most_common():
        tell(f"rule {rule}: {rows} hit")
    if summary.unclear:
        tell(f"{summary.unclear} rows have a rule answered neither yes nor no")
    for name, message in summary.first_errors.items():
        tell(f"failed: {name}: {message}")
    if summary.failed > len(summary.first_errors):
        kinds = ", ".join(f"{count} {kind}" for kind, count in summary.errors.most_common())
        tell(f"all failures: {kinds}; --retry-errors retries them")
