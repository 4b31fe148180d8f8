"""Every error that OmniSIFT raises on purpose.

    OmniSiftError
    ├── MediaError            a file or URL can't be read as asked
    │   ├── NotFound          nothing is there
    │   ├── NotAFile          a folder, pipe, socket or device
    │   ├── NotReadable       no permission
    │   ├── NotMedia          no decoder knows this content
    │   ├── Damaged           it is media, but nothing usable decodes
    │   ├── NoVideo           asked for picture, has none
    │   ├── NoAudio           asked for sound, has none
    │   ├── TooBig            over a stated limit
    │   └── Blocked           refers to something the caller did not name
    ├── BudgetError           a retention ratio outside its range
    ├── CompressorError       a compressor can't run as asked (unknown name, missing selector, missing need)
    │   └── UnreachableBudget a method can't keep as few tokens as the budget says
    ├── CheckpointError       missing, surplus or misshapen tensors; never replaced by random weights
    ├── ModelError            the host model can't be used as asked
    │   ├── UnsupportedModel  no adapter for this model_type
    │   ├── UnsupportedCall   the adapter knows the model but refuses this call
    │   └── EngineLost        what answers broke down and can't go on in this process
    ├── TrainingError         a run of training that would not do what it says
    └── UsageError            an argument of the command line or of a public function is wrong

Each message is one line that says what is wrong, what was got and what to do. The command line prints it and exits
with 2.
"""

from __future__ import annotations


class OmniSiftError(Exception):
    """Base of all errors raised on purpose. ``str(error)`` is one line: what, got, do this."""


class MediaError(OmniSiftError):
    """A media file or reference can't be read as asked."""


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
    """Picture was asked for and the file has none."""


class NoAudio(MediaError):
    """Sound was asked for and the file has none."""


class TooBig(MediaError):
    """The media exceeds a stated limit."""


class Blocked(MediaError):
    """The media refers to a file or address that the caller did not name."""


class BudgetError(OmniSiftError):
    """A retention ratio is missing, contradictory or out of range."""


class CompressorError(OmniSiftError):
    """A compressor can't run as asked: unknown name, missing selector weights, missing extra."""


class UnreachableBudget(CompressorError):
    """The method can't keep as few tokens as the budget says; the message names its floor."""


class CheckpointError(OmniSiftError):
    """A checkpoint lacks tensors, has surplus ones, or has other shapes."""


class ModelError(OmniSiftError):
    """The host model can't be used as asked."""


class UnsupportedModel(ModelError):
    """No adapter exists for this model_type."""


class UnsupportedCall(ModelError):
    """The adapter knows the model, but this call can't work on a compressed prompt."""


class EngineLost(ModelError):
    """What answers the questions broke down, and this process can't ask it anything more."""


class TrainingError(OmniSiftError):
    """A run of training would go on without doing what it says: no compression, no gradient, no partners."""


class UsageError(OmniSiftError):
    """An argument is wrong."""


def install_hint(extra: str) -> str:
    """How to install an optional dependency, for error messages.

    The package is on no index yet, so the hint works from a checkout alone.

    Args:
        extra: name of an extra in ``pyproject.toml``, for example ``ui``.
    """
    return f"run pip install -e '.[{extra}]' in your OmniSIFT checkout"
