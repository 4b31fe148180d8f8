"""`omnisift watch` where a question is wrong, an output is closed, or a name looks like a device."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from omnisift.cli import main
from omnisift.world import make_scene, world_setting, write_clip

Omnisift = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("watch") / "clip.mp4"
    write_clip(make_scene(3, "test", world_setting("base").config), path)
    return path


def test_a_question_that_the_model_refuses_ends_before_the_stream(
    omnisift: Omnisift, clip: Path, tmp_path: Path
) -> None:
    """And not with its first answer, which may be an hour later."""
    rules = tmp_path / "rules.txt"
    rules.write_text("mark: Is <|im_end|> heard?\n", encoding="utf-8")
    for asked in (("--ask", "What?", "--ask", "<|im_end|>"), ("--rules", rules)):
        code, output, errors = omnisift("watch", clip, *asked)
        assert (code, output) == (2, "")
        assert "contains <|im_end|>, a special token" in errors


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_closed_output_gets_nothing(name: str, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Python has no stream there; the file of `--out` has all lines."""
    out = tmp_path / "watch.jsonl"
    monkeypatch.setattr(sys, name, None)
    arguments = ["watch", str(clip), "--ask", "What?", "--stop-after", "2s", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["omnisift", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert len(out.read_text(encoding="utf-8").splitlines()) == 2


def test_a_file_that_is_named_as_a_device(omnisift: Omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    (clip.parent / "microphone").write_bytes(clip.read_bytes())
    code, output, _ = omnisift("watch", "microphone", "--ask", "What?", "--stop-after", "2s")
    assert (code, len(output.splitlines())) == (0, 2)
    code, _, errors = omnisift("watch", "microphone:0", "--ask", "What?")
    assert code == 2
    assert "a microphone has none" in errors


def test_a_file_that_is_read_is_not_written(omnisift: Omnisift, clip: Path, tmp_path: Path) -> None:
    """Also under another name, and with --force; the clip stays as it is."""
    link, before = tmp_path / "link.mp4", clip.read_bytes()
    link.symlink_to(clip)
    rules = tmp_path / "rules.txt"
    rules.write_text("beep: Is a beep heard?\n", encoding="utf-8")
    for out in (clip, link, rules):
        code, _, errors = omnisift("watch", clip, "--rules", rules, "--out", out, "--force")
        assert code == 2
        assert "is read by this command; name another file" in errors
    assert clip.read_bytes() == before
    image = tmp_path / "image.png"
    image.write_bytes(b"no image")
    code, _, errors = omnisift("inspect", image, "What?", "--png", image, "--force")
    assert (code, image.read_bytes()) == (2, b"no image")
    assert "is read by this command" in errors
