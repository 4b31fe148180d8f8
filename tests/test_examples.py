"""Every example runs as it stands, from another folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))
SAYS = {
    "quickstart.py": "25.6%",
    "your_own_model.py": "video 96 -> 24",
    "search_captions.py": "0.mp4  at 0 red square with beep",
    "moderate.py": "broken.mp4    LOOK  could not be read (NotMedia)",
    "add_a_compressor.py": "loudest+uniform: kept tokens [2, 3, 6, 7, 8, 10]",
}


def test_every_example_is_checked() -> None:
    assert {path.name for path in EXAMPLES} == SAYS.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert SAYS[path.name] in done.stdout
