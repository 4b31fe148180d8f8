"""`omnisift distill`: train a selector for a model from clips without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import OUTPUT, SAMPLING, Attn, Device, DeviceMap, DType, Force, Fps, Json, Model
from omnisift.cli.output_paths import check_folder
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries

DATA, SELECTOR, TRAINING = "Data", "Selector", "Training"
"""Panels of the help screen."""


def distill(
    media: Annotated[
        Path, typer.Option(help="Folder of clips with video and audio, without labels.", rich_help_panel=DATA)
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the selector, for --selector.", rich_help_panel=OUTPUT)
    ],
    model: Model = "nano",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File of questions, one per line.", show_default="six general questions", rich_help_panel=DATA
        ),
    ] = None,
    questions: Annotated[int, typer.Option(help="Questions per clip.", min=1, rich_help_panel=DATA)] = 4,
    steps: Annotated[int, typer.Option(help="Training steps.", min=1, rich_help_panel=TRAINING)] = 200,
    rate: Annotated[
        float, typer.Option("--learning-rate", "--rate", help="Peak learning rate.", rich_help_panel=TRAINING)
    ] = 1e-3,
    time_embedding: Annotated[
        bool, typer.Option(help="Add our time embedding; without it, the released layout.", rich_help_panel=SELECTOR)
    ] = True,
    video: Annotated[
        bool,
        typer.Option(
            "--video", "--picture", help="Also learn a video score, instead of STVP.", rich_help_panel=SELECTOR
        ),
    ] = False,
    weighting: Annotated[
        bool,
        typer.Option(
            help="Weight attention by each audio token's distance from its chunk's mean.", rich_help_panel=SELECTOR
        ),
    ] = True,
    rows: Annotated[
        str,
        typer.Option(
            help="Positions whose attention is the target: answer (where the answer starts) or question (all after "
            "the clip).",
            rich_help_panel=TRAINING,
        ),
    ] = "answer",
    fps: Fps = 2.0,
    max_frames: Annotated[int, typer.Option(help="Maximum number of frames.", min=2, rich_help_panel=SAMPLING)] = 256,
    held_out: Annotated[
        float, typer.Option(help="Share of the clips for evaluation.", min=0.0, max=0.9, rich_help_panel=DATA)
    ] = 0.1,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder of recorded attention.", show_default="OUT.work", rich_help_panel=OUTPUT),
    ] = None,
    device: Device = "auto",
    dtype: DType = None,
    attn_implementation: Attn = None,
    device_map: DeviceMap = None,
    seed: Annotated[
        int, typer.Option(help="Random seed of weights, batches and questions.", min=0, rich_help_panel=TRAINING)
    ] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a selector from the model's own attention.

    The model only runs forward and does not change.
    If the command is interrupted, run it again: it resumes.
    """
    from omnisift.cli.distill_screen import show_agreement
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline.loading import load_host
    from omnisift.training import distill as library

    if media.is_file():
        raise UsageError(f"{media} is a file; --media takes a folder of at least two clips")
    check_folder(out, force)
    silence_libraries()
    clips, question_texts = library.find_clips(media), library.load_questions(prompts)
    settings = library.DistillSettings(
        max_steps=steps,
        learning_rate=rate,
        questions=questions,
        time_embedding=time_embedding,
        video_score=video,
        weighted=weighting,
        rows=rows,
        held_out=held_out,
        fps=fps,
        max_frames=max_frames,
        seed=seed,
    )
    host, console = load_host(model, device, dtype, attn_implementation, device_map), console_for(stderr=True)
    recordings = out.with_name(f"{out.name}.work") if work is None else work
    with CountBar(console, "recording attention", len(clips), quiet=as_json) as step:
        samples, skipped = library.observe_clips(host, clips, question_texts, settings, recordings, step)
    with CountBar(console, "training the selector", steps * (1 + video), quiet=as_json) as step:
        selector, report = library.distill(host, samples, settings, step)
    library.save_selector(selector, report | {"skipped": skipped}, out)
    if as_json:
        typer.echo(json.dumps(report | {"skipped": skipped, "selector": str(out)}))
    else:
        show_agreement(console_for(stderr=False), report, len(skipped), out)
