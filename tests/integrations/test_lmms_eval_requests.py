"""Requests of lmms-eval, parsed without lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from omnisift.errors import UnsupportedCall
from omnisift.integrations.lmms_eval.requests import Request, RequestLog, batches, parse_request
from omnisift.pipeline.report import Answer, Report, Seconds, Source, Tokens


def parse(content: Any, role: str = "user", more: list[Any] | None = None, **options: Any) -> Request:
    messages = [*(more or []), {"role": role, "content": content}]
    arguments = ("", lambda document: messages if document == "it" else [], options, 0, "task", "test")
    return parse_request(arguments, {"task": {"test": ["it"]}})


CLIP, TEXT = {"type": "video", "url": "a.mp4"}, {"type": "text", "text": "What?"}


def test_a_clip_and_a_text() -> None:
    assert parse([CLIP, TEXT]) == Request("task", 0, "a.mp4", "What?", None, 256, ())
    system = {"role": "system", "content": "Be brief."}
    request = parse([CLIP, TEXT, TEXT], more=[system], max_new_tokens=16, until="\n\n", temperature=0)
    assert (request.text, request.system) == ("What?\nWhat?", "Be brief.")
    assert (request.max_new_tokens, request.until) == (16, ("\n\n",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([TEXT], "got 0 clips"),
        ([CLIP, CLIP, TEXT], "got 2 clips"),
        ([CLIP, {"type": "image", "url": "b.png"}, TEXT], "got 1 clips and image"),
    ],
)
def test_other_media_are_refused(content: list[Any], message: str) -> None:
    with pytest.raises(UnsupportedCall, match=message):
        parse(content)


def test_answers_of_earlier_rounds_are_refused() -> None:
    with pytest.raises(UnsupportedCall, match="assistant"):
        parse([CLIP, TEXT], more=[{"role": "assistant", "content": "So?"}])


@pytest.mark.parametrize("options", [{"do_sample": True}, {"temperature": 0.7}, {"num_beams": 4}])
def test_sampling_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedCall, match="answers are greedy"):
        parse([CLIP, TEXT], **options)


def test_batches_keep_the_order_and_share_their_options() -> None:
    short, long = (parse([CLIP, TEXT], max_new_tokens=count) for count in (4, 8))
    result = list(batches([short, short, short, long, long, short], 2))
    assert [len(batch) for batch in result] == [2, 1, 2, 1]
    assert [request for batch in result for request in batch] == [short, short, short, long, long, short]
    assert list(batches([], 2)) == []


def test_the_log_is_one_line_per_request_and_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "requests-1.jsonl").write_text("old\n")
    log = RequestLog(str(tmp_path), 1)
    tokens, seconds = Tokens(96, 24, 150, 39, 300, 1), Seconds(0.0, 0.125, 0.0, 0.0, 0.0, 0.5, 0.75)
    source = Source("a.mp4", 6.0, 12, 2.0, 112, 112, True, True, 6.0)
    answer = Answer("B", Report("nano", "omnisift", None, tokens, seconds, source, 7))
    log.add(parse([CLIP, TEXT]), answer, read_seconds=0.25, batch_size=2, flops=9)
    log.add(parse([CLIP, TEXT]), None, "Damaged: a.mp4")
    first, second = map(json.loads, (tmp_path / "requests-1.jsonl").read_text().splitlines())
    assert first["tokens"]["prompt_kept"] == 300 - 72 - 111
    assert first["seconds"] == {**vars(seconds), "read": 0.25}
    assert (first["batch_size"], first["peak_memory_bytes"], first["flops"], first["problem"]) == (2, 7, 9, None)
    assert (second["problem"], "tokens" in second) == ("Damaged: a.mp4", False)


def test_without_a_folder_nothing_is_written() -> None:
    assert RequestLog(None, 0).path is None
