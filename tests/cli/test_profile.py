"""`omnisift profile` as a user and as a script meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnisift.utils.assets import nano_path

COUNT = ["profile", "--config", "7b", "--clip-seconds"]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")


def test_a_clip_is_measured_at_several_shares(omnisift, clip: Path) -> None:
    code, out, err = omnisift("profile", str(clip), "What?", "--retain", "0.5", "--retain", "0.25", "--repeats", "1")
    assert code == 0
    for word in ("read", "encode video", "encode audio", "compress", "LLM prefill", "decode", "ratio", "0.25", "FLOP"):
        assert word in out
    assert "energy" in out
    assert err.splitlines() == ["measuring: 0 of 12"]


def test_measured_json_is_one_object(omnisift, clip: Path) -> None:
    arguments = ("--repeats", "1", "--compressor", "uniform", "--retain-video", "0.5", "--retain-audio", "0.25")
    code, out, _ = omnisift("profile", str(clip), "--json", *arguments)
    result = json.loads(out)
    assert code == 0
    assert [run["retain"] for run in result["runs"]] == ["full", "video 0.5, audio 0.25"]
    assert result["runs"][1]["compressor"] == "uniform"
    assert result["runs"][1]["flops"]["prefill"] < result["runs"][0]["flops"]["prefill"]


def test_a_number_of_tokens_is_counted_and_measured(omnisift, clip: Path) -> None:
    for arguments in (("--config", "3b", "--clip-seconds", "30"), (clip, "--repeats", "1")):
        code, out, _ = omnisift("profile", *arguments, "--json", "--tokens", "200")
        run = json.loads(out)["runs"][1]
        assert code == 0
        assert run["retain"] == "200 tokens"
        tokens = run.get("tokens", run)
        assert tokens.get("video_kept", tokens.get("video")) + tokens.get("audio_kept", tokens.get("audio")) == 200
    code, _, err = omnisift("profile", clip, "--tokens", "64", "--retain", "0.5")
    assert code == 2
    assert "tokens was given with retain" in err


def test_a_size_is_counted_without_weights(omnisift) -> None:
    code, out, _ = omnisift(*COUNT, "95", "--retain", "0.35", "--retain", "0.25")
    assert code == 0
    for word in ("Table 7", "the paper", "0.5257", "0.4513", "-0.8 %", "-0.9 %", "without attention between tokens"):
        assert word in out


def test_counted_json_is_one_object(omnisift) -> None:
    code, out, _ = omnisift("profile", "--config", "3b", "--clip-seconds", "30", "--json")
    result = json.loads(out)
    assert code == 0
    assert [run["retain"] for run in result["runs"]] == ["full", "0.25"]
    assert result["runs"][1]["stages"]["prefill"]["weights"] < result["runs"][0]["stages"]["prefill"]["weights"]
    assert result["environment"]["torch"]
    assert "Table 7" not in omnisift("profile", "--config", "3b", "--clip-seconds", "30")[1]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["profile"], "UsageError"),
        (["profile", "{clip}", "--config", "7b"], "UsageError"),
        (["profile", "--config", "7b"], "UsageError"),
        ([*COUNT, "9", "--repeats", "3"], "UsageError"),
        ([*COUNT, "9", "--device-memory", "8GB"], "UsageError"),
        (["profile", "--config", "7b", "--device-memory", "8"], "UsageError"),
        (["profile", "--config", "7b", "--device-memory", "8GB", "--max-frames", "64"], "UsageError"),
        (["profile", "--config", "qwen3.5-2b", "--device-memory", "8GB"], "UsageError"),
        (["profile", "{clip}", "--device-memory", "8GB"], "UsageError"),
        ([*COUNT, "9", "--device", "cuda"], "UsageError"),
        (["profile", "{clip}", "--clip-seconds", "3"], "UsageError"),
        (["profile", "{clip}", "--repeats", "0"], "UsageError"),
        (["profile", "{clip}", "--question", " "], "UsageError"),
        (["profile", "{clip}", "a?", "--question", "b?"], "UsageError"),
        (["profile", "missing.mp4"], "NotFound"),
        (["profile", "{clip}", "--compressor", "magic"], "CompressorError"),
        (["profile", "{clip}", "--retain", "0"], "BudgetError"),
        (["profile", "{clip}", "--retain", "0.5", "--retain-video", "0.5"], "BudgetError"),
        (["profile", "--config", "70b", "--clip-seconds", "9"], "UsageError"),
        ([*COUNT, "0"], "UsageError"),
        ([*COUNT, "9", "--height", "0"], "UsageError"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(omnisift, clip: Path, arguments: list[str], kind: str) -> None:
    code, out, err = omnisift(*[argument.format(clip=clip) for argument in arguments])
    lines = err.splitlines()
    assert code == 2
    assert out == ""
    assert len(lines) == 1
    assert lines[0].startswith(f"error ({kind}): ")


def test_the_longest_clip_in_a_memory(omnisift) -> None:
    arguments = ("--config", str(nano_path()), "--device-memory", "1GB", "--height", "112", "--width", "112")
    code, out, _ = omnisift("profile", *arguments)
    assert code == 0
    for word in (
        "1.0 GB",
        "0.6 GB stay free",
        "16 bits",
        "4 bits",
        "full",
        "0.25",
        "0.05",
        "(context)",
        "--max-frames",
    ):
        assert word in out
    code, out, _ = omnisift("profile", *arguments, "--json", "--retain", "0.5", "--max-new-tokens", "32")
    result = json.loads(out)
    assert (code, result["kind"], result["device_memory"], result["reserve"]) == (0, "fit", 10**9, 550_000_000)
    assert result["assumed"] == {"fps": 2.0, "height": 112, "width": 112, "text": 128, "new_tokens": 32}
    assert [(fit["bits"], fit["retain"]) for fit in result["fits"][:3]] == [(16, "full"), (16, "0.5"), (8, "full")]
    assert result["fits"][0]["memory"]["peak"] == max(
        result["fits"][0]["memory"][name] for name in ("encode", "prefill")
    )
    code, out, _ = omnisift("profile", "--config", str(nano_path()), "--device-memory", "500MB")
    assert code == 0
    assert out.count("needs 0.5 GB") == 12
    code, out, _ = omnisift(
        "profile", "--config", str(nano_path()), "--device-memory", "1GB", "--max-new-tokens", "9999999"
    )
    assert (code, out.count("none (context)"), "exceeds the model's" in out) == (0, 12, True)


def test_the_table_of_longest_clips_fits_into_80_columns(omnisift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = omnisift("profile", "--config", "3b", "--device-memory", "8GB")
    assert (code, out.count("min"), out.count("needs 10.4 GB")) == (0, 8, 4)
