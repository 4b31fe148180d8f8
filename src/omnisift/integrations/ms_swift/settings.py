"""Settings of an ms-swift run, read from environment variables as ms-swift's own settings of a model are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from omnisift.budget import Budget
from omnisift.compressors import needs_selector
from omnisift.errors import TrainingError, UsageError

PREFIX = "OMNISIFT_"
USE_AUDIO = "USE_AUDIO_IN_VIDEO"
"""ms-swift's variable for the audio of videos."""


@dataclass(frozen=True)
class SwiftSettings:
    """Each field is an environment variable, for example ``OMNISIFT_RETAIN``, or a key of ms-swift's
    ``--model_kwargs``.

    Raises:
        BudgetError: ratios that make no budget.
    """

    compressor: str = "omnisift"
    """A method with its options, or a pair of them: ``omnisift:estimator=merge``, ``stvp``, ``v_cast+omnisift``."""
    retain: float | None = None
    """Share of video and audio tokens that stays; 0.25 if no share is given."""
    retain_video: float | None = None
    """Share of the video tokens; with ``retain_audio``."""
    retain_audio: float | None = None
    """Share of the audio tokens; with ``retain_video``."""
    selector: str | None = None
    """Folder of selector weights, or ``new`` for random ones to train; None takes those of the checkpoint."""

    def __post_init__(self) -> None:
        self.budget  # noqa: B018 - refuses wrong ratios now and not after the model was loaded

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SwiftSettings:
        """Read the variables ``OMNISIFT_*``.

        Raises:
            UsageError: an unknown name, or a value that is not a number.
        """
        known = {PREFIX + field.name.upper(): field.name for field in fields(cls)}
        variables = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(variables.keys() - known.keys())
        if unknown:
            raise UsageError(f"{unknown[0]} is not a setting; there are: {', '.join(known)}")
        texts = ("compressor", "selector")
        values = {
            known[name]: value if known[name] in texts else _parse_number(name, value)
            for name, value in variables.items()
        }
        return cls(**values)  # type: ignore[arg-type]

    @property
    def budget(self) -> Budget:
        """The budget of the run."""
        return Budget.from_options(self.retain, self.retain_video, self.retain_audio)


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


def _parse_number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{name} must be a number, got {value!r}") from None
