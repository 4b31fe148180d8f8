"""No code from a checkpoint runs: every call that reads one says so, and a typed "y" at a terminal changes nothing."""

from __future__ import annotations

import ast
import json
import os
import pty
import select
import sys
import time
from pathlib import Path

import pytest
from tests.helpers.broken_folders import copy_nano

SOURCE = Path(__file__).parents[1] / "src" / "omnisift"
ASKING = {"from_pretrained", "get_config_dict"}
"""Methods of Transformers that ask at a terminal whether to run code from a checkpoint."""
OWN = {"VGAS"}
"""Classes of ours, whose `from_pretrained` passes the argument itself."""


def asking_calls(text: str) -> list[tuple[int, ast.Call]]:
    """Line and node of every call that may run code from a checkpoint."""
    calls = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        receiver = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        asks = node.func.attr in ASKING or (node.func.attr == "from_config" and receiver.startswith("Auto"))
        if asks and receiver not in OWN:
            calls.append((node.lineno, node))
    return calls


def refuses_code(call: ast.Call) -> bool:
    values = [keyword.value for keyword in call.keywords if keyword.arg == "trust_remote_code"]
    return len(values) == 1 and isinstance(values[0], ast.Constant) and values[0].value is False


def test_every_call_refuses_code() -> None:
    calls = [
        (f"{path.relative_to(SOURCE)}:{line}", call)
        for path in SOURCE.rglob("*.py")
        for line, call in asking_calls(path.read_text(encoding="utf-8"))
    ]
    assert len(calls) >= 10
    assert [where for where, call in calls if not refuses_code(call)] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("AutoProcessor.from_pretrained(folder)", True),
        ("transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)", True),
        ("type(model).from_pretrained(folder, trust_remote_code=flag)", True),
        ("AutoModel.from_config(config)", True),
        ("Settings.from_config(config)", False),
        ("VGAS.from_pretrained(folder)", False),
        ("AutoProcessor.from_pretrained(folder, trust_remote_code=False)", False),
    ],
)
def test_the_search_finds_calls(text: str, found: bool) -> None:
    assert [not refuses_code(call) for _, call in asking_calls(text)].count(True) == found


EVIL = """from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import ProcessorMixin
class Evil(ProcessorMixin):
    pass
"""


def add_code(folder: Path, mark: Path, kind: str) -> None:
    """Make a copy of nano name code of its own, in one of the places where Transformers looks for it."""
    (folder / "evil.py").write_text(EVIL.format(mark=str(mark)), encoding="utf-8")
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(EVIL.format(mark=str(mark)), encoding="utf-8")
    file, change = {
        "processor": ("processor_config.json", {"processor_class": "Evil", "auto_map": {"AutoProcessor": "evil.Evil"}}),
        "config": ("config.json", {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}),
        "tokenizer": (
            "tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
        ),
        "selector": ("selector/config.json", {"auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}),
    }[kind]  # fmt: skip
    data = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(data | change), encoding="utf-8")
    (folder / "selector" / "evil.py").write_text(EVIL.format(mark=str(mark)), encoding="utf-8")


def at_terminal(command: list[str], typed: bytes, seconds: float = 120.0) -> tuple[int, str]:
    """Exit code and output of a command at a pseudo-terminal at which ``typed`` was typed ahead."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    os.write(terminal, typed)
    output, end = b"", time.monotonic() + seconds
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1.0)[0]:
            try:
                block = os.read(terminal, 1 << 16)
            except OSError:  # the other side is closed
                break
            output += block
            if not block:
                break
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.decode(errors="replace")


@pytest.mark.parametrize("kind", ["processor", "config", "tokenizer", "selector"])
def test_code_does_not_run_at_a_terminal(kind: str, clip: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = copy_nano(tmp_path / "model")
    add_code(folder, mark, kind)
    command = [sys.executable, "-m", "omnisift.cli", "ask", str(clip), "What colour is the circle?", "--model"]
    begin = time.monotonic()
    code, output = at_terminal([*command, str(folder)], b"y\ny\ny\ny\n")
    assert not mark.exists()
    assert "Traceback" not in output
    assert "Do you wish to run" not in output
    assert time.monotonic() - begin < 100
    lines = [line for line in output.splitlines() if "error (" in line]
    if kind in ("processor", "tokenizer"):
        # Transformers' own classes are used in place of the foreign ones for a config and a selector.
        assert code == 2
        assert len(lines) == 1
        assert "error (CheckpointError)" in lines[0]
        assert "needs code of its own" in " ".join(output.split())
    else:
        assert (code, lines) == (0, [])
