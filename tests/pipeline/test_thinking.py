"""Models that think before they answer: the template is told not to, and thoughts are no part of an answer."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.helpers.family_folders import save_family
from transformers import AutoProcessor, AutoTokenizer

import omnisift
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.generation import Thoughts, _text_streamer
from omnisift.world import make_scene, write_clip

ANSWER = "circle is blue red sound"
CASES = [
    (None, ANSWER, "", ANSWER),
    (False, ANSWER, "", ANSWER),
    (False, "", "", ""),
    (False, f"<think> red sound </think> {ANSWER}", "red sound", ANSWER),
    (True, f"red sound </think> {ANSWER}", "red sound", ANSWER),
    (True, f"<think> red sound </think> {ANSWER}", "red sound", ANSWER),
    (True, f"</think> {ANSWER}", "", ANSWER),
    (True, "red sound", "red sound", ""),
    (False, "<think> red", "red", ""),
]


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(("is_open", "text", "thinking", "answer"), CASES)
def test_thoughts_are_divided_from_the_answer_also_in_a_stream(
    is_open: bool | None, text: str, thinking: str, answer: str, special: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(omnisift.nano_path())
    if is_open is not None:
        tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    prompt = "circle <think> red </think> circle" + (" <think>" if is_open else "")
    thoughts = Thoughts.of(tokenizer, torch.tensor(tokenizer(prompt).input_ids))
    assert (thoughts is None) == (is_open is None)
    ids = tokenizer(text).input_ids
    if thoughts is not None:
        assert [tokenizer.decode(part).strip() for part in thoughts.split(ids)] == [thinking, answer]
    pieces: list[str] = []
    streamer = _text_streamer(tokenizer, pieces.append, thoughts)
    streamer.put(torch.tensor([[1, 2]]))  # the prompt
    for token in ids:
        streamer.put(torch.tensor([token]))
    streamer.end()
    assert "".join(pieces).strip() == answer


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("opened", [True, False])
def test_a_model_that_thinks(tmp_path, opened: bool, special: bool) -> None:
    folder = save_family("qwen3_5", tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens(["<think>", "</think>"], special_tokens=special)
    ending = "assistant{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}<think>"
    template = processor.chat_template.replace("assistant{% endif %}", f"{ending}{{% endif %}}{{% endif %}}")
    if opened:  # a model that always thinks
        template = processor.chat_template.replace("assistant{% endif %}", "assistant<think>{% endif %}")
    processor.chat_template = template
    processor.save_pretrained(folder)
    write_clip(make_scene(3, split="test"), tmp_path / "clip.mp4")
    conversation = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
    text = render_chat(processor, conversation, add_generation_prompt=True)
    assert text.endswith("<think>" if opened else "<think></think>")
    model = transformers.Qwen3_5ForConditionalGeneration.from_pretrained(folder)
    model.resize_token_embeddings(len(processor.tokenizer))
    # It never ends a thought.
    model.generation_config.suppress_tokens += processor.tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    model.save_pretrained(folder)
    pipe = omnisift.load(folder, compressor=None)
    pieces: list[str] = []
    answer = pipe.ask(tmp_path / "clip.mp4", "What?", max_pixels=32 * 32 * 8, max_new_tokens=4, on_text=pieces.append)
    if opened:
        assert (answer.text, "".join(pieces)) == ("", "")
        assert answer.thinking
        assert any("still thinking after 4 tokens" in notice for notice in answer.report.notices)
    else:
        assert answer.text == "".join(pieces).strip()
        assert not answer.thinking
