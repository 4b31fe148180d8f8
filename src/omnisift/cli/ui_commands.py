"""`omnisift ui`: try a model on a clip in the browser."""

from __future__ import annotations

import signal
import sys
import threading
from functools import partial
from typing import Annotated

import typer

from omnisift.cli.options import CompressAudio, MappedModelOptions, MaxNewTokens, Seed, Selector, with_records
from omnisift.config import CompressionConfig, ServedReadOptions
from omnisift.errors import UsageError


@with_records
def ui(
    model: Annotated[
        list[str] | None,
        typer.Option(help="nano (bundled), a checkpoint folder, or a hub id. Repeat it to offer several on the page."),
    ] = None,
    *,
    models: MappedModelOptions,
    selector: Selector = CompressionConfig.selector,
    seed: Seed = CompressionConfig.seed,
    compress_audio: CompressAudio = CompressionConfig.compress_audio,
    read_options: ServedReadOptions,
    max_new_tokens: MaxNewTokens = 256,
    host: Annotated[
        str, typer.Option(help="Address to listen at. 0.0.0.0 opens the page to the network, without a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 7860,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name under which the page may be requested; may be repeated."),
    ] = None,
    max_upload: Annotated[int, typer.Option(help="Maximum size of an uploaded clip, in megabytes.", min=1)] = 200,
    upload_space: Annotated[
        int | None,
        typer.Option(
            help="Maximum size of all uploads, in megabytes; the oldest make room. Default: ten times --max-upload."
        ),
    ] = None,
    live_streams: Annotated[
        int, typer.Option(help="Maximum number of live streams at a time, of all users together.", min=1)
    ] = 2,
    live_idle: Annotated[
        float, typer.Option(help="Seconds without images and sound after which a live stream is closed.", min=1)
    ] = 30.0,
) -> None:
    """Open a local page to try a model on a clip, with what each method kept of it, or on camera and microphone."""
    from omnisift.ui.serving import check_address, check_installed, launch, private_folder

    names = list(dict.fromkeys(model or ["nano"]))
    if selector is not None and len(names) > 1:
        raise UsageError("--selector fits one model; with several, each uses the selector in its own checkpoint")
    upload_space = 10 * max_upload if upload_space is None else upload_space
    if upload_space < max_upload:
        raise UsageError(
            f"--upload-space {upload_space} is less than --max-upload {max_upload}; give it at least as much"
        )
    read_options.check()
    check_address(host, port)
    # SIGTERM ends the program as Ctrl-C does, so that uploads and samples are deleted.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with private_folder() as folder:
        check_installed()
        from omnisift.pipeline.loading import load_host
        from omnisift.ui.live import LiveLimits
        from omnisift.ui.live_sessions import LiveSessions, opener
        from omnisift.ui.session import Session
        from omnisift.utils.quiet import silence_libraries

        silence_libraries()
        session = partial(
            Session,
            selector=selector,
            seed=seed,
            compress_audio=compress_audio,
            max_new_tokens=max_new_tokens,
            read_options=read_options.reading,
        )
        sessions = {name: session(load_host(name, **models.placement), [folder]) for name in names}
        limits = LiveLimits(sessions=live_streams, idle_seconds=live_idle, max_new_tokens=max_new_tokens)
        live = LiveSessions({name: opener(each) for name, each in sessions.items()}, limits)
        page = launch(
            sessions,
            folder,
            live=live,
            host=host,
            port=port,
            allow_hosts=allow_host or (),
            max_upload_mb=max_upload,
            upload_space_mb=upload_space,
            on_ready=lambda address: typer.echo(f"{address}  ({', '.join(names)}; Ctrl-C stops it)"),
        )
        try:
            threading.Event().wait()  # until Ctrl-C or SIGTERM
        finally:
            page.close()
            live.close()
