"""`omnisift train`, and what prepares its data: `make-dataset`, `convert`, `data-check`."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from omnisift.cli.options import Json
from omnisift.cli.output_paths import check_file
from omnisift.cli.silence import silence_libraries
from omnisift.errors import UsageError, install_hint

Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


def train(
    recipe: Annotated[Path, typer.Argument(help="A YAML file, as recipes/train/nano.yaml.")],
    out: Annotated[str | None, typer.Option(help="Folder of the run, instead of the recipe's.")] = None,
    change: Annotated[list[str] | None, typer.Option("--set", help="key=value, instead of the recipe's.")] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a model under compression. Interrupt it and run it again: it goes on."""
    from omnisift.cli.screen import console_for, show_training

    for library in ("accelerate", "peft", "tensorboard", "yaml"):
        if find_spec(library) is None:
            raise UsageError(f"training needs {library}, which is not installed: " + install_hint("train"))
    from omnisift.training.finetune import fine_tune, load_train_recipe

    silence_libraries()
    changes = changed(change or []) | ({} if out is None else {"output_dir": out})
    console = console_for(stderr=True)
    report = fine_tune(load_train_recipe(recipe, changes), progress=console.is_terminal and not as_json)
    if int(os.environ.get("RANK", "0")):
        return  # the first process speaks for all
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
    else:
        show_training(console_for(stderr=False), report)
    if not report.finished:
        typer.echo(f"stopped after step {report.steps}; run the same command to go on", err=True)
        raise typer.Exit(143)


def changed(pairs: list[str]) -> dict[str, Any]:
    """``key=value`` pairs, the values read as YAML. Raises `UsageError` for one without ``=``."""
    import yaml

    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--set takes key=value, got {pair!r}")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {name}: {value!r} is not a YAML value") from None
    return found


def make_dataset(
    folder: Annotated[Path, typer.Argument(help="Where clips and metadata.jsonl go.")],
    clips: Annotated[int, typer.Option(help="How many clips of nano's world.", min=1)] = 48,
    seed: Annotated[int, typer.Option(help="Number of the first clip.", min=0)] = 0,
    questions: Annotated[int, typer.Option(help="Questions for each clip, beside its caption.", min=0)] = 4,
    as_json: Json = False,
) -> None:
    """Write a small data set of nano's world: clips, captions, questions with answers. Clips that are there stay."""
    from omnisift.cli.dataset import write_dataset
    from omnisift.cli.screen import CountBar, console_for

    with CountBar(console_for(stderr=True), "writing clips", clips, 0) as step:
        rows = write_dataset(folder, clips, seed, questions, step)
    found = {"folder": str(folder), "clips": clips, "samples": rows}
    typer.echo(json.dumps(found) if as_json else f"{folder}: {clips} clips, {rows} samples in metadata.jsonl")


def convert(
    source: Annotated[Path, typer.Argument(help="A data file, or a folder with metadata.jsonl.")],
    target: Annotated[Path, typer.Argument(help="The file to write, .jsonl; for folder, the folder of the clips.")],
    to: Annotated[str, typer.Option(help="messages, sharegpt, llava or folder.")] = "messages",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write training data in another form. Clips stay where they are."""
    from omnisift.training.data import load_samples, save_folder, save_samples
    from omnisift.training.data.files import METADATA
    from omnisift.training.data.rows import FORMS

    if to not in (*FORMS, "folder"):
        raise UsageError(f"no form {to!r}; choose one of: {', '.join(FORMS)}, folder")
    check_file(target / METADATA if to == "folder" else target, force)
    samples = load_samples(source)
    if to == "folder":
        save_folder(samples, target)
    else:
        save_samples(samples, target, to)
    found = {"target": str(target), "form": to, "samples": len(samples)}
    typer.echo(json.dumps(found) if as_json else f"{target}: {len(samples)} samples as {to}")


def data_check(
    source: Annotated[Path, typer.Argument(help="A data file, or a folder with metadata.jsonl.")],
    clean: Annotated[Path | None, typer.Option(help="Write the usable samples here, as messages.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Longer clips are left out.")] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find clips that are missing, broken, too long, silent or without picture, before training does."""
    from omnisift.cli.screen import CountBar, console_for, show_findings
    from omnisift.training.data import load_samples, save_samples
    from omnisift.training.data.check import check_samples

    if clean is not None:
        check_file(clean, force)
    samples = load_samples(source)
    total = len({sample.media for sample in samples if sample.media is not None})
    with CountBar(console_for(stderr=True), "reading clips", total, 0) as step:
        findings = check_samples(samples, max_seconds, step)
    if clean is not None:
        save_samples(findings.clean, clean, "messages")
    if as_json:
        kept = {"samples": findings.samples, "clips": findings.clips, "usable": len(findings.clean)}
        typer.echo(json.dumps(kept | {"found": findings.found}))
    else:
        show_findings(console_for(stderr=False), findings, clean)
