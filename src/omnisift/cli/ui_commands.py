"""`omnisift ui`: try a model on a clip in the browser (docs/ui.md)."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from typing import Annotated

import typer

from omnisift.cli.options import (
    Attn,
    Device,
    DType,
    Fps,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.errors import UsageError


def ui(
    model: Annotated[
        list[str] | None,
        typer.Option(help="nano (bundled), a checkpoint folder, or a hub id; again for more to choose from."),
    ] = None,
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
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets others in, who need no password.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    max_upload: Annotated[int, typer.Option(help="Most megabytes of an uploaded clip.", min=1)] = 200,
) -> None:
    """Open a local page to try the model: a clip, a question, the answers, and what each method kept."""
    from omnisift.ui.serving import check_address, check_installed, launch, room

    names = list(dict.fromkeys(model or ["nano"]))
    if selector is not None and len(names) > 1:
        raise UsageError("--selector fits one model; with several, each takes the selector in its own checkpoint")
    check_installed()
    check_address(host, port)
    # Like Ctrl-C: uploads and samples go.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    reading = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels, "sampling": sampling}
    with room() as folder:
        from omnisift.cli.silence import silence_libraries
        from omnisift.pipeline.loading import load_host
        from omnisift.ui.session import Session

        silence_libraries()
        desk = partial(Session, selector=selector, seed=seed, max_new_tokens=max_new_tokens, reading=reading)
        desks = {name: desk(load_host(name, device, dtype, attn), [folder]) for name in names}
        page = launch(
            desks,
            folder,
            host=host,
            port=port,
            most_mb=max_upload,
            ready=lambda address: typer.echo(f"{address}  ({', '.join(names)}; Ctrl-C ends it)"),
        )
        try:
            threading.Event().wait()  # until Ctrl-C or SIGTERM
        finally:
            page.close()
