"""Time and memory of the omnisift compressor on one CPU thread, as one JSON line (``--out`` also writes it to a file).

Three functions alternate in one process and are compared by their medians: the compressor, the plain loop of
``tests/helpers/oracle.py``, and the irreducible work: the two projections (kept video tokens, all audio tokens, one
matrix product each) and one pass over all embeddings (their sum). Peak memory is what torch's allocator holds besides
the stream. ``ms_per_minute`` is the time per minute of video for clips of up to an hour, at a smaller width.
``--methods`` names other methods that need no weights; they run in turn with the irreducible work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.helpers.oracle import reference  # noqa: E402

from omnisift.budget import Budget, from_rho  # noqa: E402
from omnisift.chunks import build_stream  # noqa: E402
from omnisift.compressors import make_compressor  # noqa: E402
from omnisift.compressors.omnisift import OmniSiftCompressor  # noqa: E402
from omnisift.tokens import TokenStream  # noqa: E402
from omnisift.utils.provenance import machine_info  # noqa: E402
from omnisift.vgas import VGAS, VGASConfig  # noqa: E402

RHO_VIDEO, RHO_AUDIO = 0.77, 0.5
METHODS = [
    "resift",
    "resift:merge=false",
    "resift:causal=true",
    "v_cast",
    "vidcom2",
    "gleanvid",
    "divprune",
    "v_cast+divprune",
]
ROWS, COLUMNS, PER_SECOND = 12, 12, 25
PER_FRAME = ROWS * COLUMNS


def make_stream(seconds: int, width: int) -> TokenStream:
    """Return a clip in the order of Qwen2.5-Omni: per two seconds 288 video tokens, then 50 audio tokens."""
    modality: list[int] = []
    temporal: list[int] = []
    for start in range(0, seconds, 2):
        for second in (start, start + 1):
            modality += [1] * PER_FRAME
            temporal += [second * PER_SECOND] * PER_FRAME
        modality += [2] * (2 * PER_SECOND)
        temporal += range(start * PER_SECOND, (start + 2) * PER_SECOND)
    generator = torch.Generator().manual_seed(seconds)
    embeds = torch.randn(len(modality), width, generator=generator)
    position = torch.tensor(temporal).repeat(3, 1)
    video = torch.tensor(modality) == 1
    place = torch.arange(int(video.sum())) % PER_FRAME
    position[1, video], position[2, video] = place // COLUMNS, place % COLUMNS
    return build_stream(embeds, torch.tensor(modality, dtype=torch.int8), position, torch.zeros(len(modality)), 0.04)


def irreducible(stream: TokenStream, selector: VGAS, kept: torch.Tensor, audio: torch.Tensor) -> None:
    """Do the work that every implementation of the method needs."""
    stream.embeds.sum()
    F.linear(kept, selector.v_proj.weight, selector.v_proj.bias)
    F.linear(audio, selector.a_proj.weight, selector.a_proj.bias)


def time_in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each function; runs alternate, so that other load affects all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for warm_up in functions.values():
        warm_up()
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_extra_bytes(function: Callable[[], object]) -> int:
    """Return the maximum sum of live allocations made in ``function``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        function()
    live = highest = 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            live += event.nbytes()
            highest = max(highest, live)
    return highest


def main_case(width: int, rounds: int) -> dict[str, float]:
    stream = make_stream(60, width)
    torch.manual_seed(0)
    selector = VGAS(VGASConfig(input_size=width)).eval()
    ours = OmniSiftCompressor(from_rho(RHO_VIDEO, RHO_AUDIO), selector).eval()
    keep = ours(stream).keep
    kept, audio = stream.embeds[keep & (stream.modality == 1)], stream.embeds[stream.modality == 2]
    loop = lambda: reference(  # noqa: E731
        stream.embeds, stream.modality, stream.position[0], stream.sample, RHO_VIDEO, RHO_AUDIO, selector
    )
    agree = float((loop().keep == keep).float().mean())
    times = time_in_turn(
        {"ours": lambda: ours(stream), "loop": loop, "irreducible": lambda: irreducible(stream, selector, kept, audio)},
        rounds,
    )
    extra = peak_extra_bytes(lambda: ours(stream))
    return {
        "tokens": len(stream),
        "kept": int(keep.sum()),
        "mask_agreement": agree,
        "ours_ms": round(times["ours"] * 1e3, 1),
        "loop_ms": round(times["loop"] * 1e3, 1),
        "irreducible_ms": round(times["irreducible"] * 1e3, 1),
        "ours_over_irreducible": round(times["ours"] / times["irreducible"], 3),
        "loop_over_ours": round(times["loop"] / times["ours"], 3),
        "peak_extra_share": round(extra / stream.embeds.nbytes, 4),
    }


def others(width: int, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return, for other methods on the clip of `main_case`, their milliseconds and their share of irreducible work."""
    stream = make_stream(60, width)
    selector = VGAS(VGASConfig(input_size=width)).eval()
    budget = Budget(retain_video=1 - RHO_VIDEO, retain_audio=1 - RHO_AUDIO)
    video, audio = (stream.embeds[stream.modality == kind] for kind in (1, 2))
    kept = video[: round(len(video) * (1 - RHO_VIDEO))]
    work: dict[str, Callable[[], object]] = {"irreducible": lambda: irreducible(stream, selector, kept, audio)}
    work |= {name: partial(make_compressor(name, budget), stream) for name in names}
    times = time_in_turn(work, rounds)
    return {
        "methods_ms": {name: round(seconds * 1e3, 1) for name, seconds in times.items()},
        "methods_over_irreducible": {
            name: round(seconds / times["irreducible"], 3) for name, seconds in times.items() if name in names
        },
    }


def growth(width: int, minutes: list[int], rounds: int) -> dict[str, float]:
    """Return milliseconds per minute of video for clips of several lengths."""
    ours = OmniSiftCompressor(
        Budget(retain_video=0.23, retain_audio=0.5), VGAS(VGASConfig(input_size=width)).eval()
    ).eval()
    streams = {str(count): make_stream(60 * count, width) for count in minutes}
    times = time_in_turn({name: partial(ours, stream) for name, stream in streams.items()}, rounds)
    return {name: round(seconds * 1e3 / int(name), 2) for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=3584)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--growth-width", type=int, default=896)
    parser.add_argument("--minutes", type=int, nargs="*", default=[1, 10, 60])
    parser.add_argument("--methods", nargs="*", default=METHODS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        line = {
            "benchmark": "compress",
            "width": options.width,
            "retain_video": round(1 - RHO_VIDEO, 12),
            "retain_audio": round(1 - RHO_AUDIO, 12),
            **main_case(options.width, options.rounds),
            **(others(options.width, options.methods, options.rounds) if options.methods else {}),
            "growth_width": options.growth_width,
            "ms_per_minute": growth(options.growth_width, options.minutes, 3),
            "threads": torch.get_num_threads(),
            **machine_info("torch", "transformers"),
        }
    text = json.dumps(line)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
