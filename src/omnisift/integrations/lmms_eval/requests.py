"""Parse the requests of lmms-eval, and log the cost of each answer to a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.errors import UnsupportedCall
from omnisift.pipeline import Answer
from omnisift.utils.jsonl import JsonLines

_TYPES = {"video", "audio", "text"}


@dataclass(frozen=True)
class Request:
    """One question of a task."""

    task: str
    document: int
    """Index of the document in its split."""
    clip: str
    """Path of the media file."""
    text: str
    """The question."""
    system: str | None
    """The system prompt; None if the task has none."""
    max_new_tokens: int
    until: tuple[str, ...]
    """Strings that end an answer."""


def parse_request(arguments: tuple[Any, ...], documents: Mapping[str, Any]) -> Request:
    """Parse one request of lmms-eval.

    Args:
        arguments: the six arguments of a request in chat form.
        documents: the harness' ``task_dict``.

    Raises:
        UnsupportedCall: the request asks for sampling, or for other media than one clip.
    """
    _, messages_of, options, document, task, split = arguments
    messages = messages_of(documents[task][split][document])
    parts = [(message["role"], part) for message in messages for part in _content(message)]
    clips = [str(part["url"]) for _, part in parts if part["type"] in ("video", "audio")]
    others = sorted({role for role, _ in parts} - {"user", "system"} | {part["type"] for _, part in parts} - _TYPES)
    if len(clips) != 1 or others:
        content = f"{len(clips)} clips" + (f" and {', '.join(others)}" if others else "")
        raise UnsupportedCall(f"{task}, question {document}: only one clip and text are supported, got {content}")
    texts = {
        role: "\n".join(part["text"] for part_role, part in parts if part_role == role and part["type"] == "text")
        for role in ("user", "system")
    }
    _check_greedy(task, options)
    until = options.get("until") or ()
    return Request(
        task,
        int(document),
        clips[0],
        texts["user"],
        texts["system"] or None,
        int(options.get("max_new_tokens", 256)),
        (until,) if isinstance(until, str) else tuple(until),
    )


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _check_greedy(task: str, options: Mapping[str, Any]) -> None:
    sampled = options.get("do_sample") or float(options.get("temperature") or 0) > 0
    if sampled or int(options.get("num_beams") or 1) > 1:
        raise UnsupportedCall(
            f"{task} asks for sampling or beam search, but answers are greedy; give --gen_kwargs temperature=0"
        )


def batches(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Group requests into batches, in their order.

    Args:
        requests: all requests.
        size: requests in a batch, at most.

    Yields:
        Consecutive requests with the same system prompt, length limit and end strings.
    """
    batch: list[Request] = []
    for request in requests:
        if batch and (len(batch) == size or _shared_options(batch[0]) != _shared_options(request)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _shared_options(request: Request) -> tuple[object, ...]:
    return request.system, request.max_new_tokens, request.until


class RequestLog:
    """A file ``requests-RANK.jsonl`` with one line per request: tokens by modality, seconds, memory, FLOPs.

    lmms-eval itself keeps the number of tokens only.

    Args:
        folder: where the file is written; None writes nothing.
        rank: number of this process.
    """

    def __init__(self, folder: str | None, rank: int) -> None:
        self.path = None if folder is None else Path(folder) / f"requests-{rank}.jsonl"
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def add(
        self,
        request: Request,
        answer: Answer | None,
        problem: str | None = None,
        *,
        read_seconds: float = 0.0,
        batch_size: int = 1,
        flops: int | None = None,
    ) -> None:
        """Append one line.

        Args:
            request: the request.
            answer: the answer; None if the clip can't be read.
            problem: why the clip can't be read.
            read_seconds: seconds that reading the clip took; 0 if an earlier request about it did.
            batch_size: number of requests that were answered together.
            flops: FLOPs of encoders and prefill of the prompt alone, in products with weights; what an earlier request
                about the clip left to do may be less.
        """
        if self.path is None:
            return
        line: dict[str, Any] = {"task": request.task, "document": request.document, "problem": problem}
        if answer is not None:
            report = answer.report
            tokens = {**vars(report.tokens), "prompt_kept": report.tokens.prompt_kept}
            tokens["prompt_cached"] = report.cached_tokens
            line |= {"tokens": tokens, "seconds": {**vars(report.seconds), "read": read_seconds}}
            line |= {"batch_size": batch_size, "peak_memory_bytes": report.peak_memory_bytes, "flops": flops}
        JsonLines(self.path).append(line)
