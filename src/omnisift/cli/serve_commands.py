"""`omnisift serve`: an OpenAI-compatible server whose prompts are compressed (docs/serving.md)."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import Compressor, Fps, MaxFrames, MaxPixels, Retain, RetainAudio, RetainVideo, Seed, Selector

if TYPE_CHECKING:
    from omnisift.serving.command import Server


def serve(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="nano (bundled), a checkpoint folder, or a hub id.")],
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
    retain_most: Annotated[float, typer.Option(help="The most that a request may ask to keep.")] = 1.0,
    selector: Selector = None,
    seed: Seed = 0,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.")] = 8000,
    fps: Fps = 2.0,
    max_frames: MaxFrames = 256,
    max_pixels: MaxPixels = None,
    media_host: Annotated[
        list[str] | None, typer.Option(help="A host that media may be fetched from; again for more.")
    ] = None,
    media_folder: Annotated[Path | None, typer.Option(help="A folder whose files requests may name.")] = None,
) -> None:
    """Serve compressed prompts with vLLM: chat completions, a video's sound included. Flags behind -- go to vLLM."""
    from omnisift.cli.silence import silence_libraries
    from omnisift.serving.command import Server
    from omnisift.serving.vllm.settings import Settings

    silence_libraries()
    settings = Settings(compressor, retain, retain_video, retain_audio, retain_most, selector, seed).checked()
    server = Server(
        model,
        settings,
        host=host,
        port=port,
        fps=fps,
        max_frames=max_frames,
        max_pixels=max_pixels,
        media_hosts=tuple(media_host or ()),
        media_folder=media_folder,
        more=tuple(context.args),
    )
    with tempfile.TemporaryDirectory(prefix="omnisift-") as room:
        code = _run(_dressed(server, Path(room)))
    raise typer.Exit(code)


def _dressed(server: Server, room: Path) -> Server:
    """nano is a thinker alone: vLLM gets it as a full model."""
    if server.model != "nano":
        return server
    from omnisift.assets import nano_path
    from omnisift.serving.full_checkpoint import dress

    dress(nano_path(), room / "nano")
    return replace(server, model=str(room / "nano"), name="nano")


def _run(server: Server) -> int:
    """Run the server until it ends or we are told to stop; its exit code."""
    server.check()
    process = subprocess.Popen(server.command(), env=server.environment())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: process.send_signal(got))
    return process.wait()
