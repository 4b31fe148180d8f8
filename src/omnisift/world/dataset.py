"""Generate a small training data set of clips that nano understands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from omnisift.errors import UsageError
from omnisift.utils.atomic_io import atomic_file
from omnisift.utils.jsonl import write_jsonl


def write_dataset(folder: Path, clips: int, seed: int, questions_per_clip: int, step: Callable[[], None]) -> int:
    """Write clips ``seed .. seed + clips - 1`` of the training split and ``metadata.jsonl``.

    Clips that exist are kept: the file name holds the clip's number.

    Args:
        folder: created if needed.
        clips: number of clips.
        seed: number of the first clip.
        asked: questions per clip, in addition to its caption.
        step: called after each clip.

    Returns:
        The number of samples.

    Raises:
        UsageError: ``folder`` is a file.
    """
    import numpy as np

    from omnisift.world import caption, make_scene, questions, write_clip

    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(seed, seed + clips):
        scene, path = make_scene(number, split="train"), folder / f"clip-{number:06d}.mp4"
        if not path.is_file():
            with atomic_file(path) as unfinished:
                write_clip(scene, unfinished)
        pairs = (
            questions(scene, np.random.default_rng((21, number)), None, questions_per_clip)
            if questions_per_clip
            else []
        )
        answers = [{"question": q.text, "answer": q.answer} for q in pairs]
        rows.append({"file_name": path.name, "caption": caption(scene), "qa": answers})
        step()
    write_jsonl(folder / "metadata.jsonl", rows)
    return sum(1 + len(row["qa"]) for row in rows)
