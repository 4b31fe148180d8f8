"""The faults of Transformers in docs/upstream.md still exist, with nothing of ours attached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transformers

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "upstream" / "glm_videos.py"


def run(*options: str) -> tuple[int, list[str]]:
    """Exit code and lines of the script, without our package."""
    where = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**where, "HF_HUB_OFFLINE": "1"})
    assert done.returncode in (0, 1), done.stderr[-3000:]
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("options", [("beams",), ("mixed",), ("beams", "--fix"), ("mixed", "--fix")], ids=" ".join)
def test_the_fault_is_still_there_and_the_suggested_change_mends_it(options: tuple[str, ...]) -> None:
    code, lines = run(*options)
    assert code == (0 if "--fix" in options else 1), f"Transformers has repaired it: update docs/upstream.md\n{lines}"
    assert lines[0].startswith(f"transformers {transformers.__version__}, torch ")
    shown = (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")
    assert "\n".join(lines[1:]) + "\n" in shown, lines
