"""The command line and environment with which `omnisift serve` starts vLLM's OpenAI-compatible server."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omnisift.config import ServedReadOptions
from omnisift.errors import UsageError
from omnisift.pipeline.loading import read_processor
from omnisift.pipeline.prompt import frame_limits
from omnisift.serving.body_limit import MIDDLEWARE
from omnisift.serving.fetch_limits import FetchLimits
from omnisift.serving.media_limits import MediaLimits
from omnisift.serving.request_text import to_environment
from omnisift.serving.url_policy import host_name
from omnisift.serving.vllm import CONNECTOR
from omnisift.serving.vllm.settings import Settings
from omnisift.serving.vllm_startup import (
    NO_MEDIA_CACHE,
    cache_memory,
    check_vllm,
    check_weights,
    hf_overrides,
    served_family,
)
from omnisift.utils.checkpoint_files import checkpoint_errors
from omnisift.utils.special_tokens import SpecialTokens

MODULE = "vllm.entrypoints.openai.api_server"

_ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""For glibc: clips are received in threads, and with one arena per thread freed memory stays in the process."""


@dataclass(frozen=True)
class Server(ServedReadOptions):
    """A server to start. Its reading options are limits that a request can't raise."""

    model: str
    """Folder or hub id of a full Qwen2.5-Omni or Qwen3-Omni checkpoint."""
    settings: Settings
    served_name: str | None = None
    """The model's name for clients; None for ``model``."""
    host: str = "127.0.0.1"
    port: int = 8000
    media_hosts: Sequence[str] = ()
    """Hosts that media may be fetched from."""
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)
    """Limits on the size of requests and on fetches from ``media_hosts``."""
    media_folder: Path | None = None
    """A folder whose files requests may name."""
    vllm_args: Sequence[str] = field(default_factory=tuple)
    """Further command-line flags for vLLM."""

    def check(self) -> None:
        """Check the settings before vLLM starts, which takes half a minute.

        Raises:
            OmniSiftError: vLLM is missing, a value is out of range, or the checkpoint can't be served as asked.
        """
        served_family(self.model)
        check_vllm()
        super().check()
        self.fetch_limits.check()
        for host in self.media_hosts:
            host_name(host)
        if self.media_folder is not None and not self.media_folder.is_dir():
            raise UsageError(f"no folder {self.media_folder}; name one that exists")
        check_weights(self.model, self.settings)

    def command(self) -> list[str]:
        """Return the command line of vLLM's server."""
        command = [sys.executable, "-m", MODULE, "--model", self.model, "--host", self.host, "--port", str(self.port)]
        command += ["--served-model-name", self.served_name or self.model]
        # Requests may set their own retention; the plugin refuses everything else that this flag allows.
        command += ["--hf-overrides", hf_overrides(self.model, self.settings), "--trust-request-mm-kwargs"]
        command += [*NO_MEDIA_CACHE, "--middleware", MIDDLEWARE]
        if self.media_hosts:
            command += ["--allowed-media-domains", *map(host_name, self.media_hosts)]
        if self.media_folder is not None:
            command += ["--allowed-local-media-path", str(self.media_folder.resolve())]
        return [*command, *self.vllm_args]

    def environment(self) -> dict[str, str]:
        """Return the environment of vLLM's processes: media reader, limits, special tokens, no usage reports."""
        processor = read_processor(self.model)
        with checkpoint_errors(f"the processor in {self.model}"):
            min_pixels, max_pixels = frame_limits(processor, self.max_pixels)
            special = to_environment(SpecialTokens.of(processor.tokenizer))
        media_limits = MediaLimits(**{**self.reading, "min_pixels": min_pixels, "max_pixels": max_pixels})
        limits = media_limits.to_environment() | self.fetch_limits.to_environment() | special
        fixed = {"VLLM_MEDIA_CONNECTOR": CONNECTOR, "VLLM_NO_USAGE_STATS": "1", "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
        return {**_ONE_ARENA, **cache_memory(self.served_name), **os.environ, **limits, **fixed}
