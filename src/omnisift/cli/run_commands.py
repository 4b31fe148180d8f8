"""`omnisift run`: caption, question or moderate a folder of clips, one JSON line per row."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import (
    OUTPUT,
    Attn,
    Compressor,
    Device,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Model,
    Retain,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
    resolved_device,
)
from omnisift.errors import UsageError, install_hint

TASK, ENGINE = "Task", "Engine"
"""Panels of the help screen."""


def run(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="A clip, a folder of clips, or a text file with one path per line.")
    ],
    task: Annotated[str, typer.Option(help="caption, qa or moderate.", rich_help_panel=TASK)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The .jsonl file of results; existing rows are kept.", rich_help_panel=OUTPUT),
    ],
    question: Annotated[str | None, typer.Option(help="qa: the question for every clip.", rich_help_panel=TASK)] = None,
    questions: Annotated[
        Path | None, typer.Option(help="qa: a JSONL file with clip and question.", rich_help_panel=TASK)
    ] = None,
    rules: Annotated[
        Path | None,
        typer.Option(help="moderate: a file with `name: yes-or-no question` on each line.", rich_help_panel=TASK),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", min=1, rich_help_panel=TASK)] = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Retry rows that failed.", rich_help_panel=TASK)
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 if any row has an error.", rich_help_panel=OUTPUT)
    ] = False,
    model: Model = "nano",
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    selector: Selector = None,
    device: Device = "auto",
    dtype: DType = None,
    attn_implementation: Attn = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    engine: Annotated[
        str,
        typer.Option(help="transformers, or vllm (docs/run.md); flags after -- go to vLLM.", rich_help_panel=ENGINE),
    ] = "transformers",
    batch_size: Annotated[
        int,
        typer.Option(
            help="With vllm: clips in one batch; a killed process repeats all of them.", min=1, rich_help_panel=ENGINE
        ),
    ] = 1,
    together: Annotated[int | None, typer.Option(hidden=True, min=1)] = None,
    ray_address: Annotated[
        str | None, typer.Option("--ray", help="Address of a Ray cluster, or local.", rich_help_panel=ENGINE)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="With --ray: number of processes, one model each.", min=1, rich_help_panel=ENGINE)
    ] = 2,
    as_json: Json = False,
) -> None:
    """Caption, question or moderate a folder of clips.

    Each answer is one JSON line; a broken clip becomes a row with an error.
    If the command is interrupted or killed, run it again: it resumes.
    """
    from omnisift.batch import ModelSettings, items_of, make_task
    from omnisift.cli.run import Run
    from omnisift.cli.run_screen import show_run
    from omnisift.cli.screen import console_for

    sources = sum(option is not None for option in (question, questions))
    if sources != (task == "qa"):
        raise UsageError("--task qa needs either --question TEXT or --questions FILE; other tasks take neither")
    batch_size = together or batch_size  # the old spelling
    if batch_size > 1 and (engine != "vllm" or ray_address is not None):
        raise UsageError("--batch-size needs --engine vllm in one process; leave it out here")
    if ray_address is not None and find_spec("ray") is None:
        raise UsageError("--ray needs ray, which is not installed: " + install_hint("ray"))
    work = make_task(task, rules)
    settings = ModelSettings(
        model=model,
        compressor=compressor,
        retain=retain,
        retain_video=retain_video,
        retain_audio=retain_audio,
        selector=selector,
        device=resolved_device(device),
        dtype=dtype,
        attn_implementation=attn_implementation,
        seed=seed,
        fps=fps,
        max_frames=max_frames,
        max_pixels=max_pixels,
        sampling=sampling,
        max_new_tokens=max_new_tokens,
        engine=engine,
        vllm_args=tuple(context.args),
    )
    settings.check()
    items = items_of(source, question, questions)[:limit]
    job = Run(source, items, work, settings, out, retry_errors, ray_address, workers, batch_size)
    summary, missing, code = job.execute(console_for(stderr=True), quiet=as_json)
    if as_json:
        typer.echo(
            json.dumps({"out": str(out), "task": task, "wanted": len(items), "missing": missing} | summary.to_dict())
        )
    else:
        show_run(console_for(stderr=False), out, missing, summary)
    if code or (strict and summary.failed):
        raise typer.Exit(code or 1)
