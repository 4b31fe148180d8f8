"""Test suites that need an environment of their own, for nox: `nox -l` lists them, `nox` runs all of them.

`nox -s NAME --install-only` only creates the environment, in `.nox/NAME`. Arguments after `--` go to pytest and replace
the paths that a session names: `nox -s extras -- -m ray tests/batch`.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"  # brings its own pip
nox.options.reuse_venv = "yes"

SUITES = ("browser", "cuda", "deepspeed", "dist", "evalenv", "fuzz", "quant", "ray", "swift", "vllm")
"""Markers of the suites below; the other slow tests run in the environment of nox."""

QUANTIZERS = ("hqq==0.2.8.post1", "optimum==2.3.0")
GPTQMODEL = (
    "gptqmodel==7.7.0", "defuser==0.0.28", "device-smi==0.5.7", "logbar==0.4.15", "pypcre==0.6.4",
    "threadpoolctl==3.8.0", "tokenicer==0.0.14",
)  # fmt: skip
"""Packages that the session `quant` installs besides the extra of that name."""
ENV = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
PARALLEL = ("-n", "logical", "--maxprocesses", "8", "--dist", "loadfile")


def pins(path: Path) -> dict[str, list[str]]:
    """The lines of a constraints file by package name."""
    result: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"[\w.-]+", line):
            result.setdefault(re.sub(r"[-_.]+", "-", match[0]).lower(), []).append(line)
    return result


def check_python(session: nox.Session, constraints: str) -> None:
    """Stop where the versions of a constraints file do not exist for this Python."""
    if sys.version_info < (3, 11):
        session.error(f"{constraints} is for Python 3.11 or newer. Do: pip install nox with such a Python, then run it")


def install(session: nox.Session, constraints: str, extras: str, *packages: str) -> None:
    """Install this checkout and other packages: versions of ``constraints``, and of constraints.txt for all others."""
    check_python(session, constraints)
    merged = pins(Path("constraints.txt")) | pins(Path(constraints))
    file = Path(session.virtualenv.location, "constraints.txt")
    file.write_text("\n".join(line for lines in merged.values() for line in lines), encoding="utf-8")
    session.install("-c", str(file), "-e", f".[{extras}]", *packages)


def pytest(session: nox.Session, marker: str, *paths: str, options: tuple[str, ...] = ()) -> None:
    """Run the tests with a marker, in these paths or in those that the command line names."""
    session.run("pytest", "-m", marker, "--timeout", "1800", *options, *(session.posargs or paths), env=ENV)


@nox.session(venv_backend="none")
def slow(session: nox.Session) -> None:
    """Slow tests without requirements of their own, in the environment in which nox runs."""
    marker = f"slow and not ({' or '.join(SUITES)})"
    command = (sys.executable, "-m", "pytest", "-m", marker, "--timeout", "1800", *session.posargs)
    session.run(*command, env=ENV)


@nox.session(venv_backend="none")
def fuzz(session: nox.Session) -> None:
    """Hostile input and kills at random moments: `nox -s fuzz -- --seconds 600` gives each test ten minutes."""
    command = (sys.executable, "-m", "pytest", "-m", "fuzz", "--timeout", "0", "tests/fuzz", *session.posargs)
    session.run(*command, env=ENV)


@nox.session
def extras(session: nox.Session) -> None:
    """Ray with killed workers, DeepSpeed ZeRO-2 on a CPU, and the page and report in Chromium."""
    browsers = ("chromium", "chromium-browser", "google-chrome")
    if not any(map(shutil.which, browsers)):
        session.error("the page is tested in Chromium. Do: apt-get install chromium (or dnf install chromium)")
    packages = ("axe-playwright-python", "deepspeed", "playwright")
    install(session, "constraints-ui.txt", "dev,ray,ui", *packages)
    pytest(session, "ray or deepspeed or browser", "tests")


@nox.session
def quant(session: nox.Session) -> None:
    """Quantised models and caches: torchao, bitsandbytes, quanto, HQQ and GPT-QModel on a CPU."""
    install(session, "constraints.txt", "dev,quant", *QUANTIZERS, "setuptools", "wheel")
    # GPT-QModel's build reads the installed PyTorch, and its requirements are newer than what it needs here.
    session.install("--no-deps", "--no-build-isolation", *GPTQMODEL)
    pytest(session, "quant", "tests")


@nox.session
def swift(session: nox.Session) -> None:
    """The plugin for ms-swift, and the test suite with its Transformers 5.19, the oldest supported release."""
    install(session, "constraints-swift.txt", "dev", "ms-swift", "decord", "qwen-omni-utils", "soundfile")
    pytest(session, "swift or not slow", "tests", options=PARALLEL)


@nox.session(name="eval")
def evaluation(session: nox.Session) -> None:
    """lmms-eval end to end, and the media tests with its PyAV 15, the oldest supported release."""
    install(session, "constraints-eval.txt", "dev", "lmms-eval")
    pytest(session, "evalenv or not slow", "tests/evaluation/public/test_end_to_end.py", "tests/media")


@nox.session
def vllm(session: nox.Session) -> None:
    """The plugin for vLLM on a CPU against `attach()`; `omnisift serve` over HTTP, `omnisift run` with vLLM."""
    check_python(session, "constraints-vllm.txt")
    # vLLM also requires torchaudio and torchcodec, which are CUDA builds and break Transformers' import here.
    session.install("--no-deps", "-r", "constraints-vllm.txt")
    session.install("--no-deps", "-e", ".")
    code = "import torchvision; print('works')"
    if "works" not in str(session.run_install("python", "-c", code, silent=True, success_codes=(0, 1))):
        session.install("--no-deps", ".ci/torchvision_ops")
    pytest(session, "vllm", "tests/serving", "tests/batch/test_vllm_engine.py")


@nox.session(reuse_venv=False)
def dist(session: nox.Session) -> None:
    """Wheel and sdist, and a clip answered in an environment with the wheel's own dependencies alone."""
    session.install("-c", "constraints.txt", "build", "hatchling", "pytest", "pytest-timeout")
    folder = Path(session.virtualenv.location, "dist")
    session.run_install("python", "-m", "build", "--no-isolation", "--outdir", str(folder))
    (wheel,) = folder.glob("*.whl")
    session.install("-c", "constraints.txt", str(wheel))
    session.env["OMNISIFT_DIST"] = str(folder.resolve())
    pytest(session, "dist", "tests/test_wheel.py")
