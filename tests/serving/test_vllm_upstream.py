"""The faults of vLLM in docs/upstream.md still exist. If a test fails, vLLM has fixed one: remove our workaround."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
ROOT = Path(__file__).parents[2]


def run(name: str, *options: str) -> tuple[int, list[str]]:
    """Exit code and lines of a script, without our plugin."""
    command = [sys.executable, str(ROOT / "examples" / "upstream" / name), *options]
    where = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**where, "VLLM_PLUGINS": ""})
    lines = [line for line in done.stdout.splitlines() if not line.startswith(("INFO", "WARNING"))]
    assert done.returncode in (0, 1), done.stderr[-3000:]
    assert lines, done.stderr[-3000:]
    return done.returncode, lines


def quoted(lines: list[str]) -> bool:
    """Whether docs/upstream.md shows these lines."""
    return "\n".join(lines) + "\n" in (ROOT / "docs" / "upstream.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["omni_positions.py", "cpu_pruning.py", "qwen3_omni_positions.py"])
def test_the_fault_is_still_there(script: str) -> None:
    code, lines = run(script)
    assert code == 1, f"vLLM has fixed it: remove the plugin's workaround and update docs/upstream.md\n{lines}"
    assert quoted(lines), lines


def test_the_fix_for_positions() -> None:
    code, lines = run("omni_positions.py", "--fix")
    assert (code, lines[1]) == (0, "positions differ for 0 of 138 tokens")


def test_the_fix_for_text_after_a_clip() -> None:
    """Fractions still differ, and where ids are whole nothing does."""
    code, lines = run("qwen3_omni_positions.py", "--fix")
    counts = [line for line in lines if "positions differ" in line]
    assert (code, len(counts)) == (1, 3)
    assert counts[0].endswith("for 0 of 90 tokens")
    assert counts[2].endswith("for 0 of 55 tokens")
    assert quoted(counts[2:]), counts


def test_the_fix_for_pruning() -> None:
    code, lines = run("cpu_pruning.py", "--fix")
    assert code == 0
    assert quoted(lines), lines
