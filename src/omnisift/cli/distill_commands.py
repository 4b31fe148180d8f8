"""`omnisift distill`: a selector for any model, from clips without labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import Attn, Device, DType, Fps, Json, Model
from omnisift.cli.output_paths import check_folder
from omnisift.cli.silence import silence_libraries


def distill(
    media: Annotated[Path, typer.Option(help="Folder of clips with picture and sound; no labels are needed.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the selector, for --selector.")],
    model: Model = "nano",
    prompts: Annotated[Path | None, typer.Option(help="Questions, one a line. [default: six general ones]")] = None,
    questions: Annotated[int, typer.Option(help="Questions of each clip.", min=1)] = 4,
    steps: Annotated[int, typer.Option(help="Training steps of the selector.", min=1)] = 200,
    rate: Annotated[float, typer.Option(help="Its peak learning rate.")] = 1e-3,
    time_embedding: Annotated[bool, typer.Option(help="Our addition; off gives the released layout.")] = True,
    picture: Annotated[bool, typer.Option(help="Teach a score for the picture too, in STVP's place.")] = False,
    weighting: Annotated[bool, typer.Option(help="Attention times how unlike its chunk's mean a sound is.")] = True,
    rows: Annotated[str, typer.Option(help="answer: where it is due; question: all that follows the clip.")] = "answer",
    fps: Fps = 2.0,
    max_frames: Annotated[int, typer.Option(help="Most pictures of a clip.", min=2)] = 256,
    held_out: Annotated[float, typer.Option(help="Share of the clips that only measure.", min=0.0, max=0.9)] = 0.1,
    work: Annotated[Path | None, typer.Option(help="Folder of what was observed. [default: OUT.work]")] = None,
    device: Device = "cpu",
    dtype: DType = None,
    attn: Attn = None,
    seed: Annotated[int, typer.Option(help="Of new weights, batches and questions.", min=0)] = 0,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a selector that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Train a selector on what the model itself looks at. Forward passes only; the model stays as it is."""
    from omnisift.cli.distill_screen import show_agreement
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline.loading import load_host
    from omnisift.training import distill as room

    check_folder(out, force)
    silence_libraries()
    clips, asked = room.find_clips(media), room.load_questions(prompts)
    settings = room.DistillSettings(
        max_steps=steps,
        learning_rate=rate,
        questions=questions,
        time_embedding=time_embedding,
        video_score=picture,
        weighted=weighting,
        rows=rows,
        held_out=held_out,
        fps=fps,
        max_frames=max_frames,
        seed=seed,
    )
    host, console = load_host(model, device, dtype, attn), console_for(stderr=True)
    place = out.with_name(f"{out.name}.work") if work is None else work
    with CountBar(console, "watching the model", len(clips), 0) as step:
        lessons, skipped = room.observe_clips(host, clips, asked, settings, place, step)
    with CountBar(console, "teaching the selector", steps * (1 + picture), 0) as step:
        selector, report = room.distill(host, lessons, settings, step)
    room.save_selector(selector, report | {"skipped": skipped}, out)
    if as_json:
        typer.echo(json.dumps(report | {"skipped": skipped, "selector": str(out)}))
    else:
        show_agreement(console_for(stderr=False), report, len(skipped), out)
