"""The command line as a user and as a script meet it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pipeline.test_ask import write_audio


def test_ask_prints_the_answer_and_its_cost(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("ask", str(clip), "What colour is the circle?")
    assert code == 0
    for word in ("video", "96", "24", "audio", "150", "39", "25.6 %", "prefill", "peak memory"):
        assert word in out


def test_ask_shows_the_tokens_of_subtitles(omnisift, clip: Path, tmp_path: Path) -> None:
    talk = tmp_path / "talk.mp4"
    shutil.copy(clip, talk)
    (tmp_path / "talk.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\na red circle and a beep\n")
    question, text = "What colour is the circle?", ("--text", "subtitles")
    code, out, _ = omnisift("ask", talk, question, *text, "--retain-text", "0.5")
    assert code == 0
    table = [line.split() for line in out.splitlines()]
    assert ["text", "6", "3", "50.0", "%"] in table
    assert ["video", "+", "audio", "+", "text", "252", "66", "26.2", "%"] in table
    assert "retain 0.25, text 0.5" in out
    _, out, _ = omnisift("ask", talk, question, "Is a beep heard?", *text)
    assert out.count("252 video, audio and text tokens (") == 2
    tokens = json.loads(omnisift("ask", talk, question, *text, "--json")[1])["tokens"]
    assert (tokens["text"], tokens["text_kept"]) == (6, 6)
    _, out, _ = omnisift("ask", talk, question)
    assert "video + audio  " in out
    assert "text" not in out
    code, _, err = omnisift("ask", talk, question, "--retain-text", "0.5")
    assert (code, err.count("\n")) == (2, 1)


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
        (["ask", "{clip}", "What?", "--selector", ""], "UsageError"),
        (["ask", "{clip}", "What?", "--compressor="], "UsageError"),
        (["serve", "nano", "--compress-audio"], "UsageError"),
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


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["ask", "missing.mp4", "What?"], "NotFound"),
        (["ask", ".", "What?"], "NotAFile"),
        (["ask", "{clip}", "What?", "--method", "magic"], "CompressorError"),
        (["ask", "{clip}", "What?", "--selector", "missing"], "UsageError"),
        (["ask", "{clip}", "What?", "--fps", "0"], "UsageError"),
        (["ask", "{clip}", "What?", "--sampling", "magic"], "UsageError"),
        (["ask", "{clip}", "What?", "--device", "cuda:99"], "UsageError"),
        (["ask", "{clip}", "What?", "--attn", "flash"], "UsageError"),
        (["ask", "{clip}", "What?", " "], "UsageError"),
        (["ask", "{clip}", "What\udcff?"], "UsageError"),
        (["ask", "{clip}", "What?", "--retain", "25%"], "UsageError"),
        (["ask", "{clip}", "What?", "--max-pixels", "0"], "UsageError"),
        (["ask", "{clip}", "What?", "--model", "{clip}"], "UsageError"),
        (["ask", "{clip}", "What?", "--method", "random", "--selector", "any"], "UsageError"),
        (["ask", "{clip}", "What?", "--method", "none", "--selector", "any"], "UsageError"),
        (["chat", "missing.mp4"], "NotFound"),
        (["chat", "{clip}", "--method", "magic"], "CompressorError"),
        (["inspect", "missing.mp4", "--json"], "NotFound"),
        (["inspect", "{clip}", "--json", "--compare", "magic"], "CompressorError"),
        (["inspect", "{clip}", "--json", "--selector", "missing"], "UsageError"),
        (["inspect", "{clip}", "--json", "--method", "stvp", "--compare", "evs", "--selector", "any"], "UsageError"),
        (["run", "{clip}", "--task", "caption", "-o", "x.jsonl", "--method", "evs", "--selector", "any"], "UsageError"),
        (["serve", "nano", "--method", "evs", "--selector", "any"], "UsageError"),
        (["profile", "{clip}", "--method", "evs", "--selector", "any"], "UsageError"),
        (["profile", "missing.mp4"], "NotFound"),
        (["profile", "{clip}", "--method", "magic"], "CompressorError"),
        (["profile", "{clip}", "--retain", "25%"], "UsageError"),
        (["demo", "--retain", "25%"], "UsageError"),
    ],
)
def test_mistakes_are_found_before_weights_are_read(
    omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str
) -> None:
    monkeypatch.setattr("omnisift.pipeline.loading._load_thinker", lambda *_: pytest.fail("weights were read"))
    code, out, err = omnisift(*[argument.format(clip=clip) for argument in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error ({kind}): ")


def test_a_percentage_is_answered_with_its_fraction(omnisift, clip: Path) -> None:
    err = omnisift("ask", str(clip), "What?", "--retain", "25%")[2]
    assert err == "error (UsageError): write 25% as the fraction of tokens to keep: 0.25\n"


@pytest.mark.parametrize(
    "arguments", [["make-clip", "{}/a.mp4"], ["inspect", "{clip}", "-o", "{}/a.html"], ["demo", "--out", "{}/a.mp4"]]
)
def test_a_folder_that_cannot_be_written_is_named_before_work_begins(
    omnisift, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    code, _, err = omnisift(*[argument.format(tmp_path, clip=clip) for argument in arguments])
    assert (code, err.count("\n")) == (2, 1)
    assert f"folder {tmp_path} can't be written" in err


def test_a_full_disk_is_one_line(omnisift, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_clip(*_: object) -> None:
        raise OSError(28, "No space left on device", "a.mp4")

    monkeypatch.setattr("omnisift.world.write_clip", write_clip)
    code, _, err = omnisift("make-clip", str(tmp_path / "a.mp4"))
    assert (code, err) == (
        2,
        "error (OSError): a.mp4: No space left on device; free disk space, or choose another disk\n",
    )


def test_the_stages_are_a_column_on_a_narrow_terminal(omnisift, clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    out = omnisift("ask", str(clip), "What?")[1]
    assert re.search(r"\nprefill +\d+\.\d{3}\n", out)


def test_an_error_names_its_class_once_and_reads_as_a_sentence(omnisift) -> None:
    code, _, err = omnisift("ask", ".", "What?")
    assert code == 2
    assert err == "error (NotAFile): . is a folder, not a file; give the path of a media file\n"


def test_a_share_that_can_not_be_reached_is_noted(omnisift, clip: Path) -> None:
    assert "asked to keep 1 %, kept 3.7 %" in omnisift("ask", str(clip), "What?", "--retain", "0.01")[1]
    assert "note:" not in omnisift("ask", str(clip), "What?")[1]


def test_doctor_shows_how_to_install_each_extra(monkeypatch: pytest.MonkeyPatch, capsys, omnisift) -> None:
    from omnisift.cli import tool_commands

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(tool_commands, "version", _nothing_installed)
    code, out, _ = omnisift("doctor")
    assert code == 2
    text = " ".join(out.split())
    for extra in ("train", "ui", "profile"):
        assert f"pip install -e '.[{extra}]' in your OmniSIFT checkout" in text
    assert max(map(len, out.splitlines())) <= 80


def _nothing_installed(name: str) -> str:
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


@pytest.mark.parametrize("setting", ["wide+dark", "silent"])
def test_make_clip_and_make_dataset_of_a_setting(omnisift, tmp_path: Path, setting: str) -> None:
    path, folder = tmp_path / "a.mp4", tmp_path / "world"
    code, out, _ = omnisift("make-clip", str(path), "--setting", setting, "--json")
    assert code == 0
    assert path.is_file()
    assert json.loads(out)["answer"]
    for _ in range(2):  # the second time the clip is there
        assert omnisift("make-dataset", str(folder), "--clips", "1", "--setting", setting)[0] == 0
    assert [p.name for p in folder.glob("*.mp4")] == [f"{setting}-000000.mp4"]
    for command in (["make-clip", str(tmp_path / "b.mp4")], ["make-dataset", str(tmp_path / "b")]):
        code, _, err = omnisift(*command, "--setting", "fog")
        assert code == 2
        assert "unknown setting 'fog'" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", ["x", "x.avi"])
def test_make_clip_writes_mp4_only(omnisift, tmp_path: Path, name: str) -> None:
    code, _, err = omnisift("make-clip", str(tmp_path / name))
    assert code == 2
    assert "must end in .mp4" in err
    assert list(tmp_path.iterdir()) == []


def test_piped_progress_is_one_line_now_and_then(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    from omnisift.cli import screen

    now = [0.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])
    for quiet in (False, True):
        with screen.CountBar(screen.console_for(stderr=True), "clips", 100, quiet=quiet) as step:
            for _ in range(100):
                now[0] += 1
                step()
        lines = capsys.readouterr().err.splitlines()
        assert lines == ([] if quiet else [f"clips: {done} of 100" for done in (0, 30, 60, 90)])


def test_hints_name_a_command_that_can_be_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from omnisift.cli import screen

    monkeypatch.setattr(screen.shutil, "which", lambda _: "/somewhere/omnisift")
    assert screen.command_name() == "omnisift"
    monkeypatch.setattr(screen.shutil, "which", lambda _: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert screen.command_name().endswith("python -m omnisift.cli")
    (tmp_path / ".venv/bin/omnisift").write_text("")
    assert screen.command_name() == ".venv/bin/omnisift"


def test_the_installed_command_starts_without_loading_a_model(tmp_path: Path) -> None:
    script = "import sys; sys.argv = ['omnisift', '--version']\nfrom omnisift.cli import main\ntry:\n    main()\n"
    script += "finally:\n    print(sorted({'torch', 'transformers', 'av'} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[0].startswith("omnisift 0.")
    assert done.stdout.splitlines()[1] == "[]"


def test_a_sound_file_is_compressed_when_asked(omnisift, tmp_path: Path) -> None:
    sound = write_audio(tmp_path / "meeting.wav", 5.0)
    ask = ("ask", sound, "Is a beep heard?", "--compressor", "resift")
    code, out, _ = omnisift(*ask, "--compress-audio", "--tokens", "31", "--json")
    assert code == 0
    assert json.loads(out)["tokens"]["audio_kept"] == 31
    code, out, _ = omnisift(*ask)
    assert code == 0
    assert "kept in full; --compress-audio" in " ".join(out.split())
    code, _, err = omnisift("ask", sound, "Is a beep heard?", "--compress-audio", "--compressor", "omnisift")
    assert code == 2
    assert err.startswith("error (CompressorError): compressor 'omnisift' chooses audio by the video it belongs to")
    code, _, err = omnisift("serve", "nano", "--compress-audio")
    assert code == 2
    assert err.startswith("error (UsageError): compress_audio is not available in serving")


def test_a_number_of_tokens_is_kept(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("ask", clip, "What colour is the circle?", "--json", "--tokens", "64")
    answer = json.loads(out)
    assert code == 0
    assert answer["tokens"]["video_kept"] + answer["tokens"]["audio_kept"] == 64
    assert (answer["token_budget"], answer["retain"], answer["retain_video"]) == (64, None, None)
    code, out, _ = omnisift("ask", clip, "What colour is the circle?", "--tokens", "64")
    assert code == 0
    assert "retain 64 tokens" in out
    assert "note: asked to keep" not in out
    assert json.loads(omnisift("ask", clip, "What?", "--json")[1])["token_budget"] is None


def test_a_sound_too_short_for_a_token_has_no_shortfall(omnisift, tmp_path: Path) -> None:
    code, out, _ = omnisift("ask", write_audio(tmp_path / "tick.wav", 2 / 16_000), "What?", "--compress-audio")
    assert code == 0
    assert "asked to keep" not in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "0"], "a whole number from 1"),
        (["--tokens", "64", "--retain", "0.5"], "tokens was given with retain"),
        (["--tokens", "1.5"], "Invalid value for '--tokens'"),
        (["--tokens", "20", "--compressor", "dycoke"], "dycoke can't keep .* raise tokens"),
    ],
)
def test_a_wrong_number_of_tokens_is_one_line(omnisift, clip: Path, arguments: list[str], message: str) -> None:
    code, out, err = omnisift("ask", clip, "What colour is the circle?", *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err)
