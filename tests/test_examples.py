"""Every example and the notebook run unchanged, from another folder."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"
SERVERS = {"live_server.py"}
"""Run until they are stopped; they have tests of their own."""
SAYS = {
    "quickstart.py": "25.6%",
    "your_own_model.py": "video 96 -> 24",
    "search_captions.py": "0.mp4  at 0 red square with beep",
    "moderate.py": "broken.mp4    LOOK  could not be read (NotMedia)",
    "own_adapter.py": "audio 60 -> 15\nthe model reads the kept tokens as it would read them itself",
    "add_a_compressor.py": "loudest+uniform: kept tokens [2, 3, 6, 7, 8, 10]",
}
EXAMPLES = [FOLDER / name for name in sorted(SAYS)]


def test_every_example_is_checked() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == SAYS.keys() | SERVERS


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has loaded the libraries, except for the example that registers a method."""
    if path.stem == "add_a_compressor":
        done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        assert SAYS[path.name] in done.stdout
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.name] in capsys.readouterr().out


NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "omnisift.ipynb"


def notebook_cells() -> list[dict[str, object]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_has_no_outputs() -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in notebook_cells())


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for cell in notebook_cells():
        exec(compile("".join(cell["source"]), cell["id"], "exec"), space)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["full", "read", "100.0%", "four"],
        ["resift", "read", "25.6%", "four"],
        ["omnisift", "read", "25.6%", "four"],
        ["uniform", "read", "25.6%", "three"],
        ["random", "read", "25.6%", "three"],
    ]
    assert [line.split()[3] for line in lines[5:]] == ["50.0%", "25.6%", "11.0%"]
    image, keep = space["image"], space["keep"]
    assert image.size == (6 * 112, 112)
    assert keep.sum() == 24
