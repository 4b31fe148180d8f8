"""Provenance of a result: commit, versions, machine, date."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "av", "numpy")
"""Packages whose versions are recorded."""


def provenance() -> dict[str, Any]:
    """Collect the provenance of a result made now.

    Returns:
        Plain data: ``commit`` (None outside a checkout), ``changed`` (whether ``src`` differs from the commit), the
        versions of Python and of `PACKAGES`, ``machine`` and ``date``.
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    commit = _output([*git, "rev-parse", "HEAD"])
    changed = _output([*git, "status", "--porcelain", ":/src"])
    return {
        "commit": commit or None,
        "changed": bool(changed),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, CPU, one thread per process",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        return ""
