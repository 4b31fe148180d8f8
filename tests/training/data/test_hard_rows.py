"""Unusual rows, files and batches: line ends, encodings, a full disk, audio alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from omnisift.errors import UsageError
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.data import ClipCache, Collator, Sample, Turn, load_samples, save_samples
from omnisift.training.data.rows import FORMS
from omnisift.utils.assets import nano_path

TALK = (Turn("user", "What colour is the circle?"), Turn("assistant", "blue"))
TEXTS = st.text(st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), min_size=1).map(str.strip)


@given(form=st.sampled_from(FORMS), asked=TEXTS, answered=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
def test_a_file_of_any_text_round_trips(form: str, asked: str, answered: str, tmp_path: Path) -> None:
    """U+2028, form feeds and other line ends inside a text are text."""
    samples = [Sample(str(n), tmp_path / "a.mp4", (Turn("user", asked), Turn("assistant", answered))) for n in (1, 2)]
    save_samples(samples, tmp_path / "data.jsonl", form)
    assert load_samples(tmp_path / "data.jsonl") == samples


def test_words_around_a_tag_stay_apart(tmp_path: Path) -> None:
    asked = {
        "Look at <video> and say.": "Look at and say.",
        "See\n<video><audio>\nSay.": "See\nSay.",
        "Say.\n<video>": "Say.",
    }
    answer = {"role": "assistant", "content": "b"}
    rows = [{"messages": [{"role": "user", "content": a}, answer], "videos": ["a.mp4"]} for a in asked]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert [sample.turns[0].text for sample in load_samples(tmp_path / "data.jsonl")] == list(asked.values())


def test_a_file_with_a_byte_order_mark_and_one_of_other_bytes(tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (tmp_path / "mark.jsonl").write_text(row + "\r\n" + row, encoding="utf-8-sig", newline="")
    assert len(load_samples(tmp_path / "mark.jsonl")) == 2
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(UsageError, match=r"bytes.jsonl: not UTF-8 text \(byte 0\)"):
        load_samples(tmp_path / "bytes.jsonl")


def test_a_lone_surrogate_is_named_before_training(tmp_path: Path) -> None:
    row = json.dumps({"messages": [{"role": "user", "content": "\ud83d"}, {"role": "assistant", "content": "b"}]})
    (tmp_path / "half.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(UsageError, match=r"half\.jsonl:1: a text contains a lone surrogate"):
        load_samples(tmp_path / "half.jsonl")


def test_a_full_disk_disables_the_cache_and_not_the_run(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("omnisift.training.data.cache.save_file", full)
    processor = AutoProcessor.from_pretrained(nano_path())
    assert Collator(processor, cache=ClipCache(tmp_path))([Sample("a", clip, TALK)])["labels"].max() > 0
    assert "No space left" in caplog.text
    assert not list(tmp_path.iterdir())


def test_audio_alone_shares_a_batch_with_video(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = AutoProcessor.from_pretrained(nano_path())
    thinker = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(nano_path()).eval()
    collator = Collator(processor)
    video = collator.read(clip)
    audio = replace(video, images=None, times=None, indices=None, video_seconds=0.0)
    monkeypatch.setattr(collator, "read", lambda path: audio if path.name == "sound.wav" else video)
    for order in ((Path("sound.wav"), clip), (clip, Path("sound.wav"))):
        samples = [Sample(path.name, path, TALK) for path in order]
        with torch.no_grad():
            each = [float(thinker(**collator([sample])).loss) for sample in samples]
            batch = collator(samples)
            together = float(thinker(**batch).loss)
        assert int((batch["labels"] != IGNORE_INDEX).sum()) > 0
        assert together == pytest.approx(sum(each) / 2, abs=1e-4)
