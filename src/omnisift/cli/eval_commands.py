"""`omnisift eval`: published benchmarks by lmms-eval; `eval prepare`, `eval judge` and `eval report`; `tasks-path`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import (
    Attn,
    Compressor,
    Device,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxPixels,
    Model,
    Retain,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.errors import UsageError, install_hint

if TYPE_CHECKING:
    from omnisift.evaluation.public.rows import Row

app = typer.Typer(invoke_without_command=True, add_completion=False, pretty_exceptions_enable=False)
METADATA_NAMES = ("data.jsonl", "data.json", "{name}.jsonl", "{name}.json", "qa.json", "worldsense_qa.json")
"""Where metadata is looked for in the folder of videos, by the names under which it is published."""

Benchmark = Annotated[
    str | None, typer.Option(help="worldsense, dailyomni, omnivideobench, videomme or video_salmonn2.")
]
VideoRoot = Annotated[Path | None, typer.Option(help="Folder to which the paths in the metadata are relative.")]
Metadata = Annotated[Path | None, typer.Option(help="The benchmark's metadata file. [default: found in --video-root]")]
Wording = Annotated[str, typer.Option(help="Prompts: paper, official (the benchmark's own) or question.")]
Rule = Annotated[str, typer.Option(help="Which rule reads the letter: videomme, official, released or strict.")]


@app.callback()
def evaluate(
    context: typer.Context,
    benchmark: Benchmark = None,
    video_root: VideoRoot = None,
    metadata: Metadata = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the result; new. [default: below runs/eval]")] = None,
    model: Model = "nano",
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    selector: Selector = None,
    seed: Seed = 0,
    wording: Wording = "paper",
    rule: Rule = "videomme",
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most tokens of an answer. [default: 256, captions 1024]")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first questions, to try it out.")] = None,
    bad_clip: Annotated[str, typer.Option(help="An unreadable clip: stop, or wrong to count it so.")] = "stop",
    batch_size: Annotated[int, typer.Option(min=1, help="Questions in one call.")] = 1,
    processes: Annotated[int, typer.Option(min=1, help="Processes, one device each.")] = 1,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a result of this command at --out.")] = False,
    as_json: Json = False,
) -> None:
    """Run a published benchmark by lmms-eval (`make eval-env`), picture and sound, and keep all in one folder."""
    if context.invoked_subcommand is not None:
        return
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.evaluation.public.outcome import read_outcome
    from omnisift.evaluation.public.report import as_markdown, cells, lines
    from omnisift.evaluation.public.running import Ask, check, run

    ask = Ask(
        model=model,
        compressor=compressor,
        retain=retain,
        retain_video=retain_video,
        retain_audio=retain_audio,
        selector=selector,
        seed=seed,
        device=device,
        dtype=dtype,
        attn=attn,
        fps=fps,
        max_frames=max_frames,
        max_pixels=max_pixels,
        sampling=sampling,
        wording=wording,
        rule=rule,
        max_new_tokens=max_new_tokens,
        bad_clip=bad_clip,
        batch_size=batch_size,
        processes=processes,
    )
    rows = _rows(benchmark, video_root, metadata)[:limit]
    folder = out if out is not None else _default_out(rows[0].benchmark, ask.model, compressor, ask.budget())
    check(folder, rows, ask)  # before an older result is deleted
    _make_room(folder, force)
    console = console_for(stderr=True)
    with CountBar(console, f"{rows[0].benchmark}: questions", len(rows)) as step:
        run(folder, rows, ask, _steps(step, len(rows)))
    found = lines([read_outcome(folder)])
    if as_json:
        typer.echo(json.dumps({"folder": str(folder), **cells(found[0])}))
    else:
        typer.echo(as_markdown(found))
        typer.echo(f"{folder} (omnisift eval report {folder} ...)")


def _steps(step: Callable[[], None], most: int) -> Callable[[int], None]:
    """From "so many are done" to single steps, at most ``most``."""
    done = 0

    def progress(now: int) -> None:
        nonlocal done
        for _ in range(min(now, most) - done):
            step()
        done = max(done, min(now, most))

    return progress


@app.command()
def prepare(
    benchmark: Benchmark = None,
    video_root: VideoRoot = None,
    metadata: Metadata = None,
    tasks: Annotated[Path | None, typer.Option(help="Folder of tasks. [default: as tasks-path says]")] = None,
    wording: Wording = "paper",
    rule: Rule = "videomme",
) -> None:
    """Convert a benchmark's metadata to a task that lmms-eval itself can run."""
    from omnisift.evaluation.public.lmms_tasks import default_folder, task_name, write_task

    rows = _rows(benchmark, video_root, metadata)
    folder = default_folder() if tasks is None else tasks
    write_task(folder, rows, wording, rule)
    typer.echo(f"{task_name(rows[0].benchmark)}: {len(rows)} questions in {folder}")


@app.command()
def judge(
    folder: Annotated[Path, typer.Argument(help="A result with captions, of `omnisift eval`.")],
    address: Annotated[
        str | None, typer.Option(help="Base address of an OpenAI-compatible service, as https://host/v1.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The judge's name there; the paper used gpt-4.1.")] = None,
    key_name: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    words: Annotated[bool, typer.Option("--words", help="Compare words offline instead; comparable with nothing.")] = (
        False
    ),
) -> None:
    """Let a judge count the events that captions missed, told wrongly or invented. Interrupt it and run it again."""
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.evaluation.public.judging import judge_captions
    from omnisift.evaluation.public.llm_judge import EndpointJudge, Judge, WordJudge, rates
    from omnisift.evaluation.public.outcome import read_outcome

    if words == (address is not None) or (address is None) != (model is None):
        raise UsageError("name a judge: --address and --model together, or --words")
    outcome = read_outcome(folder)
    one: Judge = WordJudge()
    if address is not None and model is not None:
        one = EndpointJudge(address, model, os.environ.get(key_name))
    known = len(outcome.verdicts)
    with CountBar(console_for(stderr=True), "captions", len(outcome.answers), known) as step:
        seen = known

        def progress(now: int) -> None:
            nonlocal seen
            if now > seen:
                step()
            seen = max(seen, now)

        judge_captions(outcome, one, progress)
    shares = rates(list(read_outcome(folder).verdicts.values()))
    typer.echo(", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items()))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(help="Results of `omnisift eval`.")],
    out: Annotated[Path | None, typer.Option(help="Write NAME.md, NAME.csv and NAME.svg; give NAME.")] = None,
    rule: Annotated[str | None, typer.Option(help="Score by another answer rule. [default: each run's own]")] = None,
    published: Annotated[str | None, typer.Option(help="Add the paper's numbers for a model of 7b or 3b.")] = None,
) -> None:
    """Draw the paper's table from results: tokens kept, score, share of the full run, p, FLOPs, seconds, memory."""
    from omnisift.evaluation.public.outcome import read_outcome
    from omnisift.evaluation.public.published import SIZES
    from omnisift.evaluation.public.report import as_csv, as_markdown, lines
    from omnisift.utils.atomic_io import write_atomic

    if published is not None and published not in SIZES:
        raise UsageError(f"the paper has numbers for {' and '.join(SIZES)}, got {published!r}")
    found = lines([read_outcome(folder) for folder in dict.fromkeys(folders)], rule, published)
    text = as_markdown(found, rule)
    if out is None:
        typer.echo(text)
        return
    if find_spec("matplotlib") is None:
        raise UsageError("the plot needs matplotlib, which is not installed: " + install_hint("eval"))
    if not out.parent.is_dir():
        raise UsageError(f"no folder {out.parent}; make it first")
    from omnisift.evaluation.public.report_plot import draw

    markdown, table, plot = (out.with_name(f"{out.name}.{end}") for end in ("md", "csv", "svg"))
    write_atomic(markdown, text)
    write_atomic(table, as_csv(found))
    draw(found, plot)
    typer.echo(f"{markdown}, {table}, {plot}")


def tasks_path(
    tasks: Annotated[Path | None, typer.Option(help="Folder of tasks. [default: $OMNISIFT_TASKS or the cache]")] = None,
) -> None:
    """Print the folder of prepared tasks, for lmms-eval's --include_path."""
    from omnisift.evaluation.public.lmms_tasks import default_folder, prepared

    folder = default_folder() if tasks is None else tasks
    if not prepared(folder):
        raise UsageError(
            f"no task is prepared in {folder}; do so: omnisift eval prepare --benchmark worldsense --video-root DIR"
        )
    typer.echo(str(folder.resolve()))


def _rows(benchmark: str | None, video_root: Path | None, metadata: Path | None) -> list[Row]:
    from omnisift.evaluation.public.metadata import BENCHMARKS, convert

    if benchmark is None or video_root is None:
        raise UsageError(f"name a benchmark ({', '.join(BENCHMARKS)}) and its videos: --benchmark, --video-root")
    if benchmark not in BENCHMARKS:
        raise UsageError(f"no benchmark named {benchmark!r}; known: {', '.join(BENCHMARKS)}")
    if not video_root.is_dir():
        raise UsageError(f"no folder {video_root}; give the folder of the benchmark's videos")
    names = [pattern.format(name=benchmark) for pattern in METADATA_NAMES]
    found = [metadata] if metadata is not None else [video_root / name for name in names]
    there = [path for path in found if path.is_file()]
    if not there and metadata is None:
        raise UsageError(f"no metadata in {video_root} ({', '.join(names)}); name the file: --metadata")
    return convert(benchmark, (there or found)[0], video_root.resolve())


def _default_out(benchmark: str, model: str, compressor: str, budget: object) -> Path:
    from omnisift.budget import Budget

    share = "all"
    if isinstance(budget, Budget):
        parts = [budget.retain] if budget.retain is not None else [budget.retain_video, budget.retain_audio]
        share = "-".join(f"{100 * (part or 0):g}" for part in parts)
    name = f"{benchmark}-{Path(model).name}-{compressor}-{share}"
    return Path("runs/eval") / "".join(letter if letter.isalnum() or letter in "-.+_" else "_" for letter in name)


def _make_room(folder: Path, force: bool) -> None:
    """A free place for the result. With ``--force`` a result, finished or not, is deleted; nothing else ever is."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not force:
        raise UsageError(f"{folder} exists; choose another name (--out) or add --force")
    if not (folder / "harness.log").is_file():
        raise UsageError(f"{folder} holds no result of ours, so --force does not replace it; delete it yourself")
    shutil.rmtree(folder)
