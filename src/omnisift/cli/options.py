"""Options that several commands have: one name, one sentence, one meaning. Defaults are each command's own."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="nano (bundled), a checkpoint folder, or a hub id.")]
Compressor = Annotated[
    str, typer.Option(help="A method (see `omnisift methods`), as evs or stvp+random, or none to read every token.")
]
Retain = Annotated[
    float | None, typer.Option(help="Fraction of video and audio tokens to keep together. [default: 0.25]")
]
RetainVideo = Annotated[float | None, typer.Option(help="Fraction of video tokens to keep; with --retain-audio.")]
RetainAudio = Annotated[float | None, typer.Option(help="Fraction of audio tokens to keep; with --retain-video.")]
Selector = Annotated[str | None, typer.Option(help="Folder of selector weights, if the model has none of its own.")]
Seed = Annotated[int, typer.Option(help="For compressors that draw.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
DType = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. [default: by device]")]
Attn = Annotated[str | None, typer.Option(help="sdpa, eager or flash_attention_2. [default: sdpa]")]
Fps = Annotated[float, typer.Option(help="Pictures sampled per second.")]
MaxFrames = Annotated[int, typer.Option(help="Most pictures kept, spread over the whole clip.")]
MaxPixels = Annotated[int | None, typer.Option(help="Most pixels per picture. [default: the paper's]")]
SamplingRule = Annotated[str, typer.Option(help="time, or qwen for the rule of published results.")]
MaxNewTokens = Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
