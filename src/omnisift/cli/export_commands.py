"""`omnisift export`: weights out of a model or a run of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import Json
from omnisift.cli.output_paths import check_folder
from omnisift.cli.silence import silence_libraries
from omnisift.errors import UsageError


def export(
    model: Annotated[str, typer.Argument(help="nano, or a checkpoint folder, as runs/train/nano/model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")],
    selector: Annotated[Path | None, typer.Option(help="Folder of a selector. [default: the model's own]")] = None,
    form: Annotated[str, typer.Option("--as", help="selector: it alone; merged: model and selector.")] = "selector",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: as stored]")] = None,
    max_shard_size: Annotated[
        str | None, typer.Option(help="As 5GB. [default: the model's shards as they are]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write the selector as its own small folder, or merged into the checkpoint in the released layout."""
    from omnisift.assets import nano_path
    from omnisift.training.export import export_merged, export_selector, parse_storage, selector_of

    if form not in ("selector", "merged"):
        raise UsageError(f"--as takes selector or merged, got {form!r}")
    source = nano_path() if model == "nano" else Path(model)
    _check_place(out, [source] if selector is None else [source, selector], force)
    how = parse_storage(dtype, max_shard_size)
    silence_libraries()
    vgas = selector_of(source, selector)
    if form == "selector":
        export_selector(vgas, out, how)
    else:
        export_merged(source, vgas, out, how)
    count = sum(parameter.numel() for parameter in vgas.parameters())
    found = {"folder": str(out), "form": form, "selector": vgas.label or "released layout", "parameters": count}
    typer.echo(
        json.dumps(found) if as_json else f"{out}: {form}, {count:,} parameters of the selector ({found['selector']})"
    )


def _check_place(out: Path, sources: list[Path], force: bool) -> None:
    """`UsageError` if ``out`` is taken, or if replacing it would take the weights with it."""
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{out} is where the weights come from; choose another name")
    check_folder(out, force)
