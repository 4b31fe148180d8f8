"""Exceptions of OmniSIFT.

    OmniSiftError
    ├── MediaError            a file or URL can't be read as requested
    │   ├── NotFound          there is no such file
    │   ├── NotAFile          a folder, pipe, socket or device
    │   ├── NotReadable       no permission
    │   ├── NotMedia          no decoder recognises the content
    │   ├── Damaged           media, but nothing usable decodes
    │   ├── NoVideo           video was requested and there is none
    │   ├── NoAudio           audio was requested and there is none
    │   ├── TooBig            over a stated limit
    │   ├── MediaTimeout      reading takes longer than allowed
    │   └── Blocked           refers to a file or address that the caller did not name
    ├── BudgetError           a retention ratio or number of tokens is out of range
    ├── CompressorError       a compressor can't run as requested (unknown name, missing selector, missing extra)
    │   └── UnreachableBudget a method can't keep as few tokens as the budget asks for
    ├── CheckpointError       missing, unexpected or mis-shaped tensors; never replaced by random weights
    ├── ModelError            the host model can't be used as requested
    │   ├── UnsupportedModel  no adapter for this model_type
    │   ├── UnsupportedCall   the adapter refuses this call
    │   └── EngineLost        the inference engine died and can't be used again in this process
    ├── TrainingError         training would silently run without what was configured
    └── UsageError            an argument of the command line or of a public function is wrong

Each message is one line: what is wrong, what was got, what to do. The command line prints it and exits with 2.
"""

from __future__ import annotations


class OmniSiftError(Exception):
    """Base class. ``str(error)`` is one line: what is wrong, what was got, what to do."""


class MediaError(OmniSiftError):
    """A media file or reference can't be read as requested."""


class NotFound(MediaError):
    """Nothing exists at the path."""


class NotAFile(MediaError):
    """The path is a folder, pipe, socket or device."""


class NotReadable(MediaError):
    """The file exists but may not be read."""


class NotMedia(MediaError):
    """No allowed decoder recognises the content."""


class Damaged(MediaError):
    """The content is media, but nothing usable can be decoded from it."""


class NoVideo(MediaError):
    """Video was requested and the file has none."""


class NoAudio(MediaError):
    """Audio was requested and the file has none."""


class TooBig(MediaError):
    """The media, or the prompt made of it, exceeds a stated limit."""


class MediaTimeout(MediaError):
    """Reading the media takes longer than ``read_timeout``."""


class Blocked(MediaError):
    """The media refers to a file or address that the caller did not name."""


class BudgetError(OmniSiftError):
    """A retention ratio is missing, contradictory or out of range."""


class CompressorError(OmniSiftError):
    """A compressor can't run as requested: unknown name, missing selector weights, missing extra."""


class UnreachableBudget(CompressorError):
    """The method can't keep as few tokens as the budget asks for; the message names its minimum."""


class CheckpointError(OmniSiftError):
    """A checkpoint has missing, unexpected or mis-shaped tensors."""


class ModelError(OmniSiftError):
    """The host model can't be used as requested."""


class UnsupportedModel(ModelError):
    """No adapter exists for this model_type."""


class UnsupportedCall(ModelError):
    """The adapter knows the model, but this call can't work on a compressed prompt."""


class EngineLost(ModelError):
    """The inference engine died; it can't be used again in this process."""


class TrainingError(OmniSiftError):
    """Training would silently run without compression, without gradients, or with too few processes."""


class UsageError(OmniSiftError):
    """An argument is wrong."""


def install_hint(extra: str) -> str:
    """Return how to install an optional dependency, for error messages.

    The package is on no index, so the command works from a checkout only.

    Args:
        extra: name of an extra in ``pyproject.toml``, for example ``ui``.
    """
    return f"run pip install -e '.[{extra}]' in your OmniSIFT checkout"


def environment_hint(session: str) -> str:
    """Return how to get an environment for a dependency that no extra can install, for error messages.

    Args:
        session: name of a session in ``noxfile.py``, for example ``vllm``.
    """
    return f"run nox -s {session} --install-only in your OmniSIFT checkout, then use .nox/{session}/bin/omnisift"
