"""`omnisift doctor`, `tasks-path` and `plugin-path`: what is installed, and the folders that other tools ask for."""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnisift.cli.options import Json
from omnisift.errors import UsageError, install_hint

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Check:
    """One check and its result."""

    what: str
    ok: bool
    needed: bool
    """Whether `omnisift ask` with nano needs it."""
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


PACKAGES = ("torch", "torchvision", "transformers", "av", "numpy", "safetensors", "pillow", "typer", "rich")
"""Packages that every command needs."""
_OPTIONAL = {
    "accelerate": f"for training and --device-map: {install_hint('train')}",
    "gradio": f"for omnisift ui: {install_hint('ui')}",
    "nvidia-ml-py": f"for energy in omnisift profile, on CUDA only: {install_hint('profile')}",
    "bitsandbytes": f"for --quantization bitsandbytes-nf4 and -int8: {install_hint('quant')}",
    "optimum-quanto": f"for --quantization quanto-int8, -int4 and -int2: {install_hint('quant')}",
    "torchao": f"for --quantization torchao-int8, -int8-dynamic and -fp8: {install_hint('quant')}",
    "flash-attn": "for --attn-implementation flash_attention_2, on CUDA only: run pip install flash-attn",
}
_CHECKOUT = "run pip install -e . in your OmniSIFT checkout"


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Examine this checkpoint folder or hub id, by its config.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what is installed and what is missing.

    With --model: what works with a model, and whether it fits this machine.
    The exit code is 2 if a required part is missing or the model can't be used.
    """
    from omnisift.cli.screen import console_for

    if model is not None:
        _examine_model(model, as_json)
        return
    checks = examine()
    if as_json:
        typer.echo(json.dumps([check.to_dict() for check in checks]))
    else:
        show_checks(console_for(stderr=False), checks)
    if any(check.needed and not check.ok for check in checks):
        raise typer.Exit(2)


def _examine_model(model: str, as_json: bool) -> None:
    from omnisift.cli.model_report import show_diagnosis
    from omnisift.cli.screen import console_for
    from omnisift.profiling.diagnosis import diagnose
    from omnisift.utils.quiet import silence_libraries

    silence_libraries()
    diagnosis = diagnose(model)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_dict()))
    else:
        show_diagnosis(console_for(stderr=False), diagnosis)


def tasks_path(
    tasks: Annotated[
        Path | None, typer.Option(help="Folder of tasks.", show_default="$OMNISIFT_TASKS or the cache")
    ] = None,
) -> None:
    """Print the folder of prepared lmms-eval tasks.

    For lmms-eval's --include_path.
    """
    from omnisift.evaluation.public.lmms_hooks import default_folder, prepared

    folder = default_folder() if tasks is None else tasks
    if not prepared(folder):
        raise UsageError(
            f"no task is prepared in {folder}; run omnisift eval prepare --benchmark worldsense --video-root DIR"
        )
    typer.echo(str(folder.resolve()))


def plugin_path() -> None:
    """Print the path of the ms-swift plugin.

    For ms-swift's --external_plugins (docs/ms-swift.md).
    """
    from omnisift.integrations.ms_swift import plugin_path as path_of

    typer.echo(path_of())


def examine() -> list[Check]:
    """Check Python, packages, decoder, processor, device and the bundled model."""
    found = f"{platform.python_version()}, {sys.executable}"
    checks = [Check("python", sys.version_info >= (3, 10), True, found, "use Python 3.10 or newer")]
    checks += [_package(name, True, _CHECKOUT) for name in PACKAGES]
    checks += [_package(name, False, remedy) for name, remedy in _OPTIONAL.items()]
    return [*checks, _decoder(), _processor(), _device(), _nano()]


def _package(name: str, needed: bool, remedy: str) -> Check:
    try:
        return Check(name, True, needed, version(name))
    except PackageNotFoundError:
        return Check(name, False, needed, "not installed", remedy)


def _decoder() -> Check:
    if importlib.util.find_spec("av") is None:
        return Check("decoder", False, True, "no PyAV", _CHECKOUT)
    import av

    missing = [name for name in ("h264", "hevc", "vp9", "av1", "aac", "opus", "mp3") if not _can_decode(name)]
    found = f"PyAV {av.__version__} with its own FFmpeg libraries"
    if missing:
        return Check(
            "decoder", False, True, f"{found}; lacks {', '.join(missing)}", "pip install --only-binary :all: av"
        )
    return Check("decoder", True, True, found)


def _can_decode(name: str) -> bool:
    import av

    try:
        av.Codec(name, "r")
    except (ValueError, av.FFmpegError):
        return False
    return True


def _processor() -> Check:
    try:
        from transformers import Qwen2VLVideoProcessor

        Qwen2VLVideoProcessor()
    except (ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        return Check(
            "video processor",
            False,
            True,
            reason,
            "install versions of torch and torchvision that belong together (constraints.txt)",
        )
    return Check("video processor", True, True, "Qwen2VLVideoProcessor loads")


def _device() -> Check:
    try:
        import torch
    except ImportError:
        return Check("device", False, True, "no torch", _CHECKOUT)
    if torch.cuda.is_available():
        return Check("device", True, False, f"cuda: {torch.cuda.get_device_name(0)}")
    if torch.backends.mps.is_available():
        return Check("device", True, False, "mps")
    return Check("device", True, False, "cpu only; nano runs well, full-size models need a GPU")


def _nano() -> Check:
    from omnisift.utils.assets import nano_path

    path = nano_path()
    weights = path / "model.safetensors"
    if not weights.is_file():
        return Check("nano", False, True, "the bundled checkpoint is missing", _CHECKOUT)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Check("nano", True, True, f"bundled, {size / 2**20:.1f} MiB")


def show_checks(console: Console, checks: list[Check]) -> None:
    """Print one line for each check; installed packages share one."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    installed = ", ".join(f"{check.what} {check.found}" for check in checks if check.ok and check.what in PACKAGES)
    for check in checks:
        if check.ok and check.what in PACKAGES:
            continue
        if check.ok:
            mark, found = Text("ok", style="green"), check.found
        else:
            mark = Text("missing" if check.needed else "-", style="yellow")
            found = f"{check.found}; {check.remedy}"
        table.add_row(mark, check.what, Text(found))
        if check.what == "python":
            table.add_row(Text("ok", style="green"), "packages", Text(installed))
    console.print(table)
