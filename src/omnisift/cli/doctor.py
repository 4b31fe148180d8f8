"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.util
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True)
class Check:
    """One finding."""

    what: str
    ok: bool
    needed: bool
    """Whether `omnisift ask` on nano can't run without it."""
    found: str
    remedy: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


_NEEDED = ("torch", "torchvision", "transformers", "av", "numpy", "safetensors", "pillow", "typer", "rich")
_OPTIONAL = {
    "accelerate": "pip install 'omnisift[train]' to train",
    "gradio": "pip install 'omnisift[ui]' for omnisift ui",
    "nvidia-ml-py": "only on CUDA, for energy in omnisift profile: pip install 'omnisift[profile]'",
    "flash-attn": "only on CUDA: pip install flash-attn, then --attn flash_attention_2; sdpa works without",
}


def examine() -> list[Check]:
    """Look at Python, packages, decoder, processor support, device and the bundled model."""
    checks = [Check("python", sys.version_info >= (3, 10), True, platform.python_version(), "")]
    checks += [_package(name, True, "pip install omnisift") for name in _NEEDED]
    checks += [_package(name, False, remedy) for name, remedy in _OPTIONAL.items()]
    return [*checks, _decoder(), _processor(), _device(), _nano()]


def _package(name: str, needed: bool, remedy: str) -> Check:
    try:
        return Check(name, True, needed, version(name))
    except PackageNotFoundError:
        return Check(name, False, needed, "not installed", remedy)


def _decoder() -> Check:
    if importlib.util.find_spec("av") is None:
        return Check("decoder", False, True, "no PyAV", "pip install av")
    import av

    missing = [name for name in ("h264", "hevc", "vp9", "av1", "aac", "opus", "mp3") if not _can_decode(name)]
    found = f"PyAV {av.__version__}, its own FFmpeg libraries; no ffmpeg program is needed"
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
            "install torch and torchvision that belong together (see constraints)",
        )
    return Check("video processor", True, True, "Qwen2VLVideoProcessor loads")


def _device() -> Check:
    try:
        import torch
    except ImportError:
        return Check("device", False, True, "no torch", "pip install torch")
    if torch.cuda.is_available():
        return Check("device", True, False, f"{torch.cuda.get_device_name(0)}; use --device cuda")
    return Check("device", True, False, "cpu only: nano runs well here, full-size models want a GPU")


def _nano() -> Check:
    from omnisift.assets import nano_path

    path = nano_path()
    weights = path / "model.safetensors"
    if not weights.is_file():
        return Check("nano", False, True, "the bundled checkpoint is missing", "reinstall omnisift, or run: make nano")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Check("nano", True, True, f"bundled, {size / 2**20:.1f} MiB")
