"""Chat templates of models that think: answers are learned behind the prompt with which the trained model is asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.family_folders import save_family
from transformers import AutoProcessor

from omnisift.errors import UsageError
from omnisift.pipeline.chat_template import render_chat
from omnisift.training.data import Collator, Sample, Turn, check_answers_follow
from omnisift.training.data.encoding import NO_THOUGHTS

CONTENT = (
    "{%- macro words(content) -%}{%- for part in content -%}{%- if part['type'] == 'video' -%}"
    "<|vision_start|><|video_pad|><|vision_end|>{%- elif 'text' in part -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endmacro -%}"
    "{%- set place = namespace(last=0) -%}{%- for turn in messages -%}{%- if turn['role'] == 'user' -%}"
    "{%- set place.last = loop.index0 -%}{%- endif -%}{%- endfor -%}"
)
TURNS = (
    "{%- for turn in messages -%}{%- set text = words(turn['content']) -%}{{- '<|im_start|>' + turn['role'] + '\\n' -}}"
    "{%- if turn['role'] == 'assistant' and (ANSWER) -%}"
    "{%- set thought = text.split('</think>')[0].split('<think>')[-1].strip() if '</think>' in text else '' -%}"
    "{{- '<think>\\n' + thought + '\\n</think>\\n\\n' + text.split('</think>')[-1].lstrip() -}}"
    "{%- else -%}{{- text -}}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}PROMPT{%- endif -%}"
)
OFF = "{%- if enable_thinking is defined and enable_thinking is false -%}{{- '<think>\\n\\n</think>\\n\\n' -}}"


def template(prompt: str, answer: str = "loop.index0 > place.last") -> str:
    """How each kind of model ends a prompt, and which answers it writes behind a block of thinking."""
    return CONTENT + TURNS.replace("PROMPT", prompt).replace("ANSWER", answer)


TEMPLATES = {
    "opens a block": template(OFF + "{%- else -%}{{- '<think>\\n' -}}{%- endif -%}"),
    "leaves it to the model": template(OFF + "{%- endif -%}"),
    "thinks on request": template(
        "{%- if enable_thinking is defined and enable_thinking -%}{{- '<think>\\n' -}}{%- else -%}"
        "{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
    ),
    "writes blocks with thoughts only": template(OFF + "{%- endif -%}", "'</think>' in text"),
    "never thinks": template("", "false"),
}
ONLY = template("{{- '<think>\\n' -}}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_family("qwen3_5", tmp_path_factory.mktemp("families") / "qwen3_5")


@dataclass
class Thinker:
    """A processor with a template, in which the marks of a block are tokens."""

    folder: Path

    def __call__(self, chat_template: str) -> Any:
        processor = AutoProcessor.from_pretrained(self.folder)
        processor.tokenizer.add_tokens(["<think>", "</think>"])
        processor.chat_template = chat_template
        return processor


def sample(*texts: str) -> Sample:
    roles = ("user", "assistant") * len(texts)
    return Sample("row", None, tuple(Turn(role, text) for role, text in zip(roles, texts, strict=False)))


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_answer_stands_behind_the_prompt_that_asks_for_it(kind: str, folder: Path) -> None:
    processor = Thinker(folder)(TEMPLATES[kind])
    check_answers_follow(processor, "model")
    batch = Collator(processor)([sample("what colour", "red circle")])
    labels, ids = batch["labels"][0], batch["input_ids"][0].tolist()
    learned = [place for place, label in enumerate(labels.tolist()) if label != -100]
    question = {"role": "user", "content": [{"type": "text", "text": "what colour"}]}
    asked = render_chat(processor, [question], add_generation_prompt=True)
    assert asked.endswith(NO_THOUGHTS) == (kind != "never thinks")
    if kind == "writes blocks with thoughts only":
        asked = asked.removesuffix(NO_THOUGHTS)
    assert ids[: learned[0]] == processor.tokenizer(asked, add_special_tokens=False).input_ids
    tokens = processor.tokenizer.convert_ids_to_tokens([ids[place] for place in learned])
    assert tokens[-1] == "<|im_end|>"
    assert tokens[:-1] == processor.tokenizer.tokenize("red circle")


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("count", [4, 5])
def test_every_answer_of_a_conversation_is_learned(kind: str, count: int, folder: Path) -> None:
    """Also if a last question has no answer."""
    processor = Thinker(folder)(TEMPLATES[kind])
    collator = Collator(processor)
    batch = collator([sample(*["what colour", "red circle", "what shape", "blue square", "what sound"][:count])])
    assert not batch["skipped"]
    labels = batch["labels"][0]
    tokens = processor.tokenizer.convert_ids_to_tokens(labels[labels != -100].tolist())
    words = [processor.tokenizer.tokenize(text) for text in ("red circle", "blue square")]
    assert tokens == [*words[0], "<|im_end|>", *words[1], "<|im_end|>"]


def test_a_model_that_always_thinks_is_refused(folder: Path) -> None:
    processor = Thinker(folder)(ONLY)
    with pytest.raises(UsageError, match=r"^the chat template of model lets every answer begin with <think>"):
        check_answers_follow(processor, "model")


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_row_with_thoughts_is_named(kind: str, folder: Path) -> None:
    """A model that never thinks learns them as text."""
    processor = Thinker(folder)(TEMPLATES[kind])
    check_answers_follow(processor, "model")
    batch = Collator(processor)([sample("what colour", "<think>it is red</think>red circle")])
    if kind == "never thinks":
        assert not batch["skipped"]
    else:
        assert "an answer with <think> ... </think>" in batch["skipped"]["row"]
        assert bool((batch["labels"] == -100).all())


def test_a_conversation_that_a_template_refuses_is_left_out(folder: Path) -> None:
    refusing = "{%- if messages[0]['role'] == 'system' -%}{{- raise_exception('no') -}}{%- endif -%}"
    processor = Thinker(folder)(refusing + TEMPLATES["never thinks"])
    collator = Collator(processor)
    odd = Sample("odd", None, (Turn("system", "red"), Turn("user", "blue"), Turn("assistant", "red")))
    batch = collator([odd, sample("what colour", "red circle")])
    assert list(batch["skipped"]) == ["odd"]
    assert len(batch["labels"]) == 1
