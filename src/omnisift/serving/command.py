"""The command line and environment with which vLLM serves compressed prompts to clients that know nothing of them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omnisift.errors import CheckpointError, UsageError
from omnisift.media.sampling import check_numbers
from omnisift.pipeline.prompt import PAPER_MAX_PIXELS, pixel_limits
from omnisift.serving.media_limits import MediaLimits
from omnisift.serving.vllm import CONNECTOR
from omnisift.serving.vllm.settings import Settings
from omnisift.serving.vllm_startup import NO_MEDIA_CACHE, check_vllm, check_weights, given_memory, overrides

MODULE = "vllm.entrypoints.openai.api_server"

_ONE_HEAP = {"MALLOC_ARENA_MAX": "1"}
"""For glibc: clips are decoded in threads, and with a heap for each thread freed memory stays with the process."""


@dataclass(frozen=True)
class Server:
    """A server to be started."""

    model: str
    """Folder or hub id of a full Qwen2.5-Omni checkpoint."""
    settings: Settings
    name: str | None = None
    """What clients call the model; None for ``model``."""
    host: str = "127.0.0.1"
    port: int = 8000
    fps: float = 2.0
    max_frames: int = 256
    max_pixels: int | None = None
    """Of one picture; None for the paper's, or the processor's own limit."""
    media_hosts: Sequence[str] = ()
    """Hosts that media may be fetched from; none by default."""
    media_folder: Path | None = None
    """A folder whose files requests may name; none by default."""
    more: Sequence[str] = field(default_factory=tuple)
    """Further flags, for vLLM."""

    def check(self) -> None:
        """Raise `OmniSiftError` for what would stop the server after half a minute, or let it serve something else."""
        check_vllm()
        check_numbers(self.fps, self.max_frames, 0.0, None, MediaLimits.max_seconds)
        if self.media_folder is not None and not self.media_folder.is_dir():
            raise UsageError(f"no folder at {self.media_folder}; name one that exists")
        check_weights(self.model, self.settings)

    def command(self) -> list[str]:
        """The arguments of vLLM's server."""
        command = [sys.executable, "-m", MODULE, "--model", self.model, "--host", self.host, "--port", str(self.port)]
        command += ["--served-model-name", self.name or self.model]
        # Requests may bring their own retention: the plugin takes nothing else of what this flag opens.
        command += ["--hf-overrides", overrides(self.settings), "--trust-request-mm-kwargs"]
        command += NO_MEDIA_CACHE
        if self.media_hosts:
            command += ["--allowed-media-domains", json.dumps(list(self.media_hosts))]
        if self.media_folder is not None:
            command += ["--allowed-local-media-path", str(self.media_folder.resolve())]
        return [*command, *self.more]

    def environment(self) -> dict[str, str]:
        """The environment of vLLM's processes: our media reader, and no report of use to anyone."""
        least, most = _pixel_limits(self.model)
        most = min(most, PAPER_MAX_PIXELS) if self.max_pixels is None else self.max_pixels
        reading = MediaLimits(self.fps, self.max_frames, min(least, most), most)
        fixed = {"VLLM_MEDIA_CONNECTOR": CONNECTOR, "VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
        return {**_ONE_HEAP, **given_memory(self.name), **os.environ, **reading.to_environment(), **fixed}


def _pixel_limits(model: str) -> tuple[int, int]:
    from transformers import AutoProcessor

    try:
        return pixel_limits(AutoProcessor.from_pretrained(model))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no processor in {model}: {str(error).strip().splitlines()[0]}") from error
