"""Memory and time of a question about a clip of 1, 10 and 60 minutes, each in a process of its own, with nano.

Every clip is a generated file (320 x 180, four frames and a tone of changing pitch per second), of which two images per
second are read. The memory is the peak of the process above what it has with the model loaded and used once.

    python benchmarks/speed/long_clips.py [--minutes 1 10 60] [--compressors resift:causal=true stvp auto]
                                          [--tokens 4096] [--max-frames 7200] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from omnisift import load
from omnisift.evaluation.tables import table
from omnisift.utils.provenance import machine_info
from omnisift.world import make_scene, write_clip

WIDTH, HEIGHT, RATE, SAMPLE_RATE = 320, 180, 4, 16_000
QUESTION = "What colour is the circle?"


def write_long_clip(path: Path, seconds: int) -> None:
    """Write a file with a square that moves over a changing background, and a tone that changes every second."""
    ys, xs = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for second in range(seconds):
            for step in range(RATE):
                moment = second + step / RATE
                image = np.stack([(xs + 7 * moment) % 256, (ys + 3 * moment) % 256, 0 * xs + 90], axis=2)
                x, y = int(40 * moment) % (WIDTH - 50), int(11 * moment) % (HEIGHT - 50)
                image[y : y + 50, x : x + 50] = [(37 * second) % 256, 200, (91 * second) % 256]
                frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
                container.mux(video.encode(frame))
            phase = 2 * np.pi * (200 + 50 * (second % 9)) * np.arange(SAMPLE_RATE) / SAMPLE_RATE
            sound = av.AudioFrame.from_ndarray((8000 * np.sin(phase)).astype(np.int16)[None], layout="mono")
            sound.sample_rate = SAMPLE_RATE
            container.mux(audio.encode(sound))
        for stream in (video, audio):
            container.mux(stream.encode(None))


def measure(clip: str, compressor: str, tokens: int, max_frames: int) -> dict[str, Any]:
    """Ask in this process, and return its peak memory above the loaded model."""
    pipe = load("nano", compressor=compressor, tokens=tokens, max_length=4 * tokens)
    with tempfile.TemporaryDirectory() as folder:
        # The first question loads libraries.
        small = write_clip(make_scene(1), Path(folder) / "small.mp4") or Path(folder) / "small.mp4"
        pipe.ask(small, QUESTION)
    Path("/proc/self/clear_refs").write_text("5")  # a new peak starts
    loaded = status("VmRSS")
    begin = time.perf_counter()
    report = pipe.ask(clip, QUESTION, max_frames=max_frames, max_new_tokens=4).report
    return {
        "compressor": report.compressor,
        "images": report.source.images,
        "tokens": report.tokens.video + report.tokens.audio,
        "kept": report.tokens.video_kept + report.tokens.audio_kept,
        "peak_mib": (status("VmHWM") - loaded) / 2**20,
        "seconds": time.perf_counter() - begin,
        "stages": {name: round(value, 3) for name, value in vars(report.seconds).items()},
    }


def status(name: str) -> int:
    """Bytes of an entry of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def memory_table(rows: list[dict[str, Any]]) -> str:
    """One line for each method and length."""
    head = ["method", "minutes", "images", "tokens", "kept", "peak, MiB", "seconds"]
    lines = []
    for row in sorted(rows, key=lambda row: (row["asked"], row["minutes"])):
        name = row["asked"] if row["asked"] != "auto" else f"default: {row['compressor']}"
        counts = (f"{row[key]:,}" for key in ("images", "tokens", "kept"))
        lines.append([name, f"{row['minutes']:g}", *counts, f"{row['peak_mib']:.0f}", f"{row['seconds']:.1f}"])
    return table(head, lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    parser.add_argument("--compressors", nargs="+", default=["resift:causal=true", "stvp", "auto"])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--max-frames", type=int, default=7200)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.tokens, args.max_frames)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in args.minutes:
            clip = Path(folder) / f"{minutes:g}.mp4"
            write_long_clip(clip, round(60 * minutes))
            for compressor in args.compressors:
                call = [sys.executable, __file__, "--one", str(clip), compressor]
                call += ["--tokens", str(args.tokens), "--max-frames", str(args.max_frames)]
                done = subprocess.run(call, check=True, capture_output=True, text=True)
                rows.append({"minutes": minutes, "asked": compressor, **json.loads(done.stdout)})
                print(json.dumps(rows[-1]), file=sys.stderr)
    print(memory_table(rows))
    if args.out:
        result = {"bench": "long_clips", "rows": rows, **machine_info("torch", "transformers", "av")}
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
