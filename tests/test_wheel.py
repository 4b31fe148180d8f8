"""The built package works without the repository: `make test-dist`.

The wheel is installed into a new, empty environment. Its dependencies (PyTorch and others, 6 GB) are not installed
again: a .pth file adds those of the environment that runs the test. The test checks that OmniSIFT itself comes from the
wheel.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 25 * 2**20  # the limit of the bundled checkpoint; the code is small in comparison

pytestmark = [pytest.mark.slow, pytest.mark.dist]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the repository, without environment variables for Python, and return stdout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist; the wheel is built from the sdist, so the sdist is complete."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (wheel,) = built.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def elsewhere(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment in which only the wheel is installed."""
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder, with_pip=False)
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin" / "python",
        "install",
        "-qq",
        "--no-deps",
        wheel,
        cwd=folder,
    )
    lend_dependencies(folder)
    return folder


def lend_dependencies(folder: Path) -> None:
    """Make this environment's packages importable, but not its editable OmniSIFT.

    A line in a .pth file only appends to `sys.path`; the .pth files of the added folder (with an editable
    install) are not read. The packages of the new environment come first.
    """
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    version = importlib.metadata.version("omnisift")
    assert tops == {"omnisift", f"omnisift-{version}.dist-info"}
    source = ROOT / "src"
    files = {str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()}
    wanted = {name for name in files if "__pycache__" not in name}
    assert {"omnisift/py.typed", "omnisift/checkpoints/nano/selector/config.json"} <= wanted
    assert wanted <= set(names)
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


def test_the_environment_uses_the_wheel_not_the_repository(elsewhere: Path) -> None:
    code = "import omnisift, importlib.metadata as m; print(omnisift.__file__, m.version('omnisift'))"
    where, version = run(elsewhere / "bin" / "python", "-c", code, cwd=elsewhere).split()
    assert Path(where).is_relative_to(elsewhere.resolve()), "imported from outside the new environment"
    assert not Path(where).is_relative_to(ROOT)
    assert version == importlib.metadata.version("omnisift")


def test_a_clip_is_asked_outside_the_repository(elsewhere: Path, tmp_path: Path) -> None:
    command = elsewhere / "bin" / "omnisift"
    made = json.loads(run(command, "make-clip", tmp_path / "clip.mp4", "--seed", "3", "--json", cwd=tmp_path))
    answer = json.loads(run(command, "ask", tmp_path / "clip.mp4", made["question"], "--json", cwd=tmp_path))
    assert isinstance(answer["answer"], str)
    assert 0.2 < answer["retained_ratio"] < 0.3


def test_help_version_and_doctor_work_there(elsewhere: Path, tmp_path: Path) -> None:
    assert "ask" in run(elsewhere / "bin" / "omnisift", "--help", cwd=tmp_path)
    assert run(elsewhere / "bin" / "omnisift", "--version", cwd=tmp_path).startswith("omnisift ")
    checks = json.loads(run(elsewhere / "bin" / "omnisift", "doctor", "--json", cwd=tmp_path))
    assert [check["what"] for check in checks if check["needed"] and not check["ok"]] == []
