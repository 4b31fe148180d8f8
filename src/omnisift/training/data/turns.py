"""Read the conversation of a row, in the forms of ms-swift, LLaMA-Factory, LLaVA and OpenAI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.samples import ROLES, Turn
from omnisift.utils.parsing import shown

CONVERSATIONS = ("messages", "conversations", "conversation")
"""Keys of a list of turns."""
PAIRS = {"instruction": ("instruction", "input", "output"), "query": ("query", "response")}
"""Key by which a row of one question and answer is known -> all keys of the question and its answer."""
_ROLE = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_TOOL_ROLES = ("function_call", "function", "observation", "tool", "tool_call", "tool_response")
_TEXT_KEYS = ("role", "from", "content", "value", "human", "assistant")
_FLAGS = ("loss", "train", "training", "weight", "loss_scale")
"""Keys that say whether an answer is learned: ms-swift's, Axolotl's and OpenAI's."""
_REFUSED = ("tool_calls", "function_call", "reasoning_content", "thinking", "images", "videos", "audios")
TURN_KEYS = frozenset((*_TEXT_KEYS, *_FLAGS, *_REFUSED))
"""Keys of a turn that are understood."""
_MEDIA_PARTS = ("video", "video_url", "audio", "audio_url", "input_audio")


def conversation_key(row: Mapping[str, Any]) -> str | None:
    """The key by which the form of a row is known; None for an unknown form."""
    return next((key for key in (*CONVERSATIONS, *PAIRS) if row.get(key) is not None), None)


def turns_of(row: Mapping[str, Any], where: str) -> tuple[list[Turn], dict[str, list[str]]]:
    """The turns of a row as they stand in the file, media tags included, and the clips of each kind that turns name.

    Args:
        row: a JSON object.
        where: file and line, for messages.

    Raises:
        UsageError: the row has no known form, or one of its turns can't be learned.
    """
    key, clips = conversation_key(row), dict[str, list[str]](video=[], audio=[])
    if key in PAIRS:
        turns = list(_pairs(row, key, where))
    else:
        listed = None if key is None else row[key]
        if not isinstance(listed, list) or not listed:
            raise UsageError(f"{where}: no 'messages' or 'conversations'; the row has the keys {shown(sorted(row))}")
        turns = [turn for part in listed for turn in _turns(part, where, clips)]
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise UsageError(f"{where}: 'system' must be text, got {type(system).__name__}")
    if system and turns[0].role != "system":  # a system turn of the conversation comes first
        turns.insert(0, Turn("system", system))
    return turns, clips


def check_order(turns: Sequence[Turn], where: str) -> None:
    """Raise `UsageError` for turns in an order that chat templates don't have, or without an answer to learn."""
    if turns[0].role == "assistant":
        raise UsageError(f"{where}: the conversation begins with the assistant; put a user turn before it")
    for before, turn in pairwise(turns):
        if turn.role == "system":
            raise UsageError(f"{where}: a system turn after another turn; put it first, or remove the row")
        if turn.role == before.role:
            raise UsageError(f"{where}: two {turn.role} turns in a row; join them, or remove the row")
    answers = [turn for turn in turns if turn.role == "assistant"]
    if not answers:
        raise UsageError(f"{where}: no assistant turn, so there is nothing to learn; add one or remove the row")
    if not any(turn.learned for turn in answers):
        raise UsageError(f"{where}: no assistant turn is to be learned; change its flag or remove the row")


def _pairs(row: Mapping[str, Any], key: str, where: str) -> Iterator[Turn]:
    """The turns of a question and its answer, after those of ``history``."""
    history = row.get("history") or []
    texts = list[Any]()
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UsageError(f"{where}: 'history' must be a list of pairs of texts, got {shown(pair)}")
        texts += pair
    *asked, answer = PAIRS[key]
    parts = [row[name] for name in asked if row.get(name) not in (None, "")]
    texts += ["\n".join(parts) if all(isinstance(part, str) for part in parts) else parts, row.get(answer)]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise UsageError(f"{where}: {', '.join(map(repr, PAIRS[key]))} must be text, got {shown(text)}")
        yield Turn("assistant" if number % 2 else "user", text)


def _turns(part: Any, where: str, clips: dict[str, list[str]]) -> Iterator[Turn]:
    """The turn in ``part``; two for a pair of ``human`` and ``assistant``. Clips it names are added to ``clips``."""
    if not isinstance(part, dict):
        raise UsageError(f"{where}: a turn must be a JSON object, got {type(part).__name__}")
    for name in _REFUSED:
        if part.get(name):
            raise UsageError(f"{where}: a turn with {name!r}, which can't be learned; remove the key or the row")
    for names in (("role", "from"), ("content", "value")):
        if all(name in part for name in names) and part[names[0]] != part[names[1]]:
            raise UsageError(f"{where}: a turn with {names[0]!r} and {names[1]!r}; keep one of them")
    if "human" in part and "assistant" in part:
        flags = {key: value for key, value in part.items() if key in _FLAGS}
        yield from _turns({"role": "user", "content": part["human"]}, where, clips)
        yield from _turns({"role": "assistant", "content": part["assistant"], **flags}, where, clips)
        return
    role, content = part.get("role", part.get("from")), part.get("content", part.get("value"))
    if isinstance(role, str) and role in _TOOL_ROLES:
        raise UsageError(
            f"{where}: a turn needs a role ({', '.join(ROLES)}), got {role!r}; calls of tools can't be learned"
        )
    text = _text(content, where, clips) if isinstance(content, list) else content
    if not isinstance(role, str) or role not in _ROLE or not isinstance(text, str):
        raise UsageError(
            f"{where}: a turn needs a role ({', '.join(ROLES)}) and a text, got {shown(role)} and {type(text).__name__}"
        )
    yield Turn(_ROLE[role], text, _is_learned(part, _ROLE[role], where))


def _is_learned(part: Mapping[str, Any], role: str, where: str) -> bool:
    """What the flags of a turn say; True for other turns than the assistant's, where a flag says nothing new."""
    flags = {key: part[key] for key in _FLAGS if part.get(key) is not None}
    for key, value in flags.items():
        if not isinstance(value, (bool, int, float)) or value not in (0, 1):
            raise UsageError(f"{where}: {key!r} of a turn must be true or false, got {shown(value)}")
        if value and role != "assistant":
            raise UsageError(f"{where}: {key!r} is set for a {role} turn; only answers are learned: remove it")
    return role != "assistant" or all(flags.values())


def _text(parts: list[Any], where: str, clips: dict[str, list[str]]) -> str:
    """The text of OpenAI's content parts, with a tag for each part that is a clip."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and set(part) == {"type", "text"} and isinstance(part["text"], str):
            texts.append(part["text"])
            continue
        if not isinstance(kind, str) or kind not in _MEDIA_PARTS or not set(part) <= {"type", kind}:
            raise UsageError(f"{where}: a part of a turn must be a text or a clip alone, got {shown(part)}")
        name = part.get(kind)
        if isinstance(name, dict) and set(name) == {"url"}:
            name = name["url"]
        media = "video" if kind.startswith("video") else "audio"
        if name is not None:
            clips[media].append(name)
        texts.append(f"<{media}>")
    return "".join(texts)
