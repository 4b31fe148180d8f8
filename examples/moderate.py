"""Moderate a folder of clips: each rule is a yes-or-no question, and unclear answers are listed for a person to check.

    python examples/moderate.py                          # generated clips, examples/rules.yaml
    python examples/moderate.py CLIPS RULES --model Qwen/Qwen2.5-Omni-7B --device cuda --selector FOLDER

It does the same as `omnisift run CLIPS --task moderate --rules RULES --out CLIPS.moderated.jsonl`, and prints a list.
"""

import argparse
import json
import tempfile
from pathlib import Path

from omnisift.batch import ModelSettings, ResultsFile, items_of, make_task, run
from omnisift.world import make_scene, write_clip


def moderate(clips: Path, rules: Path, model: ModelSettings) -> list[dict]:
    """Return one row per clip with ``hits``, ``unclear`` and the raw ``answers``, or with ``error``."""
    out, task = clips.with_name(clips.name + ".moderated.jsonl"), make_task("moderate", rules)
    # An interrupted run resumes: clips that have a row are not asked again.
    with ResultsFile(out, {"task": task.name, **task.settings, **model.to_dict()}) as results:
        items = items_of(clips)
        if results.missing(items):
            run(items, task, model.load(), results)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def verdict(row: dict) -> str:
    """Return the line for a person; a clip without a clear answer is not clean."""
    if "error" in row:
        return f"LOOK  could not be read ({row['error']['type']})"
    if row["hits"]:
        return f"HIT   {', '.join(row['hits'])}"
    if row["unclear"]:
        return f"LOOK  no clear answer: {', '.join(row['unclear'])}"
    return "clean"


def main() -> None:
    parser = argparse.ArgumentParser(description="Moderate a folder of clips.")
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("rules", type=Path, nargs="?", default=Path(__file__).with_name("rules.yaml"))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--selector")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clips = options.clips or Path(folder, "clips")
        if options.clips is None:
            clips.mkdir()
            for seed in range(6):
                write_clip(make_scene(seed, split="test"), clips / f"{seed}.mp4")
            (clips / "broken.mp4").write_bytes(b"not a video")
        model = ModelSettings(model=options.model, device=options.device, selector=options.selector)
        for row in moderate(clips, options.rules, model):
            print(f"{row['clip']:12}  {verdict(row)}")


if __name__ == "__main__":
    main()
