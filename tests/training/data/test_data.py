"""Rows of all forms, labels on the assistant's turns only, bad clips, and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

from omnisift.errors import UsageError
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.data import ClipCache, Collator, Reading, Sample, Turn, encode_sample, load_samples, save_samples
from omnisift.training.data.rows import FORMS, row_of, sample_of
from omnisift.utils.assets import nano_path

TALK = (Turn("user", "What colour is the circle?"), Turn("assistant", "blue"))


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(nano_path())


@pytest.fixture(scope="module")
def thinker() -> Any:
    return Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(nano_path()).eval()


texts = st.text(st.characters(blacklist_characters="<>\r", blacklist_categories=("Cs", "Cc")), min_size=1).map(
    str.strip
)


@given(form=st.sampled_from(FORMS), said=st.lists(st.tuples(texts, texts), min_size=1, max_size=3), clip=st.booleans())
def test_every_form_round_trips(form: str, said: list[tuple[str, str]], clip: bool) -> None:
    turns = tuple(turn for asked, answered in said for turn in (Turn("user", asked), Turn("assistant", answered)))
    sample = Sample("7", Path("clips/a b.mp4") if clip else None, (Turn("system", "Be brief."), *turns))
    row = json.loads(json.dumps(row_of(sample, form, Path())))
    assert sample_of(row, "here", Path()) == sample


WRONG = {
    "[1]": "must be a JSON object, got int",
    '[{"a": 1}]': "no 'messages' or 'conversations'; the row has the keys ['a']",
    '[{"messages": [{"role": "user", "content": "hi"}]}]': "no assistant turn",
    '[{"messages": [{"role": "robot", "content": "hi"}]}]': "a turn needs a role (system, user, assistant)",
    '[{"videos": ["a", "b"], "messages": [{"role": "assistant", "content": "x"}]}]': "2 clips; a row may have one",
    '[{"image": "a.png", "messages": [{"role": "assistant", "content": "x"}]}]': "an image",
    "[": "not JSON",
    '{"messages": 3': "not JSON",
    "\n": "has no rows",
    '{"file_name": "a.mp4"}': "no 'caption', 'question' or 'qa' for a.mp4",
    '{"file_name": "a.mp4", "qa": [{"question": "x"}]}': "a question needs 'question' and 'answer'",
}


@pytest.mark.parametrize("text", WRONG)
def test_errors_name_file_and_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_samples(path)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "data.jsonl" in str(caught.value)


def test_rows_of_other_tools_are_read(tmp_path: Path) -> None:
    swift = {"messages": [{"role": "user", "content": "<video>Describe."}, {"role": "assistant", "content": "A cat."}],
             "videos": ["a.mp4"]}  # fmt: skip
    talk = [{"from": "human", "value": "<video><audio>Describe."}, {"from": "gpt", "value": "A cat."}]
    factory = {"conversations": talk,
               "videos": ["a.mp4"], "audios": ["a.wav"]}  # fmt: skip
    llava = {"id": 3, "video": "a.mp4", "conversations": [{"from": "human", "value": "<image>\nDescribe."},
                                                            {"from": "gpt", "value": "A cat."}]}  # fmt: skip
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (swift, factory, llava)), encoding="utf-8")
    result = load_samples(path)
    assert {sample.turns for sample in result} == {(Turn("user", "Describe."), Turn("assistant", "A cat."))}
    assert {sample.media for sample in result} == {tmp_path / "a.mp4"}
    assert [sample.id for sample in result] == ["mixed.jsonl:1", "mixed.jsonl:2", "3"]
    (tmp_path / "list.json").write_text(json.dumps([swift, llava]), encoding="utf-8")
    assert len(load_samples(tmp_path / "list.json")) == 2


def test_a_folder_of_clips_has_captions_and_questions(tmp_path: Path) -> None:
    rows = [{"file_name": "a.mp4", "caption": "A circle."},
            {"file_name": "b.mp4", "qa": [{"question": "What?", "answer": "that"},
                                          {"question": "Who?", "answer": "me"}]}]  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = load_samples(tmp_path)
    assert [sample.turns[-1].text for sample in result] == ["A circle.", "that", "me"]
    save_samples(result, tmp_path / "out.jsonl", "sharegpt")
    again = load_samples(tmp_path / "out.jsonl")
    assert again == result
    assert not list(tmp_path.glob("*.part"))


def test_only_assistant_turns_have_labels(processor: Any, clip: Path) -> None:
    collator = Collator(processor)
    turns = (*TALK, Turn("user", "Which sound goes with the square?"), Turn("assistant", "beep"))
    row = encode_sample(processor, Sample("x", clip, turns), collator.read(clip))
    learned = row["labels"][0] != IGNORE_INDEX
    assert torch.equal(row["labels"][0][learned], row["input_ids"][0][learned])
    words = processor.tokenizer.convert_ids_to_tokens(row["input_ids"][0][learned].tolist())
    assert words == ["blue", "<|im_end|>", "beep", "<|im_end|>"]


def test_text_after_the_end_of_a_turn_has_no_labels(processor: Any) -> None:
    """Qwen's template writes a line break after each turn."""

    class Lines:
        tokenizer = processor.tokenizer

        def apply_chat_template(self, conversation: Any, tokenize: bool, add_generation_prompt: bool) -> str:
            text = "".join(
                f"<|im_start|>{t['role']} {t['content'][-1]['text']}<|im_end|> please " for t in conversation
            )
            return text + ("<|im_start|>assistant" if add_generation_prompt else "")

        def __call__(self, text: list[str], return_tensors: str) -> Any:
            return processor.tokenizer(text, return_tensors=return_tensors)

    row = encode_sample(Lines(), Sample("x", None, TALK), None)
    learned = row["input_ids"][0][row["labels"][0] != IGNORE_INDEX]
    assert processor.tokenizer.decode(learned).replace(" ", "") == "blue<|im_end|>"


def test_the_loss_of_a_batch_is_the_mean_of_its_rows(processor: Any, thinker: Any, clip: Path) -> None:
    collator = Collator(processor)
    samples = [Sample("a", clip, TALK), Sample("b", clip, (Turn("user", "What colour is the square please?"), TALK[1]))]
    samples.append(Sample("c", None, TALK))
    with torch.no_grad():
        each = [thinker(**collator([sample])) for sample in samples]
        batch = collator(samples)
        together = thinker(**batch)
    counts = [int((collator([sample])["labels"] != IGNORE_INDEX).sum()) for sample in samples]
    mean = sum(float(out.loss) * count for out, count in zip(each, counts, strict=True)) / sum(counts)
    assert float(together.loss) == pytest.approx(mean, abs=1e-4)


def test_bad_clips_are_skipped_counted_and_named(
    processor: Any, thinker: Any, clip: Path, tmp_path: Path, caplog: Any
) -> None:
    (tmp_path / "torn.mp4").write_bytes(b"not a video")
    collator = Collator(processor, max_tokens=400)
    bad = [Sample("torn", tmp_path / "torn.mp4", TALK), Sample("gone", tmp_path / "gone.mp4", TALK)]
    bad.append(Sample("sly", clip, (Turn("user", "<|VIDEO|>"), Turn("assistant", "x"))))
    bad.append(Sample("mute", clip, (Turn("user", "say"), Turn("assistant", "  "))))
    assert collator([*bad, Sample("good", clip, TALK)])["input_ids"].shape[0] == 1
    assert set(collator.skipped) == {"torn", "gone", "sly", "mute"}
    assert "torn" in caplog.text
    empty = collator(bad)
    assert (empty["labels"] == IGNORE_INDEX).all()
    assert thinker(**{k: v for k, v in empty.items() if k != "labels"}).logits.isfinite().all()
    assert Collator(processor, Reading(max_seconds=3))([Sample("long", clip, TALK)])["labels"].max() == IGNORE_INDEX
    short = Collator(processor, max_tokens=100)
    short([Sample("many", clip, TALK)])
    assert "more than 100" in short.skipped["many"]


def test_silent_videos_share_a_batch_with_videos_with_audio(
    processor: Any, thinker: Any, clip: Path, tmp_path: Path
) -> None:
    from omnisift.world import make_scene, world_setting, write_clip

    silent = tmp_path / "silent.mp4"
    write_clip(make_scene(3, "test", world_setting("silent").config), silent)
    collator = Collator(processor)
    batch = collator([Sample("a", clip, TALK), Sample("b", silent, TALK)])
    assert collator.silenced == 1
    assert thinker(**batch).loss.isfinite()
    alone = collator([Sample("b", silent, TALK)])
    assert "input_features" not in alone
    assert alone["use_audio_in_video"] is False


def test_the_cache_returns_what_was_decoded(processor: Any, clip: Path, tmp_path: Path) -> None:
    cache = ClipCache(tmp_path / "cache")
    cold, warm = (Collator(processor, cache=cache).read(clip) for _ in range(2))
    (file,) = (tmp_path / "cache").iterdir()
    for name in ("images", "waveform", "times", "indices"):
        assert np.array_equal(getattr(cold, name), getattr(warm, name))
    assert (cold.fps, cold.seconds, cold.warnings, cold.tags) == (warm.fps, warm.seconds, warm.warnings, warm.tags)
    file.write_bytes(file.read_bytes()[:1000])
    assert np.array_equal(Collator(processor, cache=cache).read(clip).images, cold.images)
    assert cache.get(clip, "another way") is None
    assert file.stat().st_size > 1000


def test_the_cache_stays_within_its_limit(processor: Any, clip: Path, tmp_path: Path) -> None:
    media = Collator(processor).read(clip)
    size = media.images.nbytes + media.waveform.nbytes
    cache = ClipCache(tmp_path, max_bytes=5 * size)
    for number in range(9):
        cache.put(media, clip, f"way {number}")
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 5 * size
    assert cache.get(clip, "way 8") is not None
    assert cache.get(clip, "way 0") is None
    ClipCache(tmp_path / "small", max_bytes=size).put(media, clip, "x")
    assert not (tmp_path / "small").exists()
