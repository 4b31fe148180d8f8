"""Options shared by several commands: one name, one help text, one meaning.

`with_records` makes the options of a command from the fields of the records that it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.errors import UsageError
from omnisift.utils.names import AUTO
from omnisift.utils.questions import check_question

if TYPE_CHECKING:
    from omnisift.compressors import Compressor
    from omnisift.config import CompressionConfig
    from omnisift.pipeline.loading import Host
    from omnisift.pipeline.model_source import ModelSource

MODEL, BUDGET, SAMPLING, OUTPUT = "Model", "Budget", "Sampling", "Output"
"""Panels of a help screen."""


@dataclass(frozen=True, kw_only=True)
class PlacedModelOptions:
    """Which model a command loads, and where."""

    model: str = "nano"
    device: str = "auto"
    dtype: str | None = None
    attn_implementation: str | None = None

    @property
    def placement(self) -> dict[str, Any]:
        """All but the model's name, as keyword arguments of `omnisift.load`."""
        return {name: value for name, value in vars(self).items() if name != "model"}


@dataclass(frozen=True, kw_only=True)
class ModelOptions(PlacedModelOptions):
    """`PlacedModelOptions` for commands that ask the model."""

    max_length: int | None = None
    quantization: str | None = None


@dataclass(frozen=True, kw_only=True)
class MappedModelOptions(ModelOptions):
    """`ModelOptions` for commands that can spread a model over several devices."""

    device_map: str | None = None


def with_records(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter of ``command`` that is a record by one option per field.

    A record is a dataclass such as `omnisift.CompressionConfig`. Its fields give the names and defaults of the options,
    `FIELDS` their help. The command receives the record made from them. A field that is also a parameter of the command
    itself is not made into a second option; the record then keeps its default.
    """
    own = inspect.signature(command, eval_str=True).parameters
    records: dict[str, Any] = {name: taken.annotation for name, taken in own.items() if is_dataclass(taken.annotation)}
    parts = {name: [field for field in fields(record) if field.name not in own] for name, record in records.items()}
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        for field in parts.get(name, ()):
            option = inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=FIELDS[field.name]
            )
            parameters.append(option)
        if name not in records:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**values: Any) -> None:
        for name, record in records.items():
            values[name] = record(**{field.name: values.pop(field.name) for field in parts[name]})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by Typer
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def parse_fraction(value: str | float) -> float:
    """A fraction as it was typed; `Budget` checks its range."""
    text = str(value).strip()
    number = text.removesuffix("%")
    try:
        fraction = float(number)
    except ValueError:
        raise UsageError(f"the fraction of tokens to keep is a number such as 0.25, got {text!r}") from None
    if number != text:
        raise UsageError(f"write {text} as the fraction of tokens to keep: {fraction / 100:g}")
    return fraction


_AUTO = "auto: omnisift for a model with a selector or with --selector, resift otherwise and for nano."
Clip = Annotated[str, typer.Argument(metavar="CLIP", help="A media file with video, audio or both.")]
Selector = Annotated[
    str | None,
    typer.Option(help="Folder of selector weights.", show_default="the model's own", rich_help_panel=MODEL),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Accelerate's device map, for example auto: weights go straight to the devices.", rich_help_panel=MODEL
    ),
]
CompressAudio = Annotated[
    bool,
    typer.Option(
        "--compress-audio", help="Compress audio outside a video too, as in a sound file.", rich_help_panel=BUDGET
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed, for methods that sample.", rich_help_panel=BUDGET)]
Method = Annotated[
    str,
    typer.Option(
        "--compressor",
        "--method",
        help=f"Compression method (see `omnisift methods`). {_AUTO}",
        rich_help_panel=BUDGET,
    ),
]
"""As the option of `CompressionConfig.compressor`, for commands that always include all tokens."""
MaxNewTokens = Annotated[int, typer.Option(help="Maximum number of new tokens.", min=1, rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what exists.", rich_help_panel=OUTPUT)]
PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="REPO",
        help="Upload the selector to this repository of the Hub.",
        rich_help_panel=OUTPUT,
    ),
]
Public = Annotated[
    bool, typer.Option("--public", help="Make a new repository public instead of private.", rich_help_panel=OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.", rich_help_panel=OUTPUT)]


def fraction(text: str, show_default: str | bool = True) -> Any:
    """An option that is a fraction of tokens."""
    return typer.Option(
        help=text, show_default=show_default, parser=parse_fraction, metavar="<float>", rich_help_panel=BUDGET
    )


FIELDS: dict[str, Any] = {
    "model": Annotated[
        str, typer.Option(help="nano (bundled), a checkpoint folder, or a hub id.", rich_help_panel=MODEL)
    ],
    "device": Annotated[
        str, typer.Option(help="auto (CUDA, then MPS, then CPU), cpu, mps, cuda or cuda:N.", rich_help_panel=MODEL)
    ],
    "dtype": Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16, float16, or auto for the stored one.",
            show_default="by device",
            rich_help_panel=MODEL,
        ),
    ],
    "attn_implementation": Annotated[
        str | None,
        typer.Option(
            "--attn-implementation",
            "--attn",
            help="sdpa, eager or flash_attention_2.",
            show_default="sdpa",
            rich_help_panel=MODEL,
        ),
    ],
    "max_length": Annotated[
        int | None,
        typer.Option(
            help="Maximum tokens of a prompt, after compression, and its answer.",
            show_default="the model's context",
            rich_help_panel=MODEL,
        ),
    ],
    "device_map": DeviceMap,
    "quantization": Annotated[
        str | None,
        typer.Option(
            help="Quantise the language model: torchao-int8, bitsandbytes-nf4 or another of docs/small-machines.md.",
            show_default="as it is stored",
            rich_help_panel=MODEL,
        ),
    ],
    "compressor": Annotated[
        str,
        typer.Option(
            "--compressor",
            "--method",
            help="Compression method (see `omnisift methods`), for example evs or stvp+random; none keeps every token. "
            + _AUTO,
            rich_help_panel=BUDGET,
        ),
    ],
    "retain": Annotated[
        float | None,
        fraction("Fraction of video and audio tokens to keep together, from 0 to 1.", "0.25"),
    ],
    "retain_video": Annotated[float | None, fraction("Fraction of video tokens to keep; with --retain-audio.")],
    "retain_audio": Annotated[float | None, fraction("Fraction of audio tokens to keep; with --retain-video.")],
    "retain_text": Annotated[float | None, fraction("Fraction of subtitle tokens to keep; with --text.", "all")],
    "text": Annotated[
        str | None,
        typer.Option(
            help="subtitles: put the lines of the file beside the clip, or of its text track, into the prompt.",
            show_default="none",
            rich_help_panel=SAMPLING,
        ),
    ],
    "retain_encoded": Annotated[
        float | None,
        typer.Option(
            help="Fraction of the tokens of every frame that the vision encoder computes, chosen by their pixels.",
            show_default="all",
            rich_help_panel=BUDGET,
            parser=parse_fraction,
            metavar="FRACTION",
        ),
    ],
    "still_threshold": Annotated[
        float | None,
        typer.Option(
            help="Don't encode windows of a frame again that changed by at most this (mean difference, 0 to 255).",
            show_default="encode all",
            rich_help_panel=BUDGET,
        ),
    ],
    "tokens": Annotated[
        int | None,
        typer.Option(
            help="Number of video and audio tokens to keep of each clip, instead of a fraction.",
            rich_help_panel=BUDGET,
        ),
    ],
    "compress_audio": CompressAudio,
    "selector": Selector,
    "seed": Seed,
    "fps": Annotated[float, typer.Option(help="Frames sampled per second.", rich_help_panel=SAMPLING)],
    "max_frames": Annotated[
        int,
        typer.Option(
            help="Maximum number of frames; a longer clip is sampled at a lower rate.", min=2, rich_help_panel=SAMPLING
        ),
    ],
    "max_pixels": Annotated[
        int | None,
        typer.Option(
            min=28 * 28, help="Maximum pixels per frame.", show_default="the paper's", rich_help_panel=SAMPLING
        ),
    ],
    "sampling": Annotated[
        str,
        typer.Option(help="Frame sampling: time, or qwen for the rule of published results.", rich_help_panel=SAMPLING),
    ],
    "max_decoded_pixels": Annotated[
        int, typer.Option(help="Maximum pixels decoded per clip, all frames together.", min=1, rich_help_panel=SAMPLING)
    ],
    "read_timeout": Annotated[float, typer.Option(help="Maximum seconds to read one clip.", rich_help_panel=SAMPLING)],
}
"""Field of a record -> type and help of its option."""


def check_clip(path: str) -> None:
    """Check that ``path`` is a readable file, before a model is loaded.

    Raises:
        MediaError: it is not.
    """
    from omnisift.media.source import check_source

    check_source(path)


def load_methods(
    host: MappedModelOptions, methods: Mapping[str, CompressionConfig], retain_text: float | None = None
) -> tuple[Host, dict[str, Compressor]]:
    """Load a model with several methods, which are checked with their selector before the weights are read.

    Args:
        host: the model, and where it is loaded.
        methods: name -> method and budget; their selector must fit one of them.
        retain_text: fraction of the tokens of subtitles that are kept; None keeps all that `Budget` allows.

    Returns:
        The model, and name -> compressor. A method called ``auto`` gets the name of the model's default method, which
        is there once if it was also named.

    Raises:
        OmniSiftError: as `omnisift.load`.
    """
    from omnisift.compressors import check_selector
    from omnisift.pipeline.loading import load_weights, plan_placement
    from omnisift.pipeline.method import budget_with_text, compressor_for
    from omnisift.pipeline.model_source import find_model

    def made(model: Host | ModelSource) -> dict[str, Compressor]:
        return {
            name: compressor_for(
                model, config.compressor, budget_with_text(config, retain_text), config.selector, config.seed
            )
            for name, config in methods.items()
        }

    names = [config.compressor for config in methods.values()]
    check_selector(next((config.selector for config in methods.values()), None), *names)
    placement = plan_placement(**host.placement)
    source = find_model(host.model)
    methods = _named(methods, source)
    made(source)
    loaded = load_weights(source, placement)
    return loaded, made(loaded)


def _named(methods: Mapping[str, CompressionConfig], source: ModelSource) -> dict[str, CompressionConfig]:
    from omnisift.pipeline.method import resolve_compressor

    named: dict[str, CompressionConfig] = {}
    for name, config in methods.items():
        if name.strip() == AUTO:
            local = source.local_files_only
            name, _ = resolve_compressor(name, source.source, config.selector, local_files_only=local)
        named.setdefault(name, config)
    return named


def resolved_device(device: str) -> str:
    """``auto`` as the device of this machine; other names as they are."""
    if device != "auto":
        return device
    from omnisift.pipeline.devices import resolve_device

    return resolve_device(device).type


def single_question(argument: str | None, option: str | None) -> str | None:
    """The question, given as an argument or, in the old spelling, as ``--question``.

    Raises:
        UsageError: both are given, or the question is empty.
    """
    if argument is not None and option is not None:
        raise UsageError("the question is given twice; leave --question out")
    question = argument if option is None else option
    if question is not None:
        check_question(question)
    return question
