"""What the server was told about compression, and what a request may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from omnisift.budget import Budget
from omnisift.errors import BudgetError, UsageError

RATIOS = ("retain", "retain_video", "retain_audio")
OF_A_REQUEST = frozenset({*RATIOS, "use_audio_in_video", "fps"})
"""What ``mm_processor_kwargs`` of a request may hold. All else would change how much work a request makes."""


@dataclass(frozen=True)
class Settings:
    """The key ``omnisift`` of the model's configuration (``--hf-overrides '{"omnisift": {...}}'``)."""

    compressor: str = "omnisift"
    """A method, named as for `omnisift.compressors.make_compressor`; ``none`` keeps every token."""
    retain: float | None = None
    """Share of video and audio tokens that stays; 0.25 if no ratio is given."""
    retain_video: float | None = None
    """Share of the video tokens; with ``retain_audio`` instead of ``retain``."""
    retain_audio: float | None = None
    """Share of the audio tokens."""
    retain_most: float = 1.0
    """The largest share, of either kind, that a request may ask for."""
    selector: str | None = None
    """Folder of selector weights; None takes those of the checkpoint."""
    seed: int = 0
    """For methods that draw."""

    @classmethod
    def of(cls, config: Any) -> Settings:
        """Read them from a Transformers configuration. Raises `UsageError` for unknown keys, `BudgetError` for
        ratios."""
        given: Mapping[str, Any] = getattr(config, "omnisift", None) or {}
        unknown = sorted(given.keys() - {field.name for field in fields(cls)})
        if unknown:
            known = ", ".join(field.name for field in fields(cls))
            raise UsageError(f"omnisift has no setting {unknown[0]!r} in the model's configuration; it has: {known}")
        return cls(**given).checked()

    def checked(self) -> Settings:
        """Itself. Raises `BudgetError` for a ratio outside its range."""
        if not 0 < self.retain_most <= 1:
            raise BudgetError(f"retain_most is a fraction kept and must be in (0, 1], got {self.retain_most!r}")
        self.budget({})
        return self

    def to_dict(self) -> dict[str, Any]:
        """What differs from the defaults, JSON-ready."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Settings(), name)}

    @cached_property
    def default(self) -> Budget:
        """The server's own budget."""
        if self.compressor == "none":
            return Budget(retain=1.0)
        return Budget.from_options(**{name: getattr(self, name) for name in RATIOS})

    def budget(self, asked: Mapping[str, Any]) -> Budget:
        """The budget of a request with ``asked`` in its arguments.

        Raises `BudgetError` if a ratio is outside (0, 1] or above ``retain_most``, `UsageError` where the server does
        not compress.
        """
        given = {name: asked[name] for name in RATIOS if asked.get(name) is not None}
        if not given:
            return self.default
        if self.compressor == "none":
            raise UsageError(f"this server runs without a compressor and takes no {next(iter(given))}: leave it out")
        budget = Budget(**given)
        above = {name: value for name, value in given.items() if value > self.retain_most}
        for name, value in above.items():
            raise BudgetError(f"{name}={value:g} is above this server's limit: ask for at most {self.retain_most:g}")
        return budget


def check_request(arguments: Mapping[str, Any]) -> None:
    """Raise `UsageError` for arguments of a request that are none of `OF_A_REQUEST`."""
    unknown = sorted(arguments.keys() - OF_A_REQUEST)
    if unknown:
        raise UsageError(
            f"mm_processor_kwargs of a request can't hold {unknown[0]!r}; it takes {', '.join(sorted(OF_A_REQUEST))}"
        )
    fps = arguments.get("fps")
    if fps is not None and not (isinstance(fps, (int, float)) and 0 < fps <= 1000):
        raise UsageError(f"fps must be above 0 and at most 1000, got {fps!r}")
