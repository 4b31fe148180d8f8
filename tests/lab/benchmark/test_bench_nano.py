"""The full benchmark on two clips: it runs, resumes where it stopped, and writes result and tables."""

import importlib.util
import json
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from omnisift.vgas import VGAS, VGASConfig

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "nano.py"


@pytest.fixture
def bench(monkeypatch):
    spec = importlib.util.spec_from_file_location("bench_nano", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "bench_nano", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DONORS", 1)
    return module


def run(bench, monkeypatch, folder, clips, *more):
    arguments = [
        "--selector",
        str(folder / "selector"),
        "--variant",
        f"other={folder / 'other'}",
        "--clips",
        str(clips),
    ]
    arguments += ["--captions", "1", "--retain", "0.25", "--journal", str(folder / "run.jsonl")]
    arguments += ["--out", str(folder / "nano.json"), "--table", str(folder / "nano.md"), *more]
    monkeypatch.setattr(sys, "argv", ["nano.py", *arguments])
    return bench.main()


def test_two_clips(bench, monkeypatch, tmp_path, capsys):
    for seed, name in enumerate(("selector", "other")):
        torch.manual_seed(seed)
        VGAS(VGASConfig(input_size=128)).save_pretrained(tmp_path / name)
    assert run(bench, monkeypatch, tmp_path, 1) == 0
    first = (tmp_path / "run.jsonl").read_text()
    assert run(bench, monkeypatch, tmp_path, 2) == 0
    assert (tmp_path / "run.jsonl").read_text().startswith(first)
    result = json.loads((tmp_path / "nano.json").read_text())
    assert (result["clips"], result["questions"]) == (2, 16)
    names = [row["row"] for row in result["rows"]]
    assert names == ["full", "omnisift@25", "random@25", "uniform@25", "other@25", "video-blind@25"]
    assert all(row["kept"]["video"] == pytest.approx(24 / 96) for row in result["rows"][1:])
    assert result["environment"]["torch"] == version("torch")
    assert "## Evidence kept" in (tmp_path / "nano.md").read_text()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["clips"] == 2
    assert run(bench, monkeypatch, tmp_path, 2, "--captions", "2") == 2
    assert "other settings" in capsys.readouterr().err
