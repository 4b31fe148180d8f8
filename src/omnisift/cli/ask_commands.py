"""`omnisift ask` and `omnisift chat`: questions about one clip."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from omnisift.cli.options import Clip, Json, MappedModelOptions, MaxNewTokens, check_clip, with_records
from omnisift.config import CompressionConfig, EncodingOptions, ReadOptions, TextOptions
from omnisift.errors import OmniSiftError, UsageError
from omnisift.utils.questions import check_question
from omnisift.utils.quiet import silence_libraries

if TYPE_CHECKING:
    from omnisift.pipeline import Pipeline


@with_records
def ask(
    clip: Clip,
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION", help="One or more questions about the clip.")],
    *,
    host: MappedModelOptions,
    method: CompressionConfig,
    encoding: EncodingOptions,
    read_options: ReadOptions,
    text_options: TextOptions,
    max_new_tokens: MaxNewTokens = 256,
    as_json: Json = False,
) -> None:
    """Answer one or more questions about a clip.

    Prints the answer, the tokens before and after compression, and the time of
    each stage. Several questions share one reading of the clip.
    """
    check_clip(clip)
    read_options.check()
    text_options.check_text()
    for question in questions:
        check_question(question)
    from omnisift.cli.screen import (
        StageBar,
        console_for,
        show_answer,
        show_notices,
        show_reply,
        show_shortfall,
        show_source,
    )

    progress, screen = console_for(stderr=True), console_for(stderr=False)
    with StageBar(progress, quiet=as_json) as bar:
        pipeline = _load(host, method, encoding, text_options)
        bar.stage("read")
        # A single question reads the clip itself, so that its report includes the time.
        media = clip if len(questions) == 1 else pipeline.encode(clip, **read_options.reading, text=text_options.text)
    for number, question in enumerate(questions):
        with StageBar(progress, quiet=as_json) as bar:
            options = read_options.reading | {"text": text_options.text, "max_new_tokens": max_new_tokens}
            answer = pipeline.ask(media, question, **options, on_stage=bar.stage)
        if as_json:
            typer.echo(json.dumps(answer.to_dict()))
        elif len(questions) == 1:
            show_answer(screen, answer)
        else:
            if number == 0:
                show_notices(screen, answer.report.notices)
            show_reply(screen, question, answer)
    if as_json:
        return
    if len(questions) > 1:
        show_source(screen, answer.report)
    if pipeline.compressor is not None:
        show_shortfall(screen, answer.report, pipeline.compressor.budget)


@with_records
def chat(
    clip: Clip,
    *,
    host: MappedModelOptions,
    method: CompressionConfig,
    encoding: EncodingOptions,
    read_options: ReadOptions,
    text_options: TextOptions,
    max_new_tokens: MaxNewTokens = 256,
) -> None:
    """Ask questions about a clip one after another.

    The model and the clip are loaded once; answers appear as they are written.
    Each question is answered on its own: earlier ones are not remembered.
    Ctrl-D ends. In a pipe, standard input holds one question per line.
    """
    check_clip(clip)
    read_options.check()
    text_options.check_text()
    from omnisift.cli.screen import StageBar, console_for, describe_source, short_cost, show_notices
    from omnisift.pipeline.report import notices_of, source_of

    interactive, status = sys.stdin.isatty() and sys.stdout.isatty(), console_for(stderr=True)
    with StageBar(status) as bar:
        pipeline = _load(host, method, encoding, text_options)
        bar.stage("read")
        encoded = pipeline.encode(clip, **read_options.reading, text=text_options.text)
    notices = notices_of(encoded.media, is_nano=pipeline.host.is_nano, keeps_audio=pipeline.keeps_audio)
    show_notices(status, notices)
    if interactive:
        started = f"{pipeline.host.name} with {pipeline.method}; {describe_source(source_of(encoded.media))}"
        status.print(f"{started}; Ctrl-D ends", style="dim", markup=False)
    for question in _typed_questions(interactive):
        try:
            answer = pipeline.ask(encoded, question, max_new_tokens=max_new_tokens, on_text=_stream)
        except OmniSiftError as error:
            if not interactive:
                raise
            typer.echo(f"error ({type(error).__name__}): {error}", err=True)
            continue
        typer.echo()
        if interactive:
            status.print(short_cost(answer.report), style="dim")


def _load(
    host: MappedModelOptions, method: CompressionConfig, encoding: EncodingOptions, text: TextOptions
) -> Pipeline:
    from omnisift.pipeline import load

    silence_libraries()
    options = method.compression | encoding.encoding | {"retain_text": text.retain_text}
    return load(host.model, **options, **host.placement)


def _stream(text: str) -> None:
    typer.echo(text, nl=False)


def _typed_questions(interactive: bool) -> Iterator[str]:
    """The lines of standard input that are not empty."""
    if interactive and find_spec("readline") is not None:
        import_module("readline")  # `input` then edits lines with the arrow keys
    while True:
        try:
            line = input("> " if interactive else "").strip()
        except EOFError:
            if interactive:
                typer.echo()
            return
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8 text; give one question per line") from None
        if line:
            yield line
