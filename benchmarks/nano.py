"""Accuracy of nano on generated test clips, through decoded .mp4 files: `make bench-nano`.

Each clip is written as .mp4, read back by `omnisift.media`, prepared by the processor, and asked one question of each
type with all tokens and with every method at every budget, through the thinker with `omnisift.attach`. An answer is
right if the most likely first word of the whole vocabulary is the right one.

Finished clips are written to a journal, one JSON line each, so that an interrupted run resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.budget import Budget
from omnisift.compressors import Compressor, make_compressor
from omnisift.errors import OmniSiftError
from omnisift.lab.benchmark.evidence import count_kept, masks
from omnisift.lab.benchmark.journal import Journal
from omnisift.lab.benchmark.prompts import answer, prepare, write
from omnisift.lab.benchmark.shuffled_video_control import ShuffledVideoControl
from omnisift.lab.benchmark.summary import (
    FULL,
    accuracy_table,
    caption_table,
    comparison_table,
    evidence_table,
    key,
    summarise,
)
from omnisift.media import Media, read
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.utils.assets import nano_path
from omnisift.utils.provenance import provenance
from omnisift.vgas import VGAS
from omnisift.world import CAPTION_REQUESTS, Scene, caption, make_scene, questions, truth, write_clip

SPLIT = "test"
QUESTION_STREAM = 11
"""First number of the generator that draws a clip's questions; the second is the scene's number."""
BASELINES = ("random", "uniform")
DONORS = 32
"""Clips of another split, whose video the control uses."""
CAPTION_BATCH, CAPTION_LONGEST = 16, 36


@dataclass
class MethodRun:
    """One row of the table: a compressor, or None for all tokens."""

    name: str
    host: Host
    compressor: Compressor | None
    writes: bool = False
    """Whether it also writes captions, which are slow."""


@dataclass
class Bench:
    """Model, methods and clips of a run."""

    host: Host
    methods: list[MethodRun]
    donors: list[torch.Tensor] = field(default_factory=list)
    folder: Path = Path()
    keep_clips: bool = False

    def media(self, scene: Scene) -> Media:
        """Return the clip after encoding, decoding and resizing for the processor."""
        path = self.folder / f"{scene.split}-{scene.seed}.mp4"
        if not path.exists():
            part = path.with_suffix(".part")
            write_clip(scene, part)
            part.rename(path)
        size = self.host.processor.video_processor.size
        media = read(path, min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
        if not self.keep_clips:
            path.unlink()
        return media

    def record(self, scene: Scene, media: Media) -> dict[str, Any]:
        """Answer all questions on one clip with every method."""
        facts = truth(scene)
        asked = questions(scene, np.random.default_rng((QUESTION_STREAM, scene.number)))
        prompts = {}
        answers, kept = {}, {}
        for entry in self.methods:
            host = entry.host
            if host.source not in prompts:
                prompts[host.source] = prepare(host.thinker, host.processor, media, [q.text for q in asked])
            _set_up(entry, scene, self.donors)
            logits, compression = answer(host.thinker, prompts[host.source], entry.compressor)
            answers[entry.name] = [
                host.processor.tokenizer.decode([token]).strip() for token in logits.argmax(-1).tolist()
            ]
            if compression is not None:
                kept[entry.name] = count_kept(facts, asked, *masks(compression)).as_dict()
        right = [q.answer for q in asked]
        return {"seed": scene.seed, "truth": right, "answers": answers, "kept": kept}

    def captions(self, scenes: list[Scene], media: list[Media]) -> list[dict[str, str]]:
        """Return the captions by method for each scene; all scenes are one batch."""
        requests = [CAPTION_REQUESTS[scene.seed % len(CAPTION_REQUESTS)] for scene in scenes]
        asks = list(zip(media, requests, strict=True))
        written: list[dict[str, str]] = [{} for _ in scenes]
        for entry in self.methods:
            if not entry.writes:
                continue
            _set_up(entry, scenes[0], self.donors)
            texts = write(entry.host.thinker, entry.host.processor, asks, entry.compressor, CAPTION_LONGEST)
            for result, text in zip(written, texts, strict=True):
                result[entry.name] = text
        return written


def _set_up(entry: MethodRun, scene: Scene, donors: list[torch.Tensor]) -> None:
    """Set what differs between clips: the seed of the random method, and the donor of the control."""
    inner = entry.compressor.inner if isinstance(entry.compressor, ShuffledVideoControl) else entry.compressor
    if inner is not None and inner.name == "random":
        inner.seed = scene.seed
    if isinstance(entry.compressor, ShuffledVideoControl):
        entry.compressor.donor = donors[scene.seed % len(donors)]


def build(arguments: argparse.Namespace, folder: Path) -> Bench:
    """Load the model, its selector and all methods."""
    host = load_host(arguments.model, "cpu", None, None)
    bench = Bench(
        host, [MethodRun(FULL, host, None, writes=True)], folder=folder, keep_clips=arguments.clip_folder is not None
    )
    selector = load_selector(host, arguments.selector)
    others = [_variant(name, folder, host) for name, folder in variants(arguments).items()]
    for retain in arguments.retain:
        budget = Budget(retain_video=retain, retain_audio=retain)
        ours = make_compressor("omnisift", budget, selector=selector)
        bench.methods.append(MethodRun(key(_timed("omnisift", selector), retain), host, ours, writes=True))
        bench.methods += [
            MethodRun(key(name, retain), host, make_compressor(name, budget), writes=name == "random")
            for name in BASELINES
        ]
        if retain not in arguments.retain_controls:
            continue
        for name, own, other in others:
            method = make_compressor("omnisift", budget, selector=other)
            bench.methods.append(MethodRun(key(name, retain), own, method))
        blind = ShuffledVideoControl(ours, torch.empty(0, 0))
        bench.methods.append(MethodRun(key(_timed("video-blind", selector), retain), host, blind))
    for entry in bench.methods:
        if entry.compressor is not None:
            entry.compressor.eval()
    bench.donors = list(_donors(bench))
    return bench


def _timed(name: str, selector: VGAS) -> str:
    """The name of a row, with ``+time`` if its selector has a time embedding, which the paper's has not."""
    return f"{name}+time" if selector.config.time_embedding else name


def _variant(name: str, folder: Path, host: Host) -> tuple[str, Host, VGAS]:
    """Load ``folder``: a selector for the same model, or a model folder with a ``selector``."""
    is_model = json.loads((folder / "config.json").read_text()).get("model_type") == "qwen2_5_omni_thinker"
    own = load_host(str(folder), "cpu", None, None) if is_model else host
    selector = load_selector(own, None if is_model else folder)
    return _timed(name, selector), own, selector


def variants(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return name -> folder: the paper's layout where the checkpoint has it, and those given as ``NAME=FOLDER``."""
    exact = _source(arguments) / "selector-exact"
    result = {"omnisift": exact} if exact.is_dir() and arguments.selector is None else {}
    pairs = [text.partition("=") for text in arguments.variant]
    return result | {name: Path(folder) for name, _, folder in pairs}


def _source(arguments: argparse.Namespace) -> Path:
    return Path(nano_path() if arguments.model == "nano" else arguments.model)


def _donors(bench: Bench) -> Iterator[torch.Tensor]:
    """[video tokens, D] of clips from the validation split."""
    host = bench.host
    video = host.thinker.config.video_token_id
    for seed in range(DONORS):
        prompts = prepare(host.thinker, host.processor, bench.media(make_scene(seed, "validation")), ["?"])
        yield prompts.clip_embeds[0][prompts.clip_ids[0] == video]


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what all records of one result have in common."""
    source = _source(arguments)
    selector = Path(arguments.selector) if arguments.selector else source / "selector"
    return {
        "split": SPLIT,
        "world": make_scene(0, SPLIT).fingerprint(),
        "model": _digest(source),
        "selector": _digest(selector),
        "variants": {name: _digest(folder) for name, folder in variants(arguments).items()},
        "retain": arguments.retain,
        "retain_controls": arguments.retain_controls,
        "captions": arguments.captions,
        "question_stream": QUESTION_STREAM,
    }


def _digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's tensors and of the selector inside it."""
    result = sorted(folder.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in result)).hexdigest()


def run(bench: Bench, journal: Journal, missing: list[int], captions: int) -> None:
    """Measure the ``missing`` clips; captions are written in batches after the questions of their clips."""
    begin = time.perf_counter()
    done = 0
    for group in _groups(missing, captions):
        scenes = [make_scene(seed, SPLIT) for seed in group]
        media = [bench.media(scene) for scene in scenes]
        records = [bench.record(*pair) for pair in zip(scenes, media, strict=True)]
        if group[0] < captions:
            for record, texts in zip(records, bench.captions(scenes, media), strict=True):
                record["captions"] = texts
        for record in records:
            journal.add(record)
        done += len(group)
        _progress(done, len(missing), begin)


def _groups(seeds: list[int], captions: int) -> Iterator[list[int]]:
    """Batches of clips, either all with captions or all without."""
    for part in ([s for s in seeds if s < captions], [s for s in seeds if s >= captions]):
        for start in range(0, len(part), CAPTION_BATCH):
            yield part[start : start + CAPTION_BATCH]


def _progress(done: int, total: int, begin: float) -> None:
    """Print a progress bar in a terminal, or a line from time to time in a log."""
    terminal = sys.stderr.isatty()
    if terminal or done == total or done <= CAPTION_BATCH or done % (5 * CAPTION_BATCH) == 0:
        left = (time.perf_counter() - begin) / done * (total - done) / 60
        bar = "#" * (30 * done // total)
        end = "\r" if terminal and done < total else "\n"
        print(f"[{bar:<30}] {done}/{total} clips, {left:.1f} min left", end=end, file=sys.stderr, flush=True)


def report(journal: Journal, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result: settings, environment and rows."""
    records = [journal.records[seed] for seed in sorted(journal.records) if seed < arguments.clips]
    return {
        "benchmark": "nano",
        "clips": len(records),
        "questions": 8 * len(records),
        "settings": settings(arguments),
        "environment": {**provenance(), "threads": torch.get_num_threads()},
        "examples": [_example(record) for record in records[:3] if record.get("captions")],
        "rows": summarise(records, SPLIT),
    }


def _example(record: dict[str, Any]) -> dict[str, Any]:
    return {"seed": record["seed"], "true_caption": caption(make_scene(record["seed"], SPLIT)), **record["captions"]}


ROWS_NOTE = """- `full`: all tokens.
- `random`, `uniform`: the same number of tokens from each frame and chunk, without weights.
- `omnisift+time`: the bundled selector. It has the time embedding, an addition to the paper's layout; the language
  model was fine-tuned with it under compression.
- `omnisift`: the paper's selector layout, trained by the same procedure, with the same language model.
- `video-blind`: the bundled selector, with audio selected by the video of another clip.

An answer is right if the most likely first word of the whole vocabulary is right.
"""
ACCURACY_NOTE = """Intervals are 95 %, bootstrapped over clips. Chance is 1/6 for colours, 1/4 for forms and places, 1/2
for heard, 1/8 for sounds and 1/3 for count.
"""
PAIRED_NOTE = """`p by clips` assumes only that clips are independent and is the one to quote; McNemar's exact test
assumes that all questions are.
"""
EVIDENCE_NOTE = """An event counts as kept if at least one of its tokens is kept, which may be too little for an
answer. Tied sounds belong to a shape, distractors do not.
"""
CAPTION_NOTE = "An event is right if its colour, form and sound are right.\n"


def markdown(result: dict[str, Any], note: str) -> str:
    """Return docs/nano-results.md."""
    rows, where = result["rows"], result["environment"]
    head = f"""# nano: what compression costs

Written by `make bench-nano` on {where["date"]}, commit {where["commit"][:10]}, torch {where["torch"]}, transformers
{where["transformers"]}, av {where["av"]}, {where["threads"]} thread. {result["clips"]} test clips with one question of
each type ({result["questions"]} questions), every clip read from an .mp4 file. Rows are named `method@percent
kept`: the same percentage of video and of audio tokens; the measured percentages are in the table.
"""
    parts = [head, ROWS_NOTE, note]
    parts += ["## Accuracy (%)\n", accuracy_table(rows), ACCURACY_NOTE]
    parts += ["## Paired differences (points)\n", comparison_table(rows), PAIRED_NOTE]
    parts += ["## Evidence kept (%)\n", evidence_table(rows), EVIDENCE_NOTE]
    captions = caption_table(rows)
    if captions:
        clips = next(row["captions"]["clips"] for row in rows if "captions" in row)
        parts += [f"## Captions (% of events, {clips} clips)\n", captions, CAPTION_NOTE]
    return "\n".join(part for part in parts if part)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = Path(__file__).resolve().parent
    parser.add_argument("--model", default="nano", help="nano, or a checkpoint folder")
    parser.add_argument("--selector", default=None, help="selector folder; the model's own if not given")
    parser.add_argument("--variant", action="append", default=[], help="NAME=FOLDER: an additional row for each budget")
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--captions", type=int, default=160, help="number of clips with a caption")
    parser.add_argument("--retain", type=float, nargs="+", default=[0.35, 0.25, 0.15])
    parser.add_argument("--share", default="0/1", help="I/N: measure only every N-th clip from I on, without a report")
    parser.add_argument(
        "--clip-folder", type=Path, default=None, help="folder in which the .mp4 files are kept for later runs"
    )
    parser.add_argument(
        "--retain-controls", type=float, nargs="*", default=[0.25, 0.15], help="budgets of variants and of the control"
    )
    parser.add_argument("--journal", type=Path, default=here.parent / "runs" / "bench-nano.jsonl")
    parser.add_argument("--out", type=Path, default=here / "results" / "nano.json")
    parser.add_argument("--table", type=Path, default=here.parent / "docs" / "nano-results.md")
    parser.add_argument("--note", type=Path, default=None, help="Markdown file to insert before the tables")
    return parser.parse_args(arguments)


def main() -> int:
    """Run or resume, then write the result and the tables."""
    arguments = parse()
    torch.set_num_threads(1)
    try:
        journal = Journal(arguments.journal, settings(arguments))
        index, shares = (int(part) for part in arguments.share.split("/"))
        missing = [seed for seed in range(index, arguments.clips, shares) if seed not in journal.records]
        if missing:
            with tempfile.TemporaryDirectory() as folder:
                bench = build(arguments, arguments.clip_folder or Path(folder))
                run(bench, journal, missing, arguments.captions)
    except OmniSiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if shares > 1:
        return 0
    result = report(journal, arguments)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    note = arguments.note.read_text(encoding="utf-8") if arguments.note else ""
    arguments.table.write_text(markdown(result, note), encoding="utf-8")
    summary = {row["row"]: round(row["mean"]["value"], 4) for row in result["rows"]}
    print(json.dumps({"benchmark": "nano", "clips": result["clips"], "mean_accuracy": summary}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
