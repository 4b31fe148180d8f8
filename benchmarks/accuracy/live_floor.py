"""What a live stream changes: the floor of its spectrogram follows the largest value so far, not that of the clip.

For each clip: cells of the spectrogram that differ, the tokens that are kept otherwise, and the logits of a question.

    python benchmarks/accuracy/live_floor.py CLIP... --out benchmarks/results/live_floor.json
    python benchmarks/accuracy/live_floor.py --table benchmarks/results/live_floor.json    # as in docs/streaming.md

Without clips, eight of nano's world are made, of 24 seconds each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import omnisift
from omnisift.media import SAMPLE_RATE, Media
from omnisift.pipeline.clip_sources import DecodedSource
from omnisift.pipeline.spectrogram import limited
from omnisift.utils.provenance import machine_info
from omnisift.world import SceneConfig, make_scene, write_clip

QUESTION = "What is heard?"
UNIT_FRAMES = 200
PIECE = 4000


def pieces(media: Media) -> Iterator[omnisift.Piece]:
    """Images and samples in the order of their times."""
    assert media.images is not None
    assert media.waveform is not None
    found = [omnisift.Piece(k / media.fps, image=image) for k, image in enumerate(media.images)]
    begins = range(0, len(media.waveform), PIECE)
    found += [omnisift.Piece(begin / SAMPLE_RATE, samples=media.waveform[begin : begin + PIECE]) for begin in begins]
    yield from sorted(found, key=lambda piece: piece.time)


def stream(pipe: omnisift.Pipeline, media: Media, peak: float | None) -> tuple[set[tuple[int, ...]], torch.Tensor, str]:
    """Positions of the kept tokens, logits of the first token of an answer, and the answer."""
    logits, positions = list[torch.Tensor](), list[torch.Tensor]()
    language_model = omnisift.adapter_for(pipe.host.thinker).parts.language_model
    reading = language_model.register_forward_hook(
        lambda _m, _a, given, _out: positions.append(given["position_ids"][-3:, 0]), with_kwargs=True
    )
    with pipe.stream(keep=omnisift.KeepAll(), peak=peak) as session:
        for piece in pieces(media):
            session.feed(piece)
        hook = pipe.host.thinker.register_forward_hook(lambda _m, _a, out: logits.append(out.logits[0, -1].clone()))
        answer = session.ask(QUESTION, max_new_tokens=4)
        hook.remove()
    reading.remove()
    kept = torch.cat(positions, dim=1).T.tolist()
    return {tuple(position) for position in kept}, logits[0], answer.text


def compare(pipe: omnisift.Pipeline, path: Path) -> dict[str, Any]:
    """One row."""
    media = pipe.read(path)
    source = DecodedSource(media, pipe.host.processor)
    frames = source.spectrum
    assert frames is not None
    largest = frames.amax(dim=0).cummax(dim=0).values[UNIT_FRAMES - 1 :: UNIT_FRAMES]
    units = frames.split(UNIT_FRAMES, dim=1)
    peaks = [*largest.tolist(), source.peak][: len(units)]
    live = torch.cat([limited(part, peak) for part, peak in zip(units, peaks, strict=True)], dim=1)
    difference = (live - limited(frames, source.peak)).abs()
    exact, running = stream(pipe, media, source.peak), stream(pipe, media, None)
    return {
        "clip": path.stem,
        "seconds": media.seconds,
        "cells_at_floor": float((frames <= source.peak - 8).float().mean()),
        "cells_changed": float((difference > 0).float().mean()),
        "mean_change": float(difference.mean()),
        "largest_change": float(difference.max()),
        "same_tokens": len(exact[0] & running[0]) / len(exact[0]),
        "logits_change": float((exact[1] - running[1]).abs().max()),
        "same_answer": exact[2] == running[2],
    }


def table(results: dict[str, Any]) -> str:
    """The table of docs/streaming.md."""
    head = "| clip | seconds | cells at the floor | changed | mean change | largest | same tokens | logits differ by |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {row['clip']} | {row['seconds']:.0f} | {row['cells_at_floor']:.1%} | {row['cells_changed']:.1%} | "
        f"{row['mean_change']:.4f} | {row['largest_change']:.2f} | {row['same_tokens']:.1%} | "
        f"{row['logits_change']:.4f} |"
        for row in results["rows"]
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="*")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--table", type=Path)
    options = parser.parse_args(arguments)
    if options.table is not None:
        print(table(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    torch.set_num_threads(1)
    pipe = omnisift.load("nano")
    with tempfile.TemporaryDirectory() as folder:
        clips: list[Path] = options.clips
        if not clips:
            clips = [Path(folder, f"world {seed}.mp4") for seed in range(8)]
            for seed, path in enumerate(clips):
                write_clip(make_scene(seed, "test", SceneConfig(seconds=24)), path)
        rows = [compare(pipe, path) for path in clips]
    text = json.dumps({**machine_info("transformers", "av"), "rows": rows}, indent=1)
    if options.out is None:
        print(text)
    else:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
