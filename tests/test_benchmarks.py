"""The benchmarks that no other test runs still run, and `verify_7b` tells right from wrong.

The released code is not here; a stand-in checkout wraps the readable loop of `tests/reference.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from omnisift.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow

STAND_IN = """
import sys
import torch
sys.path.insert(0, {tests!r})
import reference

def similarity_pruning(selector, embeds, ids, audio_id, video_id, positions, merging_ratio_a, merging_ratio_v):
    kinds = (ids[0] == video_id) * 1 + (ids[0] == audio_id) * 2
    reference.selector_scores = lambda _selector, video, audio: selector(video, audio)
    sample = torch.zeros_like(kinds)
    found = reference.reference(embeds[0], kinds, positions[0, 0], sample, merging_ratio_v, merging_ratio_a)
    return embeds, ({keep})[None], 0, 0
"""


def run(script: str, *arguments: str) -> tuple[int, dict]:
    """Exit code and the one JSON line of a benchmark."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.stdout, done.stderr
    (line,) = done.stdout.splitlines()
    return done.returncode, json.loads(line)


def stand_in(folder: Path, keep: str) -> Path:
    (folder / "omnisift").mkdir(parents=True)
    code = STAND_IN.format(tests=str(ROOT / "tests"), keep=keep)
    (folder / "omnisift" / "compression_units.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def selector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random selector weights of nano's width, without a time embedding, as the released code has it."""
    config = json.loads((nano_path() / "config.json").read_text(encoding="utf-8"))
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("selector")
    VGAS(VGASConfig(width=config["text_config"]["hidden_size"], hidden=64)).save_pretrained(folder)
    return folder


def verify(reference: Path, selector: Path) -> tuple[int, dict]:
    place = ("--device", "cpu", "--dtype", "float32", "--attn", "sdpa", "--runs", "1", "--tolerance", "0")
    return run("verify_7b.py", "--model", "nano", "--reference", str(reference), "--selector", str(selector), *place)


def test_import_time_prints_one_line() -> None:
    code, line = run("import_time.py", "--runs", "1")
    assert code == 0
    assert line["torch_s"] > 0
    assert line["extra_s"] > 0


def test_verify_agrees_with_the_loop(selector: Path, tmp_path: Path) -> None:
    code, line = verify(stand_in(tmp_path, "found.keep"), selector)
    assert code == 0
    assert [part["differ"] for part in line["masks"].values()] == [0, 0]
    assert all(part["kept"] < part["tokens"] for part in line["masks"].values())
    assert line["full"]["retained_ratio"] == 1.0
    assert line["omnisift"]["retained_ratio"] < 1.0


def test_verify_fails_on_another_mask(selector: Path, tmp_path: Path) -> None:
    code, line = verify(stand_in(tmp_path, "torch.ones_like(found.keep)"), selector)
    assert code == 1
    assert all(part["differ"] == part["tokens"] - part["kept"] for part in line["masks"].values())
