"""Report what a process holds in memory whenever a file in ``$MEMORY_PROBE`` asks for it (serving_memory.py).

Python imports this module at its start in each process that has the folder in ``PYTHONPATH``.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


class _Mallinfo(ctypes.Structure):
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in names)


def _state(libc: Any) -> dict[str, int]:
    """Bytes of glibc's first arena, and numbers of Python's objects."""
    info = libc.mallinfo2()
    return {
        "heap": info.arena,
        "mapped": info.hblkhd,  # large blocks, each with a mapping of its own
        "in_use": info.uordblks,  # of the heap
        "free": info.fordblks,  # of the heap, kept by glibc
        "python_blocks": sys.getallocatedblocks(),
        "python_objects": len(gc.get_objects()),
    }


def _collect(libc: Any) -> int:
    """Free what only cycles keep alive, and give free memory back; returns the bytes of such cycles."""
    before = libc.mallinfo2().uordblks
    gc.collect()
    libc.malloc_trim(0)
    return int(before - libc.mallinfo2().uordblks)


def _serve(folder: Path) -> None:
    """Write the state to a file once for each number in ``folder``."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    done = 0
    while True:
        time.sleep(0.2)
        wanted = max((int(path.name) for path in folder.glob("[0-9]*")), default=0)
        if wanted == done:
            continue
        done = wanted
        state = _state(libc)
        if (folder / "collect").exists():
            state["garbage"] = _collect(libc)
        partial = folder / f".{os.getpid()}"
        partial.write_text(json.dumps(state))
        partial.rename(folder / f"state-{done}-{os.getpid()}")


if "MEMORY_PROBE" in os.environ:
    threading.Thread(target=_serve, args=(Path(os.environ["MEMORY_PROBE"]),), daemon=True).start()
