"""`omnisift advise`: options that other commands take, and what they rest on."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest


def test_the_options_work_with_ask(omnisift, clip: Path) -> None:
    code, out, err = omnisift("advise", clip, "--tokens", "64", "--json")
    assert (code, err) == (0, "")
    advice = json.loads(out)
    assert advice["video_kept"] + advice["audio_kept"] == 64
    code, out, _ = omnisift("ask", clip, "What colour is the circle?", "--json", *shlex.split(advice["options"]))
    tokens = json.loads(out)["tokens"]
    assert code == 0
    assert (tokens["video_kept"], tokens["audio_kept"]) == (advice["video_kept"], advice["audio_kept"])


def test_the_text_says_what_it_rests_on(omnisift, clip: Path) -> None:
    code, out, _ = omnisift("advise", clip, "--tokens", "64", "--model", "7b")
    text = " ".join(out.split())
    assert code == 0
    for part in ("--tokens 64", "generated clips", "no full-size model was measured", "minus the best", "extrapolated"):
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["{clip}"], "UsageError"),
        (["{clip}", "--tokens", "0"], "BudgetError"),
        (["{clip}", "--tokens", "many"], "UsageError"),
        (["missing.mp4", "--tokens", "64"], "NotFound"),
        (["{clip}", "--tokens", "64", "--model", "9b"], "CheckpointError"),
    ],
)
def test_errors_are_one_line(omnisift, clip: Path, arguments: list[str], kind: str) -> None:
    code, out, err = omnisift("advise", *[argument.format(clip=clip) for argument in arguments])
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error ({kind}): ")
