"""`omnisift export`: save the selector of a model or training run, alone or merged into the checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from omnisift.cli.options import MODEL, OUTPUT, Force, Json, Public, PushToHub
from omnisift.cli.output_paths import check_folder
from omnisift.errors import UsageError
from omnisift.utils.quiet import silence_libraries


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="nano, or a checkpoint folder such as runs/train/nano/model.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.", rich_help_panel=OUTPUT)],
    selector: Annotated[
        Path | None,
        typer.Option(help="Folder of selector weights.", show_default="the model's own", rich_help_panel=MODEL),
    ] = None,
    form: Annotated[
        str,
        typer.Option("--as", help="selector: the selector alone; merged: model and selector.", rich_help_panel=OUTPUT),
    ] = "selector",
    dtype: Annotated[
        str | None,
        typer.Option(help="float32, bfloat16 or float16.", show_default="as stored", rich_help_panel=OUTPUT),
    ] = None,
    max_shard_size: Annotated[
        str | None,
        typer.Option(
            help="Maximum size of a weight file, for example 5GB.", show_default="as stored", rich_help_panel=OUTPUT
        ),
    ] = None,
    push: PushToHub = None,
    public: Public = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Save a selector, alone or merged into its model.

    The merged form is a checkpoint in the released layout.
    The selector alone is a small folder for --selector.
    """
    from omnisift.training.export import export_merged, export_selector, parse_storage, selector_of
    from omnisift.training.hub import check_hub, push_selector
    from omnisift.utils.assets import nano_path
    from omnisift.utils.checkpoint_files import read_json_object

    if form not in ("selector", "merged"):
        raise UsageError(f"--as takes selector or merged, got {form!r}")
    source = nano_path() if model == "nano" else Path(model)
    if push is not None and form != "selector":
        raise UsageError("--push-to-hub uploads a selector alone; leave out --as merged")
    if public and push is None:
        raise UsageError("--public goes with --push-to-hub REPO; add it, or leave --public out")
    if push is not None:
        check_hub(push, private=not public)
    _check_out(out, [source] if selector is None else [source, selector], force)
    options = parse_storage(dtype, max_shard_size)
    silence_libraries()
    vgas = selector_of(source, selector)
    model_type = read_json_object(source / "config.json").get("model_type")
    if form == "selector":
        export_selector(vgas, out, options, model_type)
    else:
        export_merged(source, vgas, out, options)
    address = None if push is None else push_selector(vgas, push, private=not public, model_type=model_type)
    count = sum(parameter.numel() for parameter in vgas.parameters())
    result = {"folder": str(out), "form": form, "selector": vgas.label or "released layout", "parameters": count}
    if address is not None:
        result["hub_url"] = address
    typer.echo(
        json.dumps(result) if as_json else f"{out}: {form}, selector of {count:,} parameters ({result['selector']})"
    )
    if address is not None and not as_json:
        typer.echo(f"uploaded to {address}")


def _check_out(out: Path, sources: list[Path], force: bool) -> None:
    """Raise `UsageError` if ``out`` exists, or if replacing it would delete the source weights."""
    for source in sources:
        if source.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{out} contains the source weights; choose another name")
    check_folder(out, force)
