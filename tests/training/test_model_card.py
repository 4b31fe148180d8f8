"""The model card that `omnisift export` writes runs as it stands, against the exported folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import omnisift
from omnisift.training.export import export_selector


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(exported folder, its card with the folder's and nano's names filled in)."""
    folder = tmp_path_factory.mktemp("export") / "selector"
    export_selector(omnisift.VGAS.from_pretrained(omnisift.nano_path() / "selector"), folder)
    text = (folder / "README.md").read_text(encoding="utf-8")
    return folder, text.replace("SELECTOR", str(folder))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_python_blocks_run(
    card: tuple[Path, str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    _, text = card
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    answers = []
    for block in blocks(text.replace("MODEL", str(omnisift.nano_path())), "python"):
        exec(compile(block, "card", "exec"), {})
        answers.append(capsys.readouterr().out.strip())
    answer, ratio = answers
    assert answer
    assert float(ratio) == pytest.approx(63 / 246)


def test_the_command_runs(card: tuple[Path, str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shlex

    from omnisift.cli.app import app

    _, text = card
    shutil.copy(clip, tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    (command,) = blocks(text.replace("MODEL", "nano"), "bash")
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output
