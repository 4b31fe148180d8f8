"""Settings of an ms-swift run, read from environment variables as ms-swift's own settings of a model are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from omnisift.compressors import check_named, needs_selector
from omnisift.config import CompressionConfig
from omnisift.errors import TrainingError, UsageError
from omnisift.utils.suggest import meant

PREFIX = "OMNISIFT_"
USE_AUDIO = "USE_AUDIO_IN_VIDEO"
"""ms-swift's variable for the audio of videos."""


@dataclass(frozen=True)
class SwiftSettings(CompressionConfig):
    """Each field is an environment variable, for example ``OMNISIFT_RETAIN``, or a key of ms-swift's
    ``--model_kwargs``. ``selector`` may also be ``new``, for random weights to train."""

    compressor: str = "omnisift"
    """As for `TrainRecipe`: the method that has a selector to train."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SwiftSettings:
        """Read the variables ``OMNISIFT_*``.

        Raises:
            UsageError: a name is unknown, a value is not of its type, or the method takes no selector.
            BudgetError: the ratios make no budget.
        """
        known = {PREFIX + field.name.upper(): field for field in fields(cls)}
        variables = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(variables.keys() - known.keys())
        if unknown:
            raise UsageError(f"{unknown[0]} is not a setting; there are: {', '.join(known)}{meant(unknown[0], known)}")
        values = {known[name].name: _parse(name, value, str(known[name].type)) for name, value in variables.items()}
        settings = cls(**values)
        settings.check()
        check_named(settings.compressor)
        return settings


def check_audio(enabled: bool, explicit: bool, settings: SwiftSettings) -> None:
    """Check that ms-swift reads the audio of videos, which it skips by default without a message.

    Args:
        enabled: ms-swift's value of ``USE_AUDIO_IN_VIDEO``.
        explicit: whether the user set the variable.
        settings: the settings of the run.

    Raises:
        TrainingError: audio is off by default, or is off although the compressor has a selector for audio.
    """
    if enabled or (explicit and not needs_selector(settings.compressor)):
        return
    raise TrainingError(
        f"training without audio: {USE_AUDIO} is {'false' if explicit else 'not set'}, so ms-swift would skip the "
        f"audio of every video; set {USE_AUDIO}=true (false works only with a compressor without selector, for example "
        f"{PREFIX}COMPRESSOR=stvp)"
    )


def _parse(name: str, value: str, kind: str) -> Any:
    """The value as the field's type ``kind``."""
    if kind.startswith("str"):
        return value
    if kind == "bool":
        if value.lower() not in ("true", "false"):
            raise UsageError(f"{name} must be true or false, got {value!r}")
        return value.lower() == "true"
    try:
        return int(value) if kind == "int" else float(value)
    except ValueError:
        raise UsageError(f"{name} must be a number, got {value!r}") from None
