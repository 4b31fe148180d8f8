"""The server's compression settings, and what a request may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from omnisift.budget import Budget
from omnisift.compressors import reads_all_tokens
from omnisift.errors import BudgetError, UsageError

RETENTION_KEYS = ("retain", "retain_video", "retain_audio")
REQUEST_KEYS = frozenset({*RETENTION_KEYS, "use_audio_in_video", "fps"})
"""Keys that ``mm_processor_kwargs`` of a request may hold; any other would change how much work a request makes."""
_OLD_KEYS = {"retain_most": "max_retain"}
"""Old name of a setting -> its name now."""


@dataclass(frozen=True)
class Settings:
    """The key ``omnisift`` of the model's configuration (``--hf-overrides '{"omnisift": {...}}'``)."""

    compressor: str = "omnisift"
    """A method, named as for `omnisift.make_compressor`; ``none`` keeps every token."""
    retain: float | None = None
    """Share of video and audio tokens that stays; 0.25 if no ratio is given."""
    retain_video: float | None = None
    """Share of the video tokens; with ``retain_audio`` instead of ``retain``."""
    retain_audio: float | None = None
    """Share of the audio tokens."""
    max_retain: float = 1.0
    """The largest share, of either modality, that a request may ask for."""
    selector: str | None = None
    """Folder of selector weights; None takes those of the checkpoint."""
    seed: int = 0
    """For methods that sample."""

    @classmethod
    def from_config(cls, config: Any) -> Settings:
        """Read the settings from a Transformers configuration.

        Raises:
            UsageError: an unknown key.
            BudgetError: a ratio out of range.
        """
        values: Mapping[str, Any] = getattr(config, "omnisift", None) or {}
        values = {_OLD_KEYS.get(name, name): value for name, value in values.items()}
        known = [field.name for field in fields(cls)]
        unknown = sorted(values.keys() - set(known))
        if unknown:
            raise UsageError(
                f"omnisift has no setting {unknown[0]!r} in the model's configuration; it has: {', '.join(known)}"
            )
        return cls(**values).checked()

    def checked(self) -> Settings:
        """Return the settings themselves. Raises `BudgetError` for a ratio out of range."""
        if not 0 < self.max_retain <= 1:
            raise BudgetError(f"max_retain is a fraction kept and must be in (0, 1], got {self.max_retain!r}")
        self.budget({})
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, JSON-ready."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Settings(), name)}

    @cached_property
    def default(self) -> Budget:
        """The budget of requests that set none."""
        if reads_all_tokens(self.compressor):
            return Budget(retain=1.0)
        return Budget.from_options(**{name: getattr(self, name) for name in RETENTION_KEYS})

    def budget(self, request: Mapping[str, Any]) -> Budget:
        """Return the budget of a request.

        Args:
            request: the request's ``mm_processor_kwargs``.

        Raises:
            BudgetError: a ratio outside (0, 1] or above ``max_retain``.
            UsageError: a ratio for a server that does not compress.
        """
        ratios = {name: request[name] for name in RETENTION_KEYS if request.get(name) is not None}
        if not ratios:
            return self.default
        if reads_all_tokens(self.compressor):
            raise UsageError(f"this server runs without a compressor and takes no {next(iter(ratios))}; leave it out")
        budget = Budget(**ratios)
        for name, value in ratios.items():
            if value > self.max_retain:
                raise BudgetError(f"{name}={value:g} is above this server's limit; ask for at most {self.max_retain:g}")
        return budget


def check_request(arguments: Mapping[str, Any]) -> None:
    """Check the ``mm_processor_kwargs`` of a request.

    Raises:
        UsageError: a key that is not among `REQUEST_KEYS`, or a frame rate out of range.
    """
    unknown = sorted(arguments.keys() - REQUEST_KEYS)
    if unknown:
        raise UsageError(
            f"mm_processor_kwargs of a request can't hold {unknown[0]!r}; it takes {', '.join(sorted(REQUEST_KEYS))}"
        )
    fps = arguments.get("fps")
    if fps is not None and not (isinstance(fps, (int, float)) and 0 < fps <= 1000):
        raise UsageError(f"fps must be above 0 and at most 1000, got {fps!r}")
