"""Convert one row of a data file to a `Sample` and back.

``messages`` (ms-swift): ``{"messages": [{"role", "content"}], "videos": ["a.mp4"]}``. ``sharegpt`` (LLaMA-Factory):
``{"conversations": [{"from", "value"}], "videos": [...]}``. ``llava``: ``{"video": "a.mp4", "conversations": [...]}``.
`omnisift.training.data.turns` reads further forms. The audio is the video's own track in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omnisift.errors import UsageError
from omnisift.training.data.samples import CLIP, SOUND, Sample, Turn, clip_place
from omnisift.training.data.tags import place_clip
from omnisift.training.data.turns import CONVERSATIONS, PAIRS, TURN_KEYS, check_order, conversation_key, turns_of
from omnisift.utils.parsing import is_file_name, is_text, shown

FORMS = ("messages", "sharegpt", "llava")
_CLIP_KEYS = {"video": ("videos", "video"), "audio": ("audios", "audio")}
_PREFERENCE = "preferences, which can't be learned; keep one answer and remove the key"
REFUSED_KEYS = {
    **dict.fromkeys(("images", "image"), "an image; OmniSIFT compresses videos only: remove this row"),
    **dict.fromkeys(("tools", "functions"), "tools, whose calls can't be learned; remove this row"),
    "objects": "boxes of objects, which can't be learned; remove this row",
    **dict.fromkeys(
        ("chosen", "rejected", "rejected_response", "rejected_messages", "kto_tag"), f"a row of {_PREFERENCE}"
    ),
}
"""Key of a row -> why a row in which it has a value is refused."""
_KEYS = frozenset(("id", "system", *sum(_CLIP_KEYS.values(), ()), *REFUSED_KEYS))
_FOLDER_KEYS = frozenset(("file_name", "caption", "qa", "question", "answer"))


def sample_of(row: Any, where: str, folder: Path) -> Sample:
    """The sample in a row.

    Args:
        row: a parsed JSON object.
        where: file and line, for messages.
        folder: paths in the row are relative to it.

    Raises:
        UsageError: the row has no known form, no assistant turn, an image, more than one clip, or anything else whose
            meaning would be lost.
    """
    if not isinstance(row, dict):
        raise UsageError(f"{where}: a row must be a JSON object, got {type(row).__name__}")
    check_keys(row, where)
    turns, named = turns_of(row, where)
    for turn in turns:
        check_characters(turn.text, where)
    clips = {kind: _listed(row, keys) + named[kind] for kind, keys in _CLIP_KEYS.items()}
    media = _media(clips, where)
    check_order(turns, where)
    kind = "video" if clips["video"] else "audio"
    placed, clip_at = place_clip(turns, None if media is None else kind, where)
    name = row.get("id", where)
    if not isinstance(name, (str, int, float)) or not is_text(str(name)):
        raise UsageError(f"{where}: an id must be a text or a number, got {shown(name)}")
    clip = None if media is None else clip_path(folder, media, where)
    return Sample(str(name), clip, placed, clip_at, sound_only=clip is not None and kind == "audio")


def check_keys(row: Mapping[str, Any], where: str) -> None:
    """Raise `UsageError` for a row of another task, whose meaning would be lost."""
    for key, why in REFUSED_KEYS.items():
        if row.get(key) or (key == "kto_tag" and row.get(key) is False):
            raise UsageError(f"{where}: {why}")
    if isinstance(row.get("label"), bool):  # a number or a word is of no other form and says nothing about the answer
        raise UsageError(f"{where}: 'label' is true or false: a row of {_PREFERENCE}")


def unknown_keys(row: Mapping[str, Any]) -> set[str]:
    """The keys of a row and of its turns that are not understood; those of turns as ``messages[].key``."""
    if "file_name" in row:
        pairs = row.get("qa")
        inner = {key for pair in pairs if isinstance(pair, dict) for key in pair} if isinstance(pairs, list) else set()
        return set(row) - _FOLDER_KEYS | {f"qa[].{key}" for key in inner - {"question", "answer"}}
    form = conversation_key(row)
    known = {*PAIRS[form], "history"} if form in PAIRS else {form}
    unknown = set(row) - _KEYS - known
    if form in CONVERSATIONS and isinstance(row[form], list):
        parts = [part for part in row[form] if isinstance(part, dict)]
        unknown |= {f"{form}[].{key}" for part in parts for key in part if key not in TURN_KEYS}
    return unknown


def clip_path(folder: Path, name: Any, where: str) -> Path:
    """The path of a row's clip; raises `UsageError` for what can't be one."""
    if not is_file_name(name):
        raise UsageError(f"{where}: a clip must be a path, got {shown(name)}")
    if "://" in name or name.startswith("data:"):
        raise UsageError(f"{where}: a clip must be a file of this machine, got the URL {shown(name)}; download it")
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
    parts = [
        _part(turn, text, is_messages=form == "messages")
        for turn, text in zip(sample.turns, _tagged(sample), strict=True)
    ]
    row = {"id": sample.id, ("messages" if form == "messages" else "conversations"): parts}
    if clip is not None:
        kind = "audio" if sample.sound_only else "video"
        row |= {kind: clip} if form == "llava" else {f"{kind}s": [clip]}
    return row


def _part(turn: Turn, text: str, *, is_messages: bool) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    part: dict[str, Any] = {"from": names[turn.role], "value": text}
    if is_messages:
        part = {"role": turn.role, "content": text}
    return part if turn.learned else part | {"loss": False}


def _listed(row: Mapping[str, Any], keys: tuple[str, ...]) -> list[Any]:
    values = [row[key] for key in keys if row.get(key)]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _media(clips: Mapping[str, list[Any]], where: str) -> str | None:
    """The one clip of a row. An audio file next to a video must be the video's own track."""
    for name in (*clips["video"], *clips["audio"]):
        if not isinstance(name, str):
            raise UsageError(f"{where}: a clip must be a path, got {type(name).__name__}")
    listed = clips["video"] or clips["audio"]
    if len(listed) > 1:
        raise UsageError(f"{where}: {len(listed)} clips; a row may have one: split the row or remove it")
    if not listed:
        return None
    stem = Path(listed[0]).stem
    if any(Path(name).stem != stem for name in clips["audio"]) or len(clips["audio"]) > 1:
        raise UsageError(
            f"{where}: audio {shown(clips['audio'])} beside the video {listed[0]!r}; the audio of a video is its own "
            "track: join both in one file, or remove the audio"
        )
    return str(listed[0])


def _tagged(sample: Sample) -> list[str]:
    """The texts, with the clip's tag where the clip stands."""
    texts = [turn.text for turn in sample.turns]
    if sample.media is not None:
        turn, character = clip_place(sample)
        texts[turn] = texts[turn][:character] + (SOUND if sample.sound_only else CLIP) + texts[turn][character:]
    return texts


def _relative(path: Path, folder: Path) -> str:
    path, folder = path.absolute(), folder.absolute()  # a path relative to another folder would name another file
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
