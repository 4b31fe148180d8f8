"""Compare `omnisift` and `resift` on nano, whose language model was fine-tuned with its selector. (Ten minutes.)

    python benchmarks/accuracy/default_method.py --clips 100 --retain 0.25 --retain 0.1

Asked are the three example questions of `omnisift ui` about each of the first test clips.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from omnisift import load
from omnisift.evaluation.public.extractors import normalise_answer
from omnisift.ui.samples import example_questions
from omnisift.world import make_scene, write_clip

METHODS = ("omnisift", "resift")


def right_answers(clips: int, retain: float) -> dict[str, int]:
    """Return method -> number of right answers, of three for each clip."""
    pipe, right = load("nano", compressor=None), dict.fromkeys(METHODS, 0)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(clips):
            scene = make_scene(seed, "test")
            file = Path(folder) / f"{seed}.mp4"
            write_clip(scene, file)
            clip = pipe.encode(file)
            for name in METHODS:
                method = pipe.with_compressor(name, retain=retain)
                for question in example_questions(scene):
                    answer = method.ask(clip, question.text).text
                    right[name] += normalise_answer(answer) == normalise_answer(question.answer)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--retain", type=float, action="append", default=[])
    options = parser.parse_args()
    for retain in options.retain or [0.25]:
        counts = ", ".join(f"{name} {count}" for name, count in right_answers(options.clips, retain).items())
        print(f"retain {retain:g}: {counts} of {3 * options.clips}")


if __name__ == "__main__":
    main()
