"""`omnisift train`, and the commands that prepare its data: `make-dataset`, `convert`, `data-check`."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import OUTPUT, Force, Json, Public, PushToHub
from omnisift.cli.output_paths import check_file
from omnisift.config import parse_yaml
from omnisift.errors import UsageError, install_hint
from omnisift.utils.parsing import shown
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.training.data import DataRows
    from omnisift.training.data.check import Findings
    from omnisift.training.finetune import RunPlan, TrainReport

Source = Annotated[Path, typer.Argument(metavar="SOURCE", help="A data file, or a folder with metadata.jsonl.")]


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file, for example recipes/train/nano.yaml.")],
    out: Annotated[
        str | None, typer.Option(help="Folder of the run.", show_default="the recipe's", rich_help_panel=OUTPUT)
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; may be repeated."),
    ] = None,
    push: PushToHub = None,
    public: Public = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the recipe and estimate memory and hours; train nothing.")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option(help="With --dry-run: TFLOP/s of one device.", min=1e-6, show_default="measured here"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model under compression.

    If it is interrupted, run it again: it resumes from the last checkpoint.
    """
    from omnisift.cli.screen import console_for

    for library in ("accelerate", "peft", "tensorboard", "yaml"):
        if find_spec(library) is None:
            raise UsageError(f"training needs {library}, which is not installed: " + install_hint("train"))
    from omnisift.training.finetune import fine_tune, load_train_recipe, plan_run

    if tflops is not None and not dry_run:
        raise UsageError("--tflops goes with --dry-run; add it, or leave --tflops out")
    silence_libraries()
    changes = overrides(change or []) | ({} if out is None else {"output_dir": out})
    if push is not None:
        changes |= {"hub_model_id": push}
    if public:
        changes |= {"hub_private_repo": False}
    console = console_for(stderr=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FutureWarning)
        settings = load_train_recipe(recipe, changes)
    for warning in caught:
        typer.echo(f"warning: {warning.message}", err=True)
    if public and settings.hub_model_id is None:
        raise UsageError("--public goes with --push-to-hub REPO; add it, or leave --public out")
    if dry_run:
        show_plan(console_for(stderr=False), plan_run(settings, tflops), as_json)
        return
    with StageBars(console, quiet=as_json) as on_progress:
        report = fine_tune(settings, progress=console.is_terminal and not as_json, on_progress=on_progress)
    if int(os.environ.get("RANK", "0")):
        return  # only the first process reports
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show_training(console_for(stderr=False), report)
    if not report.finished:
        typer.echo(f"stopped after step {report.steps}; run the same command to resume", err=True)
        raise typer.Exit(143)


class StageBars:
    """One `CountBar` per stage of a training run; entering it returns the ``on_progress`` of `fine_tune`."""

    def __init__(self, console: Console, quiet: bool) -> None:
        self._console, self._quiet = console, quiet
        self._stage = ""
        self._bars = ExitStack()

    def __enter__(self) -> Callable[[str, int, int], None]:
        return self._show

    def __exit__(self, *_: object) -> None:
        self._bars.close()

    def _show(self, stage: str, done: int, total: int) -> None:
        from omnisift.cli.screen import CountBar

        if stage != self._stage:
            self._bars.close()
            # On a terminal the Trainer shows a bar over the training steps.
            hidden = self._quiet or (stage == "training" and self._console.is_terminal)
            self._step = self._bars.enter_context(CountBar(self._console, stage, total, done - 1, hidden))
            self._stage = stage
        self._step()


def overrides(pairs: list[str]) -> dict[str, Any]:
    """Parse ``key=value`` pairs, values as YAML. Raises `UsageError` for a pair without ``=``."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes key=value, got {pair!r}")
        values[name] = parse_yaml(value, f"--set {name}: {shown(value)}")
    return values


def make_dataset(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of clips and metadata.jsonl.")],
    clips: Annotated[int, typer.Option(help="Number of clips.", min=1)] = 48,
    seed: Annotated[int, typer.Option(help="Number of the first clip.", min=0)] = 0,
    questions: Annotated[int, typer.Option(help="Questions per clip, in addition to its caption.", min=0)] = 4,
    setting: Annotated[str, typer.Option(help="Setting of the generated world, such as crowd, or wide+dark.")] = "base",
    as_json: Json = False,
) -> None:
    """Generate a small training data set for nano.

    Clips, captions, and questions with answers. Existing clips are kept.
    """
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.world.dataset import write_dataset

    with CountBar(console_for(stderr=True), "writing clips", clips, quiet=as_json) as step:
        rows = write_dataset(folder, clips, seed, questions, step, setting)
    result = {"folder": str(folder), "clips": clips, "samples": rows}
    typer.echo(json.dumps(result) if as_json else f"{folder}: {clips} clips, {rows} samples in metadata.jsonl")


def convert(
    source: Source,
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="The .jsonl file to write; with --to folder, the folder of the clips."),
    ],
    to: Annotated[str, typer.Option(help="messages, sharegpt, llava or folder.")] = "messages",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert training data to another format.

    Only the data file is written; clips stay where they are.
    """
    from omnisift.training.data import read_rows, save_folder, save_samples
    from omnisift.training.data.files import METADATA
    from omnisift.training.data.rows import FORMS

    if to not in (*FORMS, "folder"):
        raise UsageError(f"no format {to!r}; choose one of: {', '.join(FORMS)}, folder")
    check_file(target / METADATA if to == "folder" else target, force)
    rows = read_rows([source])
    if to == "folder":
        save_folder(rows.samples, target)
    else:
        save_samples(rows.samples, target, to)
    result = {"target": str(target), "form": to, "samples": len(rows.samples)}
    typer.echo(json.dumps(result | rows.to_dict()) if as_json else f"{target}: {len(rows.samples)} samples as {to}")
    for line in rows.notes():
        typer.echo(line, err=True)


def data_check(
    source: Source,
    clean: Annotated[
        Path | None, typer.Option(help="Write the usable samples to this file, as messages.", rich_help_panel=OUTPUT)
    ] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Maximum length of a clip.")] = None,
    model: Annotated[str, typer.Option(help="Model whose special tokens the texts may not contain.")] = "nano",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find unusable rows and clips before training.

    Reports rows that train leaves out, keys that are not understood, and clips
    that are missing, broken, too long, silent or without video.
    """
    from omnisift.cli.screen import CountBar, console_for
    from omnisift.pipeline.loading import special_tokens
    from omnisift.training.data import read_rows, save_samples
    from omnisift.training.data.check import check_samples

    if clean is not None:
        check_file(clean, force)
    silence_libraries()
    rows = read_rows([source], special_tokens(model))
    samples = rows.samples
    total = len({sample.media for sample in samples if sample.media is not None})
    with CountBar(console_for(stderr=True), "reading clips", total, quiet=as_json) as step:
        findings = check_samples(samples, max_seconds, step)
    if clean is not None:
        save_samples(findings.clean, clean, "messages")
    if as_json:
        kept = {"samples": findings.samples, "clips": findings.clips, "usable": len(findings.clean)}
        typer.echo(json.dumps(kept | {"found": findings.found} | rows.to_dict()))
    else:
        show_findings(console_for(stderr=False), findings, clean, rows)


def show_plan(console: Console, plan: RunPlan, as_json: bool) -> None:
    """Print what a run will need."""
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps(plan.to_dict()))
        return
    memory, gigabyte = plan.memory, 1e9
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("steps", f"{plan.steps} on {plan.rows} rows")
    table.add_row("tokens per row", f"{plan.tokens}, {plan.kept} after compression; longest {plan.longest}")
    table.add_row("parameters", f"{plan.trained / 1e6:,.1f} M trained, {plan.frozen / 1e6:,.1f} M frozen")
    copied = f", frozen copy {memory.teacher / gigabyte:.2f}" if memory.teacher else ""
    shared = f"; {memory.sharded(plan.devices) / gigabyte:.2f} with FSDP2" if plan.devices > 1 else ""
    table.add_row(
        "memory (formula)",
        f"{memory.peak / gigabyte:.2f} GB per device: weights {memory.weights / gigabyte:.2f}, "
        f"optimizer {memory.optimizer / gigabyte:.2f}, activations {memory.activations / gigabyte:.2f}{copied}{shared}",
    )
    hours = f"{plan.hours:,.1f}" if plan.hours >= 1 else f"{plan.hours:.2g}"
    table.add_row(
        "hours (formula)",
        f"{hours}: {plan.tflop:,.1f} TFLOP on {plan.devices} x {plan.tflops:.3g} TFLOP/s ({plan.throughput})",
    )
    table.add_row("reading", f"{plan.read_seconds:.2f} s per row here ({plan.sampled} rows tried)")
    console.print(table)


def show_training(console: Console, report: TrainReport) -> None:
    """Print what a training run did, and how to use its result."""
    from rich.table import Table
    from rich.text import Text

    from omnisift.cli.screen import command_name

    table = Table(box=None, show_header=False, pad_edge=False)
    state = "finished" if report.finished else "stopped early"
    table.add_row("steps", f"{report.steps} ({state})")
    table.add_row("loss", f"{report.first_loss:.3f} first, {report.last_loss:.3f} last")
    table.add_row("tokens kept", f"{100 * report.retained_ratio:.1f} % of video and audio")
    if report.eval_loss is not None:
        accuracy = "" if report.eval_accuracy is None else f", {100 * report.eval_accuracy:.1f} % of short answers"
        table.add_row("validation", f"loss {report.eval_loss:.3f}{accuracy}")
    table.add_row("samples", f"{report.samples}, {len(report.skipped)} left out")
    table.add_row("seconds", f"{report.seconds:.0f}")
    console.print(table)
    if report.hub_url is not None:
        console.print(Text(f"selector: {report.hub_url}"))
    for name, why in list(report.skipped.items())[:5]:
        console.print(Text(f"left out: {name}: {why}"))
    if report.finished:
        console.print(Text(f'{command_name()} ask CLIP "QUESTION" --model {report.model}'))


def show_findings(console: Console, findings: Findings, clean: Path | None, rows: DataRows) -> None:
    """Print which rows are left out, and how many clips have which problem, with the first names of each."""
    from rich.text import Text

    console.print(f"{findings.samples} samples, {findings.clips} clips")
    for note in rows.notes():
        console.print(Text(note), soft_wrap=True)
    for kind, clips in findings.found.items():
        if clips:
            console.print(Text(f"{kind}: {len(clips)}"))
        for name, what in list(clips.items())[:3]:
            console.print(Text(f"  {name}: {what}"), soft_wrap=True)
    usable = f"{len(findings.clean)} of {findings.samples + len(rows.refused)} samples can be used"
    console.print(Text(usable + ("" if clean is None else f"; written to {clean}")))
