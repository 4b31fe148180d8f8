"""`omnisift run`: a whole folder of clips, one row each."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import (
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
)
from omnisift.errors import UsageError, install_hint


def run(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="A clip, a folder of clips, or a text file with one path per line.")],
    task: Annotated[str, typer.Option(help="caption, qa or moderate.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .jsonl of results; an interrupted run resumes there.")],
    question: Annotated[str | None, typer.Option(help="qa: asked of every clip.")] = None,
    questions: Annotated[Path | None, typer.Option(help="qa: JSONL with clip and question.")] = None,
    rules: Annotated[Path | None, typer.Option(help="moderate: `name: yes-or-no question` on each line.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.", min=1)] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Do rows with an error again.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if any row has an error.")] = False,
    model: Model = "nano",
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    selector: Selector = None,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    sampling: SamplingRule = "time",
    max_new_tokens: MaxNewTokens = 256,
    seed: Seed = 0,
    engine: Annotated[str, typer.Option(help="transformers, or vllm (docs/run.md); flags behind -- go to vLLM.")] = (
        "transformers"
    ),
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "--together", help="With vllm: clips in progress at once; a kill costs all of them.", min=1
        ),
    ] = 1,
    on_ray: Annotated[str | None, typer.Option("--ray", help="Address of a Ray cluster, or local.")] = None,
    workers: Annotated[int, typer.Option(help="With --ray: processes with a model.", min=1)] = 2,
    as_json: Json = False,
) -> None:
    """Caption, question or moderate a whole folder. Interrupt or kill it and run it again: it goes on."""
    from omnisift.batch import ModelSettings, items_of, make_task
    from omnisift.cli.run import Run
    from omnisift.cli.run_screen import show_run
    from omnisift.cli.screen import console_for

    given = [what for what in (question, questions) if what is not None]
    if len(given) != (task == "qa"):
        raise UsageError("--task qa needs --question TEXT or --questions FILE, one of them; no other task takes them")
    if batch_size > 1 and (engine != "vllm" or on_ray is not None):
        raise UsageError("--batch-size is for --engine vllm in one process: leave it out here")
    if on_ray is not None and find_spec("ray") is None:
        raise UsageError("--ray needs ray, which is not installed: " + install_hint("ray"))
    work = make_task(task, rules)
    settings = ModelSettings(
        model=model,
        compressor=compressor,
        retain=retain,
        retain_video=retain_video,
        retain_audio=retain_audio,
        selector=selector,
        device=device,
        dtype=dtype,
        attn_implementation=attn,
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
    job = Run(source, items, work, settings, out, retry_errors, on_ray, workers, batch_size)
    summary, missing, code = job.go(console_for(stderr=True), quiet=as_json)
    if as_json:
        typer.echo(
            json.dumps({"out": str(out), "task": task, "wanted": len(items), "missing": missing} | summary.to_dict())
        )
    else:
        show_run(console_for(stderr=False), out, missing, summary)
    if code or (strict and summary.failed):
        raise typer.Exit(code or 1)
