"""The media tests' corpus as a client of a server would send it: what can't be a film, and odd films that can."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))  # its modules are plain ones beside its tests

from corpus import CASES, Case


def _plain(case: Case) -> bool:
    """Whether its answer holds for bytes alone, read as a server reads them."""
    return case.category != "names" and set(case.read) <= {"require_video"}


BAD = [case for case in CASES if _plain(case) and (case.answer.error or case.answer.images == 0)]
"""No media, damage, bombs; and sound without picture."""
ODD = [case for case in CASES if case.category in ("missing", "offset", "short", "damage") and not case.read
       and not case.answer.error and case.answer.images != 0]  # fmt: skip
"""Films that can be read, if with a warning."""


def made(cases: list[Case], folder: Path) -> dict[str, Path]:
    """Files by their names."""
    folder.mkdir()
    for case in cases:
        case.make(folder / case.name)
    return {case.name: folder / case.name for case in cases}
