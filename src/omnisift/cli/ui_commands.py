"""`omnisift ui`: try a model on a clip in the browser (docs/ui.md)."""

from __future__ import annotations

import signal
import sys
import threading
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
    Model,
    SamplingRule,
    Seed,
    Selector,
)


def ui(
    model: Model = "nano",
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

    check_installed()
    check_address(host, port)
    # Like Ctrl-C: uploads and samples go.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    reading = {"fps": fps, "max_frames": max_frames, "max_pixels": max_pixels, "sampling": sampling}
    with room() as folder:
        from omnisift.cli.quiet import hush_libraries
        from omnisift.pipeline.loading import load_host
        from omnisift.ui.desk import Desk

        hush_libraries()
        loaded = load_host(model, device, dtype, attn)
        desk = Desk(loaded, [folder], selector=selector, seed=seed, max_new_tokens=max_new_tokens, reading=reading)
        page = launch(
            desk,
            folder,
            host=host,
            port=port,
            most_mb=max_upload,
            ready=lambda address: typer.echo(f"{address}  ({model}; Ctrl-C ends it)"),
        )
        try:
            threading.Event().wait()  # until Ctrl-C or SIGTERM
        finally:
            page.close()
