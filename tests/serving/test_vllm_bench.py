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
