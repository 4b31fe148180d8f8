"""Provenance of a result: commit, versions, machine, date."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "transformers", "av", "numpy")
"""Packages whose versions are recorded."""
_GIT = ("git", "-C", str(Path(__file__).resolve().parent))


def provenance() -> dict[str, Any]:
    """Collect the provenance of a result made now.

    Returns:
        Plain data: ``commit`` (None outside a checkout), ``changed`` (whether ``src`` differs from the commit), the
        versions of Python and of `PACKAGES` (None for one that is not installed), ``machine`` and ``date``.
    """
    changed = _output([*_GIT, "status", "--porcelain", ":/src"])
    return {
        "commit": _commit() or None,
        "changed": bool(changed),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "machine": f"{platform.machine()}, CPU, one thread per process",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
    }


def machine_info(*packages: str) -> dict[str, Any]:
    """Collect the provenance of a speed measurement made now.

    Args:
        packages: distributions whose versions are recorded.

    Returns:
        Plain data: ``commit`` ("unknown" outside a checkout), the versions, ``cpu`` (the processor's name) and ``load``
        (the machine's load average over one minute).
    """
    return {
        "commit": _commit() or "unknown",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "cpu": _cpu(),
        "load": round(os.getloadavg()[0], 2),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    return _output([*_GIT, "rev-parse", "HEAD"])


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        return ""
