"""Convert one row of a data file to a `Sample` and back, in three common forms.

``messages`` (ms-swift): ``{"messages": [{"role", "content"}], "videos": ["a.mp4"]}``. ``sharegpt`` (LLaMA-Factory):
``{"conversations": [{"from", "value"}], "videos": [...]}``. ``llava``: ``{"video": "a.mp4", "conversations": [...]}``.
The audio is the video's own track in all of them; an ``<audio>`` tag next to ``<video>`` is accepted and ignored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.samples import CLIP, ROLES, Sample, Turn
from omnisift.utils.parsing import is_file_name, is_text, shown

FORMS = ("messages", "sharegpt", "llava")
_ROLE = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_TAGS = re.compile(r"\s*(?:<(?:video|audio|image)>\s*)+")


def sample_of(row: Any, where: str, folder: Path) -> Sample:
    """The sample in a row.

    Args:
        row: a parsed JSON object.
        where: file and line, for messages.
        folder: paths in the row are relative to it.

    Raises:
        UsageError: the row has no known form, no assistant turn, an image, or more than one clip.
    """
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a row must be a JSON object, got {type(row).__name__}")
    conversation = row.get("messages", row.get("conversations"))
    if not isinstance(conversation, list) or not conversation:
        raise UsageError(f"{where}: no 'messages' or 'conversations'; the row has the keys {shown(sorted(row))}")
    turns = tuple(_turn(part, where) for part in conversation)
    for turn in turns:
        check_characters(turn.text, where)
    media = _media(row, where)
    if turns[0].role == "assistant":
        raise UsageError(f"{where}: the conversation begins with the assistant; put a user turn before it")
    if not any(turn.role == "assistant" for turn in turns):
        raise UsageError(f"{where}: no assistant turn, so there is nothing to learn; add one or remove the row")
    if media is not None and not any(turn.role == "user" for turn in turns):
        raise UsageError(f"{where}: a clip but no user turn to place it in; add one")
    name = row.get("id", where)
    if not isinstance(name, (str, int, float)) or not is_text(str(name)):
        raise UsageError(f"{where}: an id must be a text or a number, got {shown(name)}")
    return Sample(str(name), None if media is None else clip_path(folder, media, where), turns)


def clip_path(folder: Path, name: Any, where: str) -> Path:
    """The path of a row's clip; raises `UsageError` for what can't be one."""
    if not is_file_name(name):
        raise UsageError(f"{where}: a clip must be a path, got {shown(name)}")
    return folder / str(name)


def check_characters(text: str, where: str) -> None:
    """Raise `UsageError` for a lone surrogate, which JSON allows and on which a tokenizer fails in mid-run."""
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"{where}: a text contains a lone surrogate, which is no valid character; correct the row")


def row_of(sample: Sample, form: str, folder: Path) -> dict[str, Any]:
    """``sample`` as a JSON object.

    Args:
        sample: what to convert.
        form: one of `FORMS`.
        folder: the clip's path becomes relative to it if it is inside.

    Raises:
        UsageError: the form is unknown.
    """
    if form not in FORMS:
        raise UsageError(f"unknown form {form!r}; choose one of: {', '.join(FORMS)}")
    clip = None if sample.media is None else _relative(sample.media, folder)
    texts = _tagged(sample)
    row: dict[str, Any] = {"id": sample.id}
    if form == "messages":
        row["messages"] = [{"role": turn.role, "content": text} for turn, text in zip(sample.turns, texts, strict=True)]
    else:
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        row["conversations"] = [
            {"from": names[turn.role], "value": text} for turn, text in zip(sample.turns, texts, strict=True)
        ]
    if clip is not None:
        row |= {"video": clip} if form == "llava" else {"videos": [clip]}
    return row


def _turn(part: Any, where: str) -> Turn:
    if not isinstance(part, dict):
        raise UsageError(f"{where}: a turn must be a JSON object, got {type(part).__name__}")
    role, text = part.get("role", part.get("from")), part.get("content", part.get("value"))
    if not isinstance(role, str) or role not in _ROLE or not isinstance(text, str):
        raise UsageError(
            f"{where}: a turn needs a role ({', '.join(ROLES)}) and a text, got {shown(role)} and {type(text).__name__}"
        )
    if _ROLE[role] == "user":
        text = _TAGS.sub(_gap, text)
    return Turn(_ROLE[role], text)


def _gap(tag: re.Match[str]) -> str:
    """What replaces a tag: nothing at an end of the text, else a space or line break that keeps words apart."""
    if tag.start() == 0 or tag.end() == len(tag.string):
        return ""
    return "\n" if "\n" in tag.group() else " "


def _media(row: dict[str, Any], where: str) -> str | None:
    clips: list[Any] = []
    for name in ("videos", "video", "audios", "audio"):
        value = row.get(name)
        if value and not (clips and name in ("audios", "audio")):  # the audio of a video is its own track
            clips += value if isinstance(value, list) else [value]
    if row.get("images") or row.get("image"):
        raise UsageError(f"{where}: an image; OmniSIFT compresses videos only: remove this row")
    if len(clips) > 1:
        raise UsageError(f"{where}: {len(clips)} clips; a row may have one: split the row or remove it")
    if clips and not isinstance(clips[0], str):
        raise UsageError(f"{where}: a clip must be a path, got {type(clips[0]).__name__}")
    return clips[0] if clips else None


def _tagged(sample: Sample) -> list[str]:
    """The texts, with the clip's tag before the first user turn."""
    texts = [turn.text for turn in sample.turns]
    if sample.media is not None:
        first = next(i for i, turn in enumerate(sample.turns) if turn.role == "user")
        texts[first] = CLIP + texts[first]
    return texts


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
