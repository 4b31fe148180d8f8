"""The server's compression settings, and what a request may change."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omnisift.budget import Budget
from omnisift.config import CompressionConfig
from omnisift.errors import BudgetError, UsageError
from omnisift.pipeline.method import resolve_compressor
from omnisift.pipeline.model_source import is_hub_reachable
from omnisift.utils.names import AUTO

logger = logging.getLogger(__name__)

RETENTION_KEYS = ("retain", "retain_video", "retain_audio", "tokens")
REQUEST_KEYS = frozenset({*RETENTION_KEYS, "use_audio_in_video", "fps"})
"""Keys that ``mm_processor_kwargs`` of a request may hold; any other would change how much work a request makes."""
_KEPT_IN_FULL = "is not available in serving, which keeps audio outside a video in full; leave it out"
_OLD_KEYS = {"retain_most": "max_retain"}
"""Old name of a setting -> its name now."""


@dataclass(frozen=True)
class Settings(CompressionConfig):
    """The key ``omnisift`` of the model's configuration (``--hf-overrides '{"omnisift": {...}}'``)."""

    max_retain: float = 1.0
    """The largest share, of either modality, that a request may ask for."""

    @classmethod
    def from_config(cls, config: Any) -> Settings:
        """Read the settings from a Transformers configuration.

        Raises:
            CompressorError: ``auto`` has options or is part of a pair.
            UsageError: a key is unknown, or the method takes no selector.
            BudgetError: a ratio is out of range.
        """
        values: Mapping[str, Any] = getattr(config, "omnisift", None) or {}
        settings = cls.from_dict({_OLD_KEYS.get(name, name): value for name, value in values.items()})
        settings.check()
        return settings

    def resolved(self, source: str) -> Settings:
        """Return the settings with the name of the model's default method in place of ``auto``.

        `omnisift serve` has replaced it before; a server that is started by vLLM's own command has not.

        Args:
            source: folder or hub id of the checkpoint.

        Raises:
            CheckpointError: a file of the checkpoint can't be read.
        """
        if self.compressor.strip() != AUTO:
            return self
        local = Path(source).is_dir() or not is_hub_reachable()
        name, reason = resolve_compressor(self.compressor, source, self.selector, local_files_only=local)
        logger.info("compressor: %s (%s)", name, reason)
        return replace(self, compressor=name)

    def check(self) -> None:
        """Check the values before vLLM starts.

        Raises:
            BudgetError: a ratio is out of range.
            UsageError: a selector is given and the method takes none, or audio outside a video is to be compressed.
        """
        if self.compress_audio:
            raise UsageError(f"compress_audio {_KEPT_IN_FULL}")
        if not 0 < self.max_retain <= 1:
            raise BudgetError(f"max_retain is a fraction kept and must be in (0, 1], got {self.max_retain!r}")
        super().check()

    def to_dict(self) -> dict[str, Any]:
        """Return the settings that differ from the defaults, JSON-ready."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Settings(), name)}

    def request_budget(self, request: Mapping[str, Any]) -> Budget:
        """Return the budget of a request.

        Args:
            request: the request's ``mm_processor_kwargs``.

        Raises:
            BudgetError: a ratio outside (0, 1] or above ``max_retain``, or a wrong number of tokens.
            UsageError: a ratio or number for a server that does not compress.
        """
        given = {name: request[name] for name in RETENTION_KEYS if request.get(name) is not None}
        if not given:
            return self.budget
        if self.keeps_all:
            raise UsageError(f"this server runs without a compressor and takes no {next(iter(given))}; leave it out")
        budget = Budget(**given)
        for name, value in given.items():
            if name != "tokens" and value > self.max_retain:
                raise BudgetError(f"{name}={value:g} is above this server's limit; ask for at most {self.max_retain:g}")
        return budget

    def check_share(self, budget: Budget, total: int) -> None:
        """Check a request's number of tokens against `max_retain`, which needs the clip.

        Args:
            budget: of the request; the server's own is not limited.
            total: tokens in the chunks of the clip.

        Raises:
            BudgetError: the number is a larger share of the clip.
        """
        most = int(self.max_retain * total)
        if budget.tokens is not None and budget != self.budget and min(budget.tokens, total) > most:
            raise BudgetError(
                f"tokens={budget.tokens} is above this server's limit of {self.max_retain:g} of the {total} tokens of "
                f"this clip; ask for at most {most}"
            )


def check_request(arguments: Mapping[str, Any]) -> None:
    """Check the ``mm_processor_kwargs`` of a request.

    Raises:
        UsageError: a key that is not among `REQUEST_KEYS`, such as ``compress_audio``, or a frame rate out of range.
    """
    if "compress_audio" in arguments:
        raise UsageError(f"compress_audio {_KEPT_IN_FULL}")
    unknown = sorted(arguments.keys() - REQUEST_KEYS)
    if unknown:
        raise UsageError(
            f"mm_processor_kwargs of a request can't hold {unknown[0]!r}; it takes {', '.join(sorted(REQUEST_KEYS))}"
        )
    from omnisift.media.sampling import MIN_FPS

    fps = arguments.get("fps")
    if fps is not None and not (isinstance(fps, (int, float)) and MIN_FPS <= fps <= 1000):
        raise UsageError(f"fps must be above 0 (at least {MIN_FPS}) and at most 1000, got {fps!r}")
