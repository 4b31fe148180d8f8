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
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any


class _Mallinfo(ctypes.Structure):
    names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in names)


def _state(libc: Any) -> dict[str, Any]:
    info = libc.mallinfo2()
    kinds = Counter(f"{type(thing).__module__}.{type(thing).__name__}" for thing in gc.get_objects())
    return {
        "heap": info.arena,  # from brk, and in arenas of threads
        "mapped": info.hblkhd,  # large blocks, each with a mapping of its own
        "in_use": info.uordblks,  # of the heap
        "free": info.fordblks,  # of the heap, kept by glibc
        "python_blocks": sys.getallocatedblocks(),
        "python_objects": sum(kinds.values()),
        "kinds": dict(kinds.most_common(400)),
    }


def _serve(folder: Path) -> None:
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    done = -1
    while True:
        time.sleep(0.2)
        wanted = max((int(path.name) for path in folder.glob("[0-9]*")), default=-1)
        if wanted <= done:
            continue
        done = wanted
        state = _state(libc)
        if (folder / "collect").exists():
            gc.collect()
            libc.malloc_trim(0)
            state["garbage"] = state["in_use"] - libc.mallinfo2().uordblks  # that no reference kept, but cycles
        if tracemalloc.is_tracing():
            tracemalloc.take_snapshot().dump(str(folder / f"trace-{done}-{os.getpid()}"))
        partial = folder / f".{os.getpid()}"
        partial.write_text(json.dumps(state))
        partial.rename(folder / f"state-{done}-{os.getpid()}")


if "MEMORY_PROBE" in os.environ:
    threading.Thread(target=_serve, args=(Path(os.environ["MEMORY_PROBE"]),), daemon=True).start()
