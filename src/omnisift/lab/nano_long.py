"""``python -m omnisift.lab.nano_long``: fine-tune a bundled backbone on streams of up to a minute.

nano has only ever seen six seconds. This one keeps its encoders, embeddings and head and trains its language model on
streams of several clips, from which old tokens were thinned out as a live session does it (docs/streaming.md). Run it
again to resume.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from omnisift.lab.nano import load_thinker, recipe_provenance
from omnisift.lab.training.long_streams import LongSettings, stream_accuracies, train_on_streams
from omnisift.lab.training.packed import TYPE_WEIGHTS, WIDE_WEIGHTS, Writer
from omnisift.lab.training.stream_bank import StreamBank
from omnisift.lab.training.stream_policies import TriedMemory
from omnisift.pipeline.loading import load_host
from omnisift.streaming.policies import KeepAll, Policy
from omnisift.utils.assets import bundled_path
from omnisift.utils.atomic_io import write_atomic

logger = logging.getLogger(__name__)
SETTINGS_OF = {"nano": "base", "wide": "wide"}
"""Backbone -> setting of the world that it knows."""
RUNS = {"nano": LongSettings(), "wide": LongSettings(steps=450, streams=6)}
"""Backbone -> the numbers of its run."""
CLIPS = {"nano": (1500, 160), "wide": (400, 64)}
"""Backbone -> training scenes, and clips of each kind of filler."""
CHECKED = (40, 24)
"""Validation scenes, and clips of each kind of filler."""
MEMORIES = {"nano": TriedMemory(3, 32, 32, 150, seen=1.0), "wide": TriedMemory(3, 100, 60, 150, seen=1.0)}
"""Backbone -> the memory of the validation."""
COPIED = ("chat_template.jinja", "generation_config.json", "processor_config.json", "tokenizer.json",
          "tokenizer_config.json")  # fmt: skip
"""Files that the result shares with its backbone."""


def measures(
    model: Any, bank: StreamBank, writer: Writer, remember: Policy
) -> dict[str, Callable[[], dict[str, float]]]:
    """Name -> measurement on validation clips."""
    keep = KeepAll()

    def of(policy: Policy, **options: Any) -> Callable[[], dict[str, float]]:
        return partial(stream_accuracies, model, bank, writer, policy, **options)

    return {
        "clip, all tokens": of(keep, budget="all"),
        "clip, 25 %": of(keep),
        "54 s ago, everything": of(keep, after=9),
        "54 s ago, memory": of(remember, after=9),
        "54 s ago, memory, parts 12 s apart": of(remember, after=9, gap=2),
        "54 s ago, memory, sounds": of(remember, after=9, kind="sounds"),
        "54 s ago, memory, shapes": of(remember, after=9, kind="shapes"),
        "new after 54 s, memory": of(remember, before=9),
    }


def build(
    name: str,
    out: Path,
    settings: LongSettings,
    clips: tuple[int, int],
    checked: tuple[int, int] = CHECKED,
    log_every: int = 100,
) -> None:
    """Train a backbone and write its folder.

    Args:
        name: one of `SETTINGS_OF`.
        out: working folder.
        settings: the numbers of the run.
        clips: training scenes, and clips of each kind of filler.
        checked: the same of the validation.
        log_every: steps between two lines of the log.
    """
    out.mkdir(parents=True, exist_ok=True)
    begin, source = time.monotonic(), bundled_path(name)
    model, tokenizer = load_thinker(source), load_host(str(source), "cpu", None, None).processor.tokenizer
    writer, setting = Writer(tokenizer), SETTINGS_OF[name]
    spread = [(1, 2, 1, 3, 2, 4)[i % 6] for i in range(clips[0])]
    with torch.no_grad():
        bank = StreamBank.build(model, tokenizer, "train", setting, spread, clips[1])
        twice = [1 + i % 2 for i in range(checked[0])]
        check = StreamBank.build(model, tokenizer, "validation", setting, twice, checked[1])
    logger.info("bank ready after %.1f min", (time.monotonic() - begin) / 60)
    found = measures(model, check, writer, MEMORIES[name])
    before = {what: measure() for what, measure in found.items()}
    for what, result in before.items():
        logger.info("untouched, %s: %s", what, " ".join(f"{k}={100 * v:.0f}" for k, v in result.items()))
    types = {**(TYPE_WEIGHTS if setting == "base" else WIDE_WEIGHTS), "order": 0.2}
    train_on_streams(model, bank, writer, settings, types, found, out, log_every)
    after = {what: measure() for what, measure in found.items()}
    folder = out / "checkpoint"
    model.requires_grad_(True).eval().to(torch.bfloat16).save_pretrained(folder)
    for file in COPIED:
        shutil.copyfile(source / file, folder / file)
    recipe = {
        "made_by": f"python -m omnisift.lab.nano_long --model {name} --seed {settings.seed}",
        **recipe_provenance(),
        "from": name,
        "settings": settings.as_dict(),
        "clips": {"scenes": clips[0], "fillers_of_a_kind": clips[1]},
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "measured": {"before": _rounded(before), "after": _rounded(after)},
    }
    write_atomic(folder / "recipe.json", json.dumps(recipe, indent=1) + "\n")


def _rounded(results: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {what: {k: round(v, 4) for k, v in result.items()} for what, result in results.items()}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m omnisift.lab.nano_long", description=__doc__)
    parser.add_argument("--model", choices=tuple(SETTINGS_OF), default="nano", help="the backbone to start from")
    parser.add_argument("--out", type=Path, help="working folder (default: build/nano-long or build/wide-long)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="optimizer steps, instead of those of the backbone")
    parser.add_argument("--small", action="store_true", help="run everything in seconds; learns nothing")
    parser.add_argument("--bundle", action="store_true", help="copy the result into the package")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    out = options.out or Path("build") / f"{options.model}-long"
    run = RUNS[options.model]
    settings = replace(run, steps=options.steps or run.steps, seed=options.seed)
    if options.small:
        small = LongSettings(steps=2, streams=2, questions=3, clips=3)
        build(options.model, out, small, (6, 16), (4, 16), log_every=1)
    else:
        build(options.model, out, settings, CLIPS[options.model])
    if options.bundle:
        target = Path(__file__).resolve().parents[1] / "checkpoints" / f"{options.model}-long"
        shutil.copytree(out / "checkpoint", target, dirs_exist_ok=True)
        logger.info("bundled: %s", target)


if __name__ == "__main__":
    main()
