"""The built package works without the repository: `nox -s dist`.

The session builds wheel and sdist and installs the wheel, with the dependencies that it names, into its environment.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import omnisift
from omnisift.utils.assets import CHECKOUT_ONLY

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 25 * 2**20  # the limit of the bundled checkpoint; the code is small in comparison

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def run(*arguments: str | Path, cwd: Path) -> str:
    """Run the installed command outside the repository, without Python's environment variables; return stdout."""
    command = [str(Path(sys.prefix, "bin", "omnisift")), *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built() -> Path:
    """A folder with wheel and sdist; the wheel was built from the sdist, so the sdist is complete."""
    folder = os.environ.get("OMNISIFT_DIST")
    assert folder, "run: nox -s dist"
    return Path(folder)


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = importlib.metadata.version("omnisift")
    assert tops == {"omnisift", f"omnisift-{version}.dist-info"}
    source = ROOT / "src"
    files = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    assert {"omnisift/py.typed", "omnisift/checkpoints/nano/selector/config.json"} <= wanted
    checkout_only = tuple(f"omnisift/checkpoints/{name}/" for name in CHECKOUT_ONLY)
    assert wanted - set(names) == {name for name in wanted if name.startswith(checkout_only)}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".mp4", ".log"))]
    assert wheel.stat().st_size <= MAX_WHEEL_BYTES


def test_sdist_holds_the_sources(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CITATION.cff", "constraints.txt", "src/omnisift/__init__.py"}
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", "runs/", "site/"))]


def test_the_package_is_that_of_the_wheel() -> None:
    assert Path(omnisift.__file__).is_relative_to(sys.prefix)


def test_a_clip_is_asked_outside_the_repository(tmp_path: Path) -> None:
    made = json.loads(run("make-clip", "clip.mp4", "--seed", "3", "--json", cwd=tmp_path))
    answer = json.loads(run("ask", "clip.mp4", made["question"], "--json", cwd=tmp_path))
    assert answer["answer"] == made["answer"]
    assert 0.2 < answer["retained_ratio"] < 0.3


def test_help_version_and_doctor_work_there(tmp_path: Path) -> None:
    assert "ask" in run("--help", cwd=tmp_path)
    assert run("--version", cwd=tmp_path).startswith("omnisift ")
    checks = json.loads(run("doctor", "--json", cwd=tmp_path))
    assert [check["what"] for check in checks if check["needed"] and not check["ok"]] == []
