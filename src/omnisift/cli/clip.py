"""Generate a clip that nano understands, with a question and its answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from omnisift.cli.output_paths import check_file
from omnisift.errors import UsageError


@dataclass(frozen=True)
class MadeClip:
    """A generated clip file, with one question about it and the true answer."""

    path: str
    seed: int
    caption: str
    question: str
    answer: str

    def to_dict(self) -> dict[str, str | int]:
        """JSON-ready."""
        return asdict(self)


def write_test_clip(path: Path, seed: int, force: bool = False) -> MadeClip:
    """Generate test clip number ``seed``.

    Raises:
        UsageError: ``path`` does not end in .mp4, it exists (and ``force`` is off), its folder does not, or the seed is
            negative.
    """
    import numpy as np

    from omnisift.world import caption, make_scene, questions, write_clip

    if seed < 0:
        raise UsageError(f"seed must be 0 or more, got {seed}")
    if path.suffix.lower() != ".mp4":
        raise UsageError(f"{path} must end in .mp4: clips are written as MP4")
    check_file(path, force)
    scene = make_scene(seed, split="test")
    write_clip(scene, path)
    question = questions(scene, np.random.default_rng(seed), types=["sound_with"])[0]
    return MadeClip(str(path), seed, caption(scene), question.text, question.answer)
