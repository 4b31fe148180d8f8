"""Generate a small training data set of clips that nano understands."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from omnisift.errors import UsageError
from omnisift.utils.jsonl import JsonLines, write_jsonl

_CLIP = re.compile(r"[a-z0-9+]+-\d{6,}\.mp4")
"""Names of the clips."""


def write_dataset(
    folder: Path, clips: int, seed: int, questions_per_clip: int, step: Callable[[], None], setting: str = "base"
) -> int:
    """Write clips ``seed .. seed + clips - 1`` of the training split and ``metadata.jsonl``.

    Clips that exist are kept: the file name holds the setting (``clip`` for ``base``) and the clip's number.

    Args:
        folder: created if needed.
        clips: number of clips.
        seed: number of the first clip.
        questions_per_clip: questions per clip, in addition to its caption.
        step: called after each clip.
        setting: setting of the world.

    Returns:
        The number of samples.

    Raises:
        UsageError: the setting is unknown, ``folder`` is a file, or its ``metadata.jsonl`` names other clips.
    """
    import numpy as np

    from omnisift.world import FOLLOWED, caption, make_scene, questions, world_setting, write_clip

    # No training data has one question with two answers.
    types = [name for name in world_setting(setting).types if name not in FOLLOWED]
    chosen, prefix = world_setting(setting), "clip" if setting == "base" else setting
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    _check_metadata(folder / "metadata.jsonl")
    rows = []
    for number in range(seed, seed + clips):
        scene, path = make_scene(number, "train", chosen.config), folder / f"{prefix}-{number:06d}.mp4"
        if not path.is_file():
            write_clip(scene, path)
        pairs = (
            questions(scene, np.random.default_rng((21, number)), types, questions_per_clip)
            if questions_per_clip
            else []
        )
        answers = [{"question": q.text, "answer": q.answer} for q in pairs]
        rows.append({"file_name": path.name, "caption": caption(scene), "qa": answers})
        step()
    write_jsonl(folder / "metadata.jsonl", rows)
    return sum(1 + len(row["qa"]) for row in rows)


def _check_metadata(path: Path) -> None:
    """Raise `UsageError` if ``path`` is not what `write_dataset` wrote, since it is replaced."""
    if not path.exists():
        return
    rows = [row for _, row in JsonLines(path).records()]
    if not rows or not all(isinstance(row, dict) and _CLIP.fullmatch(str(row.get("file_name"))) for row in rows):
        raise UsageError(f"{path} names clips that were not generated, so it is not replaced; name another folder")
