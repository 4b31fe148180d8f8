"""What reading adds to the peak of a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Not `resource.getrusage`: a new process inherits the peak that it reports from its parent.
CODE = r"""
import json, re, sys
from pathlib import Path
from omnisift.errors import OmniSiftError
from omnisift.media import read
from omnisift.media.windows import open_windows

def peak():  # in KiB
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

path, before = sys.argv[1], peak()
"""


def in_a_child(path: Path, reading: str, *results: str, before: Callable[[], None] | None = None) -> list[Any]:
    """Run statements that read ``path``; returns the MiB that this added to the peak, and the values of expressions.

    ``before`` is called in the new process.
    """
    code = f"{CODE}{reading}\nprint(json.dumps([(peak() - before) / 1024, {', '.join(results)}]))"
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=before)
    return list(json.loads(done.stdout))
