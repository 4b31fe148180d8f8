"""Where and with what a result was made: commit, versions, machine."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "av", "numpy")


def environment() -> dict[str, Any]:
    """Plain data. ``commit`` is None outside a checkout; ``changed`` says whether ``src`` differed from it."""
    here = ["git", "-C", str(Path(__file__).resolve().parent)]
    commit = _output([*here, "rev-parse", "HEAD"])
    changed = _output([*here, "status", "--porcelain", ":/src"])
    return {
        "commit": commit or None,
        "changed": bool(changed),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, CPU, one thread a process",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        return ""
