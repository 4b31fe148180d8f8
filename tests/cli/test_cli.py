"""The command line as a user and as a script meet it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from omnisift.cli import main


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command in this process: exit code, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["omnisift", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    out = capsys.readouterr()
    return int(stop.value.code or 0), out.out, out.err


@pytest.fixture
def omnisift(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


def test_ask_prints_the_answer_and_its_cost(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("ask", str(clip), "What colour is the circle?")
    assert code == 0
    for word in ("video", "96", "24", "audio", "150", "39", "25.6 %", "prefill", "peak memory"):
        assert word in out


def test_ask_json_is_one_object(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("ask", str(clip), "What colour is the circle?", "--json", "--retain", "0.5")
    answer = json.loads(out)
    assert code == 0
    assert isinstance(answer["answer"], str)
    assert 0.5 <= answer["retained_ratio"] < 0.53


def test_make_clip_is_deterministic_and_never_overwrites(omnisift, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    code, out, _ = omnisift("make-clip", str(path), "--seed", "3", "--json")
    made = json.loads(out)
    assert code == 0
    assert made["question"].endswith("?")
    assert path.stat().st_size > 1_000
    before = path.read_bytes()
    code, _, err = omnisift("make-clip", str(path), "--seed", "4")
    assert (code, path.read_bytes()) == (2, before)
    assert "--force" in err
    assert omnisift("make-clip", str(path), "--seed", "3", "--force")[0] == 0


def test_demo_shows_truth_full_and_quarter(omnisift) -> None:
    code, out, _ = omnisift("demo", "--json")
    demo = json.loads(out)
    assert code == 0
    assert len(demo["rows"]) == 3
    for row in demo["rows"]:
        assert row["full"]["retained_ratio"] == 1.0
        assert row["cut"]["retained_ratio"] == pytest.approx(63 / 246, abs=1e-6)
    assert "truth" in omnisift("demo")[1]


def test_doctor_finds_this_environment_healthy(omnisift) -> None:
    code, out, _ = omnisift("doctor", "--json")
    checks = {check["what"]: check for check in json.loads(out)}
    assert code == 0
    assert {"torch", "av", "decoder", "video processor", "nano"} <= checks.keys()
    assert all(check["ok"] for check in checks.values() if check["needed"])


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["ask", "missing.mp4", "What?"], "NotFound"),
        (["ask", "{clip}", "What?", "--retain", "0"], "BudgetError"),
        (["ask", "{clip}", "What?", "--retain", "0.2", "--retain-video", "0.2"], "BudgetError"),
        (["ask", "{clip}", "What?", "--compressor", "magic"], "CompressorError"),
        (["ask", "{clip}", "What?", "--model", "no/such-model"], "CheckpointError"),
        (["ask", "{clip}", "What?", "--device", "toaster"], "UsageError"),
        (["ask", "{clip}", "What?", "--dtype", "float7"], "UsageError"),
        (["ask", "{clip}", " "], "UsageError"),
        (["ask", "{clip}"], "UsageError"),
        (["ask", "{clip}", "What?", "--retain", "much"], "UsageError"),
        (["ask", "{clip}", "What?", "--colour"], "UsageError"),
        (["ask", "{clip}", "What?", "--sampling", "magic"], "UsageError"),
        (["sift"], "UsageError"),
        (["ask", "http://127.0.0.1/a.mp4", "What?"], "Blocked"),
        (["make-clip", "no/such/folder/a.mp4"], "UsageError"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(omnisift, clip: Path, arguments: list[str], kind: str) -> None:
    code, out, err = omnisift(*[argument.format(clip=clip) for argument in arguments])
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error ({kind}): ")


def test_the_installed_command_starts_without_loading_a_model(tmp_path: Path) -> None:
    script = "import sys; sys.argv = ['omnisift', '--version']\nfrom omnisift.cli import main\ntry:\n    main()\n"
    script += "finally:\n    print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[0].startswith("omnisift 0.")
    assert done.stdout.splitlines()[1] == "[]"
