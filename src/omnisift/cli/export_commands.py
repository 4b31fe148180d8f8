"""`omnisift export`: weights out of a model or a run of training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.quiet import hush_libraries
from omnisift.errors import UsageError


def export(
    model: Annotated[str, typer.Argument(help="nano, or a checkpoint folder, as runs/train/nano/model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    selector: Annotated[Path | None, typer.Option(help="Folder of a selector. [default: the model's own]")] = None,
    form: Annotated[str, typer.Option("--as", help="selector: it alone; merged: model and selector.")] = "selector",
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Write the selector as its own small folder, or merged into the checkpoint in the released layout."""
    from omnisift.assets import nano_path
    from omnisift.pipeline.loading import load_host, load_selector
    from omnisift.training.export import export_merged, export_selector

    if form not in ("selector", "merged"):
        raise UsageError(f"--as takes selector or merged, got {form!r}")
    if out.exists() and not force:
        raise UsageError(f"{out} exists; choose another name or add --force")
    source = nano_path() if model == "nano" else Path(model)
    if not (source / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give nano or the folder of a checkpoint")
    if selector is not None and out.resolve() in (selector.resolve(), source.resolve()):
        raise UsageError(f"{out} is where the weights come from; choose another name")
    hush_libraries()
    vgas = load_selector(load_host(str(source), "cpu", None, None), selector)
    if out.exists():
        shutil.rmtree(out)
    if form == "selector":
        export_selector(vgas, out)
    else:
        export_merged(source, vgas, out)
    count = sum(parameter.numel() for parameter in vgas.parameters())
    found = {"folder": str(out), "form": form, "selector": vgas.label or "released layout", "parameters": count}
    typer.echo(
        json.dumps(found) if as_json else f"{out}: {form}, {count:,} parameters of the selector ({found['selector']})"
    )
