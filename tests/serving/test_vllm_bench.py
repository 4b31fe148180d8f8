"""The serving benchmark runs and its counts are right; speed is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.vllm]
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "speed" / "serving.py"


def test_one_point(tmp_path: Path) -> None:
    options = ["--tokens", "1000", "--clients", "1", "--journal", str(tmp_path / "journal.jsonl")]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    (point,) = json.loads(done.stdout.splitlines()[-1])["points"]
    complete, cut = point["whole"], point["cut"]
    text = complete["prompt_tokens"] - 1000
    assert 0 < text < 20
    assert cut["prompt_tokens"] - text == pytest.approx(250, abs=8)
    for way in (complete, cut):
        assert way["requests"] == 4
        assert way["blocks"] == -(-(way["prompt_tokens"] + 7) // 32), "the prompt and all but the last new token"
    assert point["floor_s"] > 0


def test_many_clients(tmp_path: Path) -> None:
    """Two runs of one turn: clips are encoded together or one by one, as the benchmark says."""
    journal = str(tmp_path / "journal.jsonl")
    code = f"""
import sys, serving_concurrency as bench
bench.POINTS, bench.RUNS, sys.argv = {{("deep", 82, 4): (8, 1)}}, 2, ["bench", "--journal", {journal!r}]
sys.exit(bench.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPT.parent, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    runs = json.loads(done.stdout.splitlines()[-1])["runs"]
    assert [run["run"] for run in runs] == [0, 1]
    for run in runs:
        assert [run[way]["prompt_tokens"] for way in ("whole", "together", "sequential")] == [94, 33, 33]
        assert {run[way]["requests"] for way in ("whole", "together", "sequential")} == {8}
        assert run["sequential"]["clips_per_call"] == 1
    assert max(run["together"]["clips_per_call"] for run in runs) > 1
