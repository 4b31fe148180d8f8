"""`omnisift serve`: vLLM's OpenAI-compatible server with compressed prompts (docs/serving.md)."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import BUDGET, with_records
from omnisift.config import CompressionConfig, ServedReadOptions
from omnisift.serving.fetch_limits import FetchLimits

SERVER = "Server"
"""Panel of the help screen."""

if TYPE_CHECKING:
    from omnisift.serving.command import Server


@with_records
def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="nano (bundled), a checkpoint folder, or a hub id.")],
    *,
    method: CompressionConfig,
    compress_audio: Annotated[bool, typer.Option(hidden=True)] = False,  # refused by name
    max_retain: Annotated[
        float,
        typer.Option(
            "--max-retain", "--retain-most", help="Maximum fraction that a request may set.", rich_help_panel=BUDGET
        ),
    ] = 1.0,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; 0.0.0.0 exposes the server to the network.", rich_help_panel=SERVER),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", rich_help_panel=SERVER)] = 8000,
    read_options: ServedReadOptions,
    media_host: Annotated[
        list[str] | None,
        typer.Option(help="Host from which media may be fetched; may be repeated.", rich_help_panel=SERVER),
    ] = None,
    max_media: Annotated[
        int, typer.Option(help="Maximum size of a clip, sent or fetched, in megabytes.", rich_help_panel=SERVER)
    ] = FetchLimits.max_media,
    fetch_timeout: Annotated[
        float, typer.Option(help="Maximum time to fetch a file, in seconds.", rich_help_panel=SERVER)
    ] = FetchLimits.fetch_timeout,
    max_fetches: Annotated[
        int, typer.Option(help="Maximum number of files fetched at once.", rich_help_panel=SERVER)
    ] = FetchLimits.max_fetches,
    max_redirects: Annotated[
        int, typer.Option(help="Maximum number of redirects to follow.", rich_help_panel=SERVER)
    ] = FetchLimits.max_redirects,
    media_folder: Annotated[
        Path | None, typer.Option(help="Folder of local files that requests may use.", rich_help_panel=SERVER)
    ] = None,
) -> None:
    """Serve chat completions with compression (vLLM).

    Runs vLLM's OpenAI-compatible server; a video's audio is included.
    Flags after -- go to vLLM.
    """
    from omnisift.pipeline.method import resolve_settings
    from omnisift.pipeline.report import with_reason
    from omnisift.serving.command import Server
    from omnisift.serving.vllm.settings import Settings
    from omnisift.utils.quiet import silence_libraries

    silence_libraries()
    settings = Settings(max_retain=max_retain, **method.compression | {"compress_audio": compress_audio})
    settings.check()
    settings, reason = resolve_settings(settings, model)
    server = Server(
        model,
        settings,
        host=host,
        port=port,
        media_hosts=tuple(media_host or ()),
        fetch_limits=FetchLimits(
            max_media=max_media, fetch_timeout=fetch_timeout, max_fetches=max_fetches, max_redirects=max_redirects
        ),
        media_folder=media_folder,
        vllm_args=tuple(context.args),
        **read_options.reading,
    )
    with tempfile.TemporaryDirectory(prefix="omnisift-") as folder:
        started = f"{model} with {with_reason(settings.compressor, reason)}, retain {settings.budget.words}"
        code = _run(_with_full_checkpoint(server, Path(folder)), started)
    raise typer.Exit(code)


def _with_full_checkpoint(server: Server, folder: Path) -> Server:
    """Save nano, which is only a thinker, as the full model that vLLM expects."""
    if server.model != "nano":
        return server
    from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
    from omnisift.utils.assets import nano_path

    wrap_as_full_checkpoint(nano_path(), folder / "nano")
    return replace(server, model=str(folder / "nano"), served_name="nano")


def _run(server: Server, started: str) -> int:
    """Run the server until it ends or a signal arrives, after a line about it; returns its exit code."""
    server.check()
    typer.echo(started, err=True)
    process = subprocess.Popen(server.command(), env=server.environment())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: process.send_signal(received))
    return process.wait()
