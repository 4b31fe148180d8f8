"""What a run of ms-swift asks for: environment variables, as everything of ms-swift that belongs to one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from omnisift.budget import Budget
from omnisift.compressors import needs_selector
from omnisift.errors import TrainingError, UsageError

PREFIX = "OMNISIFT_"
SOUND = "USE_AUDIO_IN_VIDEO"


@dataclass(frozen=True)
class SwiftSettings:
    """Each field is an environment variable, as ``OMNISIFT_RETAIN``, or a key of ms-swift's ``--model_kwargs``."""

    compressor: str = "omnisift"
    """A method with its options, or a pair of them: ``omnisift:estimator=merge``, ``stvp``, ``v_cast+omnisift``."""
    retain: float | None = None
    """Share of video and audio tokens together that stays; 0.25 if no share is given."""
    retain_video: float | None = None
    """Share of the video tokens; with ``retain_audio``."""
    retain_audio: float | None = None
    """Share of the audio tokens; with ``retain_video``."""
    selector: str | None = None
    """Folder of selector weights, or ``new`` for random ones that learn; by default those of the checkpoint."""

    def __post_init__(self) -> None:
        self.budget  # noqa: B018 - refuses wrong ratios now, not after the model was loaded

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> SwiftSettings:
        """Read ``OMNISIFT_*``. Raises `UsageError` for an unknown name or a value that is no number."""
        known = {PREFIX + field.name.upper(): field.name for field in fields(cls)}
        given = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
        unknown = sorted(given.keys() - known.keys())
        if unknown:
            raise UsageError(f"{unknown[0]} is no setting; there are: {', '.join(known)}")
        texts = ("compressor", "selector")
        found = {known[name]: value if known[name] in texts else _number(name, value) for name, value in given.items()}
        return cls(**found)  # type: ignore[arg-type]

    @property
    def budget(self) -> Budget:
        """How much stays. Raises `BudgetError` for ratios that make none."""
        return Budget.from_options(self.retain, self.retain_video, self.retain_audio)


def check_sound(heard: bool, named: bool, settings: SwiftSettings) -> None:
    """Raise `TrainingError` unless the sound of videos is read, or rightly is not.

    ``heard``: what ms-swift made of ``USE_AUDIO_IN_VIDEO``; ``named``: whether anybody set it. By default it leaves the
    sound out, without a word.
    """
    if heard or (named and not needs_selector(settings.compressor)):
        return
    raise TrainingError(
        f"training without sound: {SOUND} is {'false' if named else 'not set'}, and ms-swift would leave out the sound "
        f"of every video; set {SOUND}=true (false only with a compressor without selector, as {PREFIX}COMPRESSOR=stvp)"
    )


def _number(name: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise UsageError(f"{name} must be a number, got {value!r}") from None
