"""Time and memory of the stages of a question, with the faster paths of `Pipeline.ask` switched off and on.

Two models answer about clips of noise: nano, and `deep`, which has random weights and the dimensions of Qwen2.5-Omni-7B
with its widths divided by 8. "Before" is the preparation by Transformers' processor, logits of all positions, one
attention call per window, and the clip encoded at once. "Half" is "after" with `retain_encoded=0.5`. Runs alternate, so
that other load affects all. Prints one table, and another one of a second question about the clip, for which the clip
holds the encoders' output alone, or also its prompt's cache.

    python benchmarks/speed/stages.py [--models nano deep] [--seconds 6 60] [--retain 1 0.25 0.1] [--out FILE]
                                      [--stages | --questions | --formula]      one of the tables alone

`deep` pads audio to 300 s, as 7B does. Its frames have 6 x 10 tokens by default, a fifth of those of 1080p video: at
60 s a question takes about two minutes on one core, and `--frame 13 23` five times as long.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import itertools
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from omnisift.budget import Budget
from omnisift.evaluation.tables import table
from omnisift.media import Media
from omnisift.pipeline import Pipeline, generation, load, windowed_clip
from omnisift.pipeline import prompt as prompts
from omnisift.pipeline.loading import Host
from omnisift.profiling import analytic
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config
from omnisift.utils.provenance import machine_info

STAGES = ("preparation", "encoders", "compression", "prefill", "head", "decode", "total")
WAYS = ("before", "after", "half")
DIVISOR = 8


def deep_host(depth: int | None = None) -> Host:
    """7B with an eighth of its widths and random weights, nano's words and an extractor of 300 s.

    Args:
        depth: layers of each part, for tests; None as in 7B.
    """
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration, WhisperFeatureExtractor

    nano, config = load("nano", compressor=None).host, host_config("7b")
    text, vision, audio = config.text_config, config.vision_config, config.audio_config
    for part, names in (
        (text, ("hidden_size", "intermediate_size", "vocab_size")),
        (vision, ("hidden_size", "intermediate_size", "num_heads", "out_hidden_size")),
        (audio, ("d_model", "encoder_ffn_dim", "output_dim")),
    ):
        for name in names:
            setattr(part, name, getattr(part, name) // DIVISOR)
    # Heads keep their widths: 64 in the language model, half of 7B's, and 80 in the encoders.
    text.num_attention_heads, text.num_key_value_heads, audio.encoder_attention_heads = 7, 1, 2
    text.rope_parameters = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]}
    if depth is not None:
        text.num_hidden_layers, text.layer_types = depth, ["full_attention"] * depth
        vision.depth, audio.encoder_layers, vision.fullatt_block_indexes = depth, depth, [depth - 1]
    for name in ("audio", "image", "video", "audio_start", "audio_end", "vision_start", "vision_end"):
        setattr(config, f"{name}_token_id", getattr(nano.thinker.config, f"{name}_token_id"))
    config.pad_token_id = text.pad_token_id = nano.stop_tokens["pad_token_id"]
    torch.manual_seed(0)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    thinker.generation_config.pad_token_id = config.pad_token_id
    answer_on(thinker, nano.processor)
    processor = copy.copy(nano.processor)
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=audio.num_mel_bins, chunk_length=300)
    return Host("deep", "deep", thinker, processor)


def answer_on(thinker: Any, processor: Any) -> None:
    """Let a model generate as many tokens as it may, so that all answers have the same length."""
    last = thinker.config.get_text_config().vocab_size - 1
    thinker.generation_config.eos_token_id = [last]
    thinker.generation_config.suppress_tokens = sorted({last, *processor.tokenizer.all_special_ids})


def make_clip(seconds: int, rows: int, columns: int) -> Media:
    """Noise with two frames a second, of rows x columns tokens."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (2 * seconds, 28 * rows, 28 * columns, 3), np.uint8)
    wave = 0.1 * random.standard_normal(16_000 * seconds).astype(np.float32)
    sizes = {"min_pixels": 784, "max_pixels": 784 * rows * columns, "max_frames": 2 * seconds}
    return Media.from_arrays(frames, 2.0, wave, 16_000, **sizes)


@contextmanager
def faster_paths(on: bool) -> Iterator[None]:
    """Switch the faster paths of the pipeline off, or leave them on."""
    with ExitStack() as stack:
        if not on:
            for place, name, slow in (
                (prompts, "with_patch_layout", lambda processor: processor),
                (prompts, "own_length", lambda *_: {}),
                (generation, "last_logits", lambda _: nullcontext()),
                (generation, "batched_windows", lambda _: nullcontext()),
                (windowed_clip, "window_images", lambda _: 2**31),
            ):
                stack.enter_context(patch.object(place, name, slow))
        yield


def ask(pipe: Pipeline, clip: Media, tokens: int) -> dict[str, float]:
    """Seconds of each stage of one question, and the bytes that the process grew by at its peak."""
    head, spent = pipe.host.thinker.get_output_embeddings(), list[float]()
    hooks = [
        head.register_forward_pre_hook(lambda *_: spent.append(-time.perf_counter())),
        head.register_forward_hook(lambda *_: spent.append(time.perf_counter())),
    ]
    before = reset_peak()
    seconds = pipe.ask(clip, "What happens?", max_new_tokens=tokens).report.seconds
    peak = status("VmHWM") - before
    for hook in hooks:
        hook.remove()
    first = spent[0] + spent[1]  # of the prompt
    parts = (seconds.process, seconds.encode, seconds.compress, seconds.prefill - first, first, seconds.decode)
    return {**dict(zip(STAGES, (*parts, sum(parts)), strict=True)), "peak_bytes": peak}


def reset_peak() -> int:
    """Return freed memory to the system, start a new peak of the resident size, and return the size (Linux)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return status("VmRSS")


def status(name: str) -> int:
    """A size in /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def compare(pipes: dict[str, Pipeline], clip: Media, repeats: int, tokens: int) -> dict[str, Any]:
    """Medians of each way, from runs in turns. Questions about other clips came before, so that every run counts."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in pipes}
    for number in range(repeats):
        for way in sorted(runs, reverse=number % 2 == 0):
            with faster_paths(way != "before"):
                runs[way].append(ask(pipes[way], clip, tokens))
    names = (*STAGES, "peak_bytes")
    return {way: {name: statistics.median(run[name] for run in made) for name in names} for way, made in runs.items()}


def second_question(pipe: Pipeline, clip: Media, repeats: int, tokens: int) -> dict[str, Any]:
    """Median seconds of a first question, and of a second one with the encoders' output alone and with all held."""
    runs: dict[str, list[float]] = {"first": [], "encoded": [], "held": []}
    for number in range(repeats + 1):
        for way, size in sorted({"encoded": 0, "held": 2**31}.items(), reverse=number % 2 == 0):
            encoded = pipe.encode(clip, hold_bytes=size)
            first = pipe.ask(encoded, "What happens?", max_new_tokens=tokens).report
            second = pipe.ask(encoded, "Which sound is heard?", max_new_tokens=tokens).report
            runs["first"].append(first.seconds.total)
            runs[way].append(second.seconds.total)
            sizes = {"prompt_kept": second.tokens.prompt_kept, "cached": second.cached_tokens, "bytes": 0}
            if way == "held":
                made = {**sizes, "bytes": encoded.held.nbytes}
    # The first runs are not counted.
    return {**{way: statistics.median(run[len(run) // (repeats + 1) :]) for way, run in runs.items()}, **made}


def questions_table(rows: list[dict[str, Any]]) -> str:
    """One line for each model, length and budget."""
    ways = ("first", "encoded", "held")
    titles = ("first question", "second, encoder output held", "second, prompt held")
    head = ["model", "clip", "kept", *(f"{title}, ms" for title in titles), "times faster", "tokens held", "MB held"]
    lines = []
    for row in rows:
        made = row["second_question"]
        lines.append([
            row["model"], f"{row['seconds']} s", f"{100 * row['retain']:g} %",
            *(f"{1000 * made[way]:,.0f}" for way in ways),
            f"{made['first'] / made['held']:.1f}, {made['encoded'] / made['held']:.1f}",
            f"{made['cached']:,} of {made['prompt_kept']:,}", f"{made['bytes'] / 1e6:.1f}",
        ])  # fmt: skip
    return table(head, lines)


def stages_table(rows: list[dict[str, Any]]) -> str:
    """One line for each model, length, budget and way: milliseconds and MB."""
    head = ["model", "clip", "kept", "", *(f"{stage}, ms" for stage in STAGES), "peak, MB", "times faster"]
    lines = []
    for row in rows:
        for way in (way for way in WAYS if way in row):
            made = row[way]
            ratio = "" if way == "before" else f"{row['before']['total'] / made['total']:.2f}"
            times = [f"{1000 * made[stage]:,.0f}" for stage in STAGES]
            name = [row["model"], f"{row['seconds']} s", f"{100 * row['retain']:g} %", way]
            lines.append([*name, *times, f"{made['peak_bytes'] / 1e6:,.0f}", ratio])
    return table(head, lines)


def formula_rows() -> list[list[str]]:
    """TFLOP of the stages of a question to 7B, by the library's formulas, for 1080p clips scaled as `ask` does."""
    config, lines = host_config("7b"), list[list[str]]()
    for seconds in (60, 600):
        shape = prompt_shape(seconds, max_frames=2 * seconds)
        full, *cut = analytic.count(config, shape, [Budget(retain=0.25), Budget(retain=0.1)])
        for counted, share in zip([full, *cut], (1.0, 0.25, 0.1), strict=True):
            video, audio = (counted.stages[name].total / 1e12 for name in ("encode_video", "encode_audio"))
            prefill, compression = counted.stages["prefill"].total / 1e12, counted.stages["compress"].total / 1e12
            head = 2 * counted.prompt * config.text_config.hidden_size * config.text_config.vocab_size / 1e12
            before = video + audio + compression + prefill + head
            for way in WAYS[: 2 if share == 1 else 3]:
                # Attention within a frame of half the tokens costs half or less.
                parts = [video / 2 if way == "half" else video, audio, compression, prefill]
                parts.append(head if way == "before" else 0.0)
                total = sum(parts)
                name = ["7B", f"{seconds} s", f"{100 * share:g} %", f"{counted.prompt:,}", way]
                lines.append([*name, *(f"{part:,.2f}" for part in (*parts, total)), f"{before / total:.2f}"])
    return lines


def formula_table() -> str:
    """One line for each length, budget and way: TFLOP."""
    stages = ("vision encoder", "audio encoder", "compression", "prefill", "head of all positions", "total")
    head = ["model", "clip", "kept", "tokens", "", *(f"{stage}, TFLOP" for stage in stages), "times less work"]
    return table(head, formula_rows())


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=("nano", "deep"), default=["nano", "deep"])
    parser.add_argument("--seconds", nargs="+", type=int, default=[6, 60])
    parser.add_argument("--retain", nargs="+", type=float, default=[1.0, 0.25, 0.1])
    parser.add_argument(
        "--frame", nargs=2, type=int, default=[6, 10], metavar=("ROWS", "COLUMNS"), help="of deep, in tokens"
    )
    parser.add_argument(
        "--repeats", type=int, nargs="+", default=[3], help="runs of each, for every model and length, or for all"
    )
    parser.add_argument("--tokens", type=int, default=8, help="most tokens of an answer")
    tables = parser.add_mutually_exclusive_group()
    tables.add_argument("--questions", action="store_true", help="measure second questions alone")
    tables.add_argument("--stages", action="store_true", help="leave out second questions")
    tables.add_argument("--formula", action="store_true", help="print the operations of 7B by formula alone")
    parser.add_argument("--depth", type=int, help="layers of deep, instead of those of 7B")
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    if options.formula:
        print(formula_table())
        return
    torch.set_num_threads(1)
    rows = list[dict[str, Any]]()
    repeats = itertools.cycle(options.repeats)
    for model in options.models:
        host = deep_host(options.depth) if model == "deep" else load("nano", compressor=None).host
        answer_on(host.thinker, host.processor)
        full, frame = Pipeline(host, None), options.frame if model == "deep" else (4, 4)
        ask(full, make_clip(4, *frame), options.tokens)
        for seconds in options.seconds:
            clip, times = make_clip(seconds, *frame), next(repeats)
            for retain in options.retain:
                pipe = full if retain == 1 else full.with_compressor("resift", retain=retain)
                pipes = dict.fromkeys(WAYS[:2], pipe)
                if retain < 1:
                    pipes["half"] = full.with_compressor("resift", retain=retain, retain_encoded=0.5)
                made = {} if options.questions else compare(pipes, clip, times, options.tokens)
                if not options.stages:
                    made["second_question"] = second_question(pipe, clip, times, options.tokens)
                rows.append({"model": model, "seconds": seconds, "retain": retain, "frame": list(frame), **made})
    if not options.questions:
        print(stages_table(rows), end="\n\n")
    if not options.stages:
        print(questions_table(rows))
    if options.out is not None:
        settings = {"repeats": options.repeats, "tokens": options.tokens, "depth": options.depth}
        result = {"bench": "stages", **settings, "rows": rows, **machine_info("torch", "transformers")}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
