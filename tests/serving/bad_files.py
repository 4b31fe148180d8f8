"""The corpus of the media tests as a client would send it: files that are not videos, and odd videos that are."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "media"))  # the corpus is a plain module there

from corpus import CASES, Case


def _plain(case: Case) -> bool:
    """Whether the expected answer holds for the bytes alone, read as a server reads them."""
    return case.category != "names" and set(case.read) <= {"require_video"}


BAD = [case for case in CASES if _plain(case) and (case.expected.error or case.expected.images == 0)]
"""No media, damaged files, bombs, and audio without video."""
ODD = [case for case in CASES if case.category in ("missing", "offset", "short", "damage") and not case.read
       and not case.expected.error and case.expected.images != 0]  # fmt: skip
"""Videos that can be read, some with a warning."""


def write_cases(cases: list[Case], folder: Path) -> dict[str, Path]:
    """Files by their names."""
    folder.mkdir()
    for case in cases:
        case.make(folder / case.name)
    return {case.name: folder / case.name for case in cases}
