"""Moderate a folder of clips: each rule of a file is a question, a yes hits it, anything unclear is for a person.

    python examples/moderate.py                          # invented clips, examples/rules.yaml
    python examples/moderate.py CLIPS RULES --model Qwen/Qwen2.5-Omni-7B --device cuda --selector FOLDER

The same as `omnisift run CLIPS --task moderate --rules RULES --out CLIPS.jsonl`, with a list for a person at the end.
"""

import argparse
import json
import tempfile
from pathlib import Path

from omnisift.batch import Ledger, ModelSettings, items_of, make_task, run
from omnisift.world import make_scene, write_clip


def moderate(clips: Path, rules: Path, model: ModelSettings) -> list[dict]:
    """A row for each clip: ``hits``, ``unclear`` and the raw ``answers``, or ``error``."""
    out, task = clips.with_name(clips.name + ".jsonl"), make_task("moderate", rules)
    with Ledger(out, {"task": task.name, **task.settings, **model.to_dict()}) as ledger:
        items = items_of(clips)
        if ledger.missing(items):
            run(items, task, model.load(), ledger)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


def verdict(row: dict) -> str:
    """What a person reads: a clip that could not be judged is not a clean one."""
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--selector")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        clips = asked.clips or Path(place, "clips")
        if asked.clips is None:
            clips.mkdir()
            for seed in range(6):
                write_clip(make_scene(seed, split="test"), clips / f"{seed}.mp4")
            (clips / "broken.mp4").write_bytes(b"not a film")
        model = ModelSettings(model=asked.model, device=asked.device, selector=asked.selector)
        for row in moderate(clips, asked.rules, model):
            print(f"{row['clip']:12}  {verdict(row)}")


if __name__ == "__main__":
    main()
