"""`omnisift distill`: train a selector for a model from clips without labels."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import OUTPUT, DeviceMap, Force, Json, PlacedModelOptions, with_records
from omnisift.cli.output_paths import check_folder
from omnisift.config import ReadOptions
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

DATA, SELECTOR, TRAINING = "Data", "Selector", "Training"
"""Panels of the help screen."""

Media = Annotated[
    Path,
    typer.Option(
        help="Folder of clips with video, and audio if the model takes it, without labels.", rich_help_panel=DATA
    ),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the selector, for --selector.", rich_help_panel=OUTPUT)
]
Prompts = Annotated[
    Path | None,
    typer.Option(help="File of questions, one per line.", show_default="six general questions", rich_help_panel=DATA),
]
Questions = Annotated[int, typer.Option(help="Questions per clip.", min=1, rich_help_panel=DATA)]
Steps = Annotated[int, typer.Option(help="Training steps.", min=1, rich_help_panel=TRAINING)]
Rate = Annotated[float, typer.Option("--learning-rate", "--rate", help="Peak learning rate.", rich_help_panel=TRAINING)]
TimeEmbedding = Annotated[
    bool, typer.Option(help="Add our time embedding; without it, the released layout.", rich_help_panel=SELECTOR)
]
Video = Annotated[
    bool,
    typer.Option(
        "--video",
        "--picture",
        help="Also learn a video score, instead of STVP; for a model without audio, nothing else.",
        rich_help_panel=SELECTOR,
    ),
]
Weighting = Annotated[
    bool,
    typer.Option(
        help="Weight attention by each audio token's distance from its chunk's mean.", rich_help_panel=SELECTOR
    ),
]
Rows = Annotated[
    str,
    typer.Option(
        help="Positions whose attention is the target: answer (where the answer starts) or question (all after the "
        "clip).",
        rich_help_panel=TRAINING,
    ),
]
HeldOut = Annotated[
    float, typer.Option(help="Share of the clips for evaluation.", min=0.0, max=0.9, rich_help_panel=DATA)
]
Work = Annotated[
    Path | None, typer.Option(help="Folder of recorded attention.", show_default="OUT.work", rich_help_panel=OUTPUT)
]
TrainingSeed = Annotated[
    int, typer.Option(help="Random seed of weights, batches and questions.", min=0, rich_help_panel=TRAINING)
]
_LEGEND = (
    "same tokens: share of the tokens that the model's own attention would keep; attention kept: share of that "
    "attention on the kept tokens; rank correlation: of the scores with the attention."
)


@with_records
def distill(
    *,
    media: Media,
    out: Out,
    host: PlacedModelOptions,
    device_map: DeviceMap = None,
    prompts: Prompts = None,
    questions: Questions = 4,
    steps: Steps = 200,
    rate: Rate = 1e-3,
    time_embedding: TimeEmbedding = True,
    video: Video = False,
    weighting: Weighting = True,
    rows: Rows = "answer",
    read_options: ReadOptions,
    held_out: HeldOut = 0.1,
    work: Work = None,
    seed: TrainingSeed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Train a selector from the model's own attention.

    The model only runs forward and does not change.
    If the command is interrupted, run it again: it resumes.
    """
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline.loading import load_host
    from omnisift.pipeline.model_source import check_counted
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
        seed=seed,
        **read_options.reading,
    )
    loaded, console = load_host(host.model, **host.placement, device_map=device_map), console_for(stderr=True)
    check_counted(loaded.thinker.config.model_type, loaded.name, "distill")
    if (parts := library.parts_of(loaded, settings)) == ["video"] and not as_json:
        console.print(f"{host.model} takes no audio: a video score alone is trained", markup=False, soft_wrap=True)
    recordings = out.with_name(f"{out.name}.work") if work is None else work
    with CountBar(console, "recording attention", len(clips), quiet=as_json) as step:
        samples, skipped = library.observe_clips(loaded, clips, question_texts, settings, recordings, step)
    with CountBar(console, "training the selector", steps * len(parts), quiet=as_json) as step:
        selector, report = library.distill(loaded, samples, settings, step)
    library.save_selector(selector, report | {"skipped": skipped}, out)
    if as_json:
        typer.echo(json.dumps(report | {"skipped": skipped, "selector": str(out)}))
    else:
        show_agreement(console_for(stderr=False), report, len(skipped), out)


def show_agreement(console: Console, report: Mapping[str, Any], skipped: int, folder: Path) -> None:
    """Print how well the selector's choice agrees with the model's attention, compared with untrained choices."""
    from rich.text import Text

    from omnisift.cli.screen import command_name

    clips = report["clips"]
    console.print(f"{clips['taught']} clips for training, {clips['held out']} for evaluation, {skipped} left out")
    for modality, key in (("audio", "agreement"), ("video", "picture")):
        for retain, choices in report.get(key, {}).items():
            console.print(_table(f"{modality}, {100 * float(retain):g} % kept", choices))
    console.print(_LEGEND, style="dim")
    console.print(Text(f"selector: {folder}"), soft_wrap=True)
    model = "" if report["model"] == "nano" else f" --model {report['model']}"
    console.print(Text(f"Try: {command_name()} ask CLIP QUESTION{model} --selector {folder}"), soft_wrap=True)


def _table(title: str, choices: Mapping[str, Mapping[str, float]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(title)
    for head in ("same tokens", "attention kept", "rank correlation"):
        table.add_column(head, justify="right")
    for name, row in choices.items():
        shares = (f"{100 * row[key]:.1f} %" for key in ("overlap", "attention"))
        table.add_row(name, *shares, f"{row['rank']:.2f}")
    return table
