"""Models that think before they answer: the template is told not to, and thoughts are no part of an answer."""

from __future__ import annotations

import pytest
import transformers
from tests.helpers.family_folders import save_family
from transformers import AutoProcessor, AutoTokenizer

import omnisift
from omnisift.pipeline.chat_template import render_chat
from omnisift.pipeline.generation import _text_streamer, split_thinking
from omnisift.world import make_scene, write_clip

ANSWER = "It is blue. Then it is red.\nThe end: 3, 4"
CASES = [
    (None, ANSWER, "", ANSWER),
    (None, f"<think>why</think>{ANSWER}", "", f"<think>why</think>{ANSWER}"),
    (False, ANSWER, "", ANSWER),
    (False, "<thin", "", "<thin"),
    (False, "no", "", "no"),
    (False, f"<think>\nwhy so\n</think>\n\n{ANSWER}", "why so", ANSWER),
    (True, f"why so\n</think>\n\n{ANSWER}", "why so", ANSWER),
    (True, f"</think>{ANSWER}", "", ANSWER),
    (True, "why so, and", "why so, and", ""),
    (False, "<think> why", "why", ""),
    (False, f"{ANSWER} </think> x", "", f"{ANSWER} </think> x"),
]


@pytest.mark.parametrize(("thinks", "text", "thinking", "answer"), CASES)
def test_thoughts_are_divided_from_the_answer(thinks: bool | None, text: str, thinking: str, answer: str) -> None:
    assert split_thinking(text, thinks) == (thinking, answer)


@pytest.mark.parametrize(("thinks", "text", "thinking", "answer"), CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_the_pieces_of_a_stream_are_the_answer(
    thinks: bool | None, text: str, thinking: str, answer: str, size: int
) -> None:
    pieces: list[str] = []
    tokenizer = AutoTokenizer.from_pretrained(omnisift.nano_path())
    streamer = _text_streamer(tokenizer, pieces.append, thinks)
    parts = [text[start : start + size] for start in range(0, len(text), size)]
    for number, part in enumerate(parts):
        streamer.on_finalized_text(part, stream_end=number == len(parts) - 1)
    assert "".join(pieces).strip() == answer


@pytest.mark.parametrize("opened", [True, False])
def test_a_model_that_thinks(tmp_path, opened: bool) -> None:
    folder = save_family("qwen3_5", tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens(["<think>", "</think>"])
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
