"""What lmms-eval asks, in our words, and what each answer cost, in a file beside its results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnisift.errors import UnsupportedCall
from omnisift.pipeline.ask_batch import Reply


@dataclass(frozen=True)
class Request:
    """One question of a task."""

    task: str
    document: int
    clip: str
    text: str
    system: str | None
    max_new_tokens: int
    until: tuple[str, ...]
    """Texts at which an answer ends."""


def request_of(arguments: tuple[Any, ...], documents: Mapping[str, Any]) -> Request:
    """From the six arguments of a request in chat form; ``documents`` is the harness' ``task_dict``.

    Raises:
        UnsupportedCall: it asks for sampling, or about other media than one clip.
    """
    _, messages_of, options, document, task, split = arguments
    messages = messages_of(documents[task][split][document])
    parts = [(message["role"], part) for message in messages for part in _content(message)]
    clips = [str(part["url"]) for _, part in parts if part["type"] in ("video", "audio")]
    others = sorted({role for role, _ in parts} - {"user", "system"} | {part["type"] for _, part in parts} - _TYPES)
    if len(clips) != 1 or others:
        found = f"{len(clips)} clips" + (f" and {', '.join(others)}" if others else "")
        raise UnsupportedCall(f"{task}, question {document}: one clip and text can be asked about, got {found}")
    texts = {
        who: "\n".join(part["text"] for role, part in parts if role == who and part["type"] == "text")
        for who in ("user", "system")
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


_TYPES = {"video", "audio", "text"}


def _content(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _check_greedy(task: str, options: Mapping[str, Any]) -> None:
    sampled = options.get("do_sample") or float(options.get("temperature") or 0) > 0
    if sampled or int(options.get("num_beams") or 1) > 1:
        raise UnsupportedCall(f"{task} asks for sampling or beams; answers are greedy: --gen_kwargs temperature=0")


def batches(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Runs of at most ``size`` requests in their order that share all but clip and text."""
    batch: list[Request] = []
    for request in requests:
        if batch and (len(batch) == size or _options(batch[0]) != _options(request)):
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch


def _options(request: Request) -> tuple[object, ...]:
    return request.system, request.max_new_tokens, request.until


class Records:
    """One line a request, from each process in a file of its own; nothing if there is no folder.

    lmms-eval keeps how many tokens were read, not of which kind, nor seconds and memory.
    """

    def __init__(self, folder: str | None, rank: int) -> None:
        self.path = None if folder is None else Path(folder) / f"requests-{rank}.jsonl"
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("", encoding="utf-8")

    def add(
        self,
        request: Request,
        reply: Reply | None,
        seconds: Mapping[str, float],
        problem: str | None,
        flops: int | None = None,
    ) -> None:
        """``seconds`` are those of reading; ``reply`` is None and ``problem`` says why if the clip can't be read.

        ``flops``: of encoders and prefill, products with weights.
        """
        if self.path is None:
            return
        line: dict[str, Any] = {"task": request.task, "document": request.document, "problem": problem}
        if reply is not None:
            tokens = {**vars(reply.tokens), "prompt_kept": reply.tokens.prompt_kept}
            line |= {"tokens": tokens, "seconds": {**seconds, **reply.seconds}, "together": reply.together}
            line |= {"peak_memory_bytes": reply.peak_memory_bytes, "flops": flops}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
