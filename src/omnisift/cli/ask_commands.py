"""`omnisift ask`: answer questions about a clip."""

from __future__ import annotations

import json
from typing import Annotated, cast

import typer

from omnisift.cli.options import (
    Attn,
    Clip,
    Compressor,
    Device,
    DType,
    Fps,
    Json,
    MaxFrames,
    MaxNewTokens,
    MaxPixels,
    Model,
    Retain,
    RetainAudio,
    RetainVideo,
    SamplingRule,
    Seed,
    Selector,
)
from omnisift.cli.silence import silence_libraries


def ask(
    clip: Clip,
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="The question, in the model's language.")],
    model: Model = "nano",
    compressor: Compressor = "omnisift",
    retain: Retain = None,
    retain_video: RetainVideo = None,
    retain_audio: RetainAudio = None,
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
    as_json: Json = False,
) -> None:
    """Answer a question about a clip."""
    from omnisift.cli.screen import StageBar, console_for, show_answer

    with StageBar(console_for(stderr=True), quiet=as_json) as bar:
        from omnisift.media.reading import Sampling
        from omnisift.pipeline import load

        silence_libraries()
        pipeline = load(
            model,
            compressor=None if compressor == "none" else compressor,
            retain=retain,
            retain_video=retain_video,
            retain_audio=retain_audio,
            selector=selector,
            seed=seed,
            device=device,
            dtype=dtype,
            attn=attn,
        )
        answer = pipeline.ask(
            clip,
            question,
            fps=fps,
            max_frames=max_frames,
            max_pixels=max_pixels,
            sampling=cast("Sampling", sampling),
            max_new_tokens=max_new_tokens,
            on_stage=bar.stage,
        )
    if as_json:
        typer.echo(json.dumps(answer.to_dict()))
    else:
        show_answer(console_for(stderr=False), answer)
