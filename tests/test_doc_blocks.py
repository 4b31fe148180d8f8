"""Every Python and console block in README and docs runs, in the order of its page, as a reader would paste it.

A page runs in one empty folder with one Python namespace. A block that cannot run here carries a comment on the line
before it, ``<!-- not run: REASON -->``; `NOT_RUN` counts these blocks by reason. The bundled nano stands for full-size
models, generated clips stand for those that a reader would bring, and large numbers become small.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import wave
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from omnisift.cli import main
from omnisift.compressors import COMPRESSORS
from omnisift.utils.assets import nano_path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    "40 CPU minutes": 1,
    "downloads a wheel": 1,
    "needs a GPU": 2,
    "needs a Ray cluster": 1,
    "needs a camera": 1,
    "needs a checkpoint": 3,
    "needs a fresh clone": 4,
    "needs an account of the hub": 1,
    "needs another environment": 1,
    "needs docker": 1,
    "needs lmms-eval": 4,
    "needs ms-swift": 3,
    "needs several GPUs": 1,
    "needs the extra quant": 5,
    "needs vLLM": 9,
    "needs your own recipe": 1,
    "serves until it is stopped": 2,
    "takes half an hour": 3,
    "takes hours": 27,
}
"""Number of blocks that do not run here, by reason."""
STANDS_FOR = {
    "Qwen/Qwen2.5-Omni-7B": str(nano_path()),
    "dingyue1011/OmniSIFT-7B": str(nano_path()),
    "--device cuda": "--device cpu",
    'device="cuda"': 'device="cpu"',
}
"""Models and devices that this machine lacks, and their replacements."""
SMALLER = {"--clips (48|80)": "--clips 6", r"omnisift train (\S+)": r"omnisift train \1 --set max_steps=6"}
"""Patterns of numbers that would take too long, and their replacements."""
LONG = {"distill.md", "fine-tuning.md", "profile.md", "run.md", "your-model.md"}
"""Pages whose blocks take longest; `make test-full` runs them."""
BLOCK = re.compile(r"(?:^ *<!-- not run: ([^\n]+?) -->\n+)?^( *)```(\w+)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    reason: str | None
    """The reason why it does not run here, if it does not."""


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            str(page.relative_to(ROOT)),
            text.count("\n", 0, match.start(3)) + 1,
            match[3],
            re.sub(rf"^{match[2]}", "", match[4], flags=re.MULTILINE),
            match[1],
        )
        for match in BLOCK.finditer(text)
        if match[3] in ("python", "bash", "console")
    ]


ALL = {page: blocks(page) for page in PAGES}


def adapted(code: str) -> str:
    """The block with models, devices and large numbers replaced."""
    for name, stand_in in STANDS_FOR.items():
        code = code.replace(name, stand_in)
    for pattern, replacement in SMALLER.items():
        code = re.sub(pattern, replacement, code)
    return code


def run_omnisift(words: list[str], monkeypatch: pytest.MonkeyPatch, where: str) -> str:
    """Run one command in this process and return what it prints; it must succeed."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as stop, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main()
    assert not stop.value.code, f"{where}: {shlex.join(words)}\n{err.getvalue()}"
    return out.getvalue()


def run_console(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the lines of a shell block; commands of omnisift in this process, others by bash."""
    where = f"{block.page}:{block.line}"
    lines = adapted(block.code).replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    for line in lines:
        words = shlex.split(line, comments=True)
        if not words:
            continue
        target = words[words.index(">") + 1] if ">" in words else None
        if words[0] == "omnisift" and not {"|", "&&", ";"} & set(words):
            out = run_omnisift(words[: words.index(">")] if target else words, monkeypatch, where)
            if target:
                Path(target).write_text(out, encoding="utf-8")
        else:
            done = subprocess.run(["bash", "-euc", line], capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{where}: {line}\n{done.stdout}{done.stderr}"


def prepare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that the blocks of a page need."""
    for name, seed in (("clips/a.mp4", "0"), ("clips/b.mp4", "1")):
        (folder / name).parent.mkdir(exist_ok=True)
        run_omnisift(["omnisift", "make-clip", str(folder / name), "--seed", seed], monkeypatch, "preparation")
    shutil.copy(folder / "clips/b.mp4", folder / "talk.mp4")
    with wave.open(str(folder / "meeting.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16_000 * 4))
    for name in ("examples", "recipes"):
        (folder / name).symlink_to(ROOT / name)


def runnable() -> list[object]:
    """Pages with blocks; those that train or read many clips are for the slow suites."""
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(page, id=page.name, marks=marks[page.name in LONG]) for page in PAGES if ALL[page]]


@pytest.mark.parametrize("page", runnable())
@mock.patch.dict(COMPRESSORS)  # methods that a block registers are removed again
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    prepare(tmp_path, monkeypatch)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in ALL[page]:
        if block.reason:
            continue
        if block.language == "python":
            code = compile(adapted(block.code), f"{block.page}:{block.line}", "exec")
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code, namespace)
        else:
            run_console(block, monkeypatch)


def test_blocks_that_do_not_run_are_counted() -> None:
    reasons = [block.reason for page in PAGES for block in ALL[page] if block.reason]
    assert {reason: reasons.count(reason) for reason in set(reasons)} == NOT_RUN
