"""Throughput, time to first token and cache use of vLLM at 25 % of the tokens against all (20 minutes; resumes).

One engine as in `omnisift serve` (vLLM with the plugin, in a separate process) answers the same requests at both
retentions in turns, so both see the same machine. The model is random: nano's encoders and a language model of 8
layers and width 256, deep enough that prefill dominates and small enough for one core. Because it is narrow, attention
has a larger share of the cost of long prompts than in a full-size model, and so the gain is larger too. Every request
includes work that does not depend on retention (patches, encoders, the input processor): `floor_s` is the time to the
first token with 1 % of the tokens.

A prompt of N video and audio tokens is a clip of N / 125 seconds: 100 tokens per frame at one frame per second, and 25
audio tokens per second. Images are passed decoded, and no two requests have the same ones. Each client sends one
request at a time; a round is one request per client. Finished points are written to a journal, so that an interrupted
run resumes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
SIDE = 280
"""Pixels; a token covers 28 x 28."""
AUDIO_PER_SECOND = 25
LAYERS, WIDTH = 8, 256
ANSWER = 8
TOKENS, CLIENTS, ROUNDS = (1000, 2000, 4000, 8000, 16000), (1, 4, 16), {1: 4, 4: 2, 16: 1}
RETAINS = {"whole": 1.0, "cut": 0.25}
"""Name in the results -> retention."""
FLOOR_RETAIN = 0.01
ENGINE: dict[str, Any] = {
    "dtype": "float32", "max_model_len": 17000, "max_num_batched_tokens": 2048, "max_num_seqs": 16,
    "block_size": 32, "enforce_eager": True, "enable_prefix_caching": False, "mm_processor_cache_gb": 0,
    "limit_mm_per_prompt": {"image": 0, "video": 1, "audio": 1}, "seed": 0,
}  # fmt: skip
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "3", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING",
}  # fmt: skip


def build(folder: Path, side: int = SIDE, depth: int | None = None) -> Path:
    """Write a full model with random weights into ``folder``.

    Args:
        folder: an empty folder.
        side: images get this height and width.
        depth: layers of the vision encoder; None for nano's.
    """
    import torch
    from transformers import AutoConfig, AutoProcessor
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
    from omnisift.utils.assets import nano_path
    from omnisift.vgas import VGAS, VGASConfig

    config = AutoConfig.from_pretrained(nano_path())
    text = {
        "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "layer_types": ["full_attention"] * LAYERS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 8, 8]},
    }  # fmt: skip
    config.text_config = type(config.text_config)(**{**config.text_config.to_dict(), **text})
    config.vision_config.out_hidden_size = config.audio_config.output_dim = WIDTH
    if depth is not None:
        config.vision_config.depth, config.vision_config.fullatt_block_indexes = depth, list(range(depth))
    torch.manual_seed(0)
    Thinker(config).save_pretrained(folder / "thinker")
    processor = AutoProcessor.from_pretrained(nano_path())
    size = {"shortest_edge": side * side, "longest_edge": side * side}
    processor.image_processor.size = processor.video_processor.size = processor.tokenizer.init_kwargs["size"] = size
    processor.save_pretrained(folder / "thinker")
    selector = VGAS(VGASConfig(input_size=WIDTH, hidden_size=64, num_attention_heads=4))
    selector.save_pretrained(folder / "thinker" / "selector")
    wrap_as_full_checkpoint(folder / "thinker", folder / "model")
    return folder / "model"


@dataclass
class Clips:
    """Requests of one length. They share all images but the first, so that memory stays small."""

    tokens: int
    sent: int = 0
    side: int = SIDE

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.tokens)
        # One frame per second.
        seconds = self.tokens // ((self.side // 28) ** 2 + AUDIO_PER_SECOND)
        self.images = random.integers(0, 256, (2 * seconds, self.side, self.side, 3), np.uint8)
        self.audio = random.standard_normal(16_000 * seconds).astype(np.float32) / 10

    def next_request(self, retain: float) -> dict[str, Any]:
        """Return a request that is in no cache."""
        self.sent += 1
        images = self.images.copy()
        images[0, 0, :8] = self.sent % 251, self.sent // 251, 7
        return {
            "prompt": "<|im_start|>user\n<|vision_bos|><|VIDEO|><|vision_eos|>what shape is it ?<|im_end|>\n",
            "multi_modal_data": {"video": [(images, {"fps": 2.0, "audio": self.audio})]},
            "mm_processor_kwargs": {"retain": retain},
        }


@dataclass
class Peak:
    """The highest use of the cache since the last `take`."""

    share: float = 0.0

    def logger(self) -> type:
        """Return a class of loggers for vLLM that updates this object."""
        from vllm.v1.metrics.loggers import StatLoggerBase

        peak = self

        class Logger(StatLoggerBase):  # type: ignore[misc]
            def __init__(self, vllm_config: Any, engine_index: int = 0) -> None: ...

            def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
                if scheduler_stats is not None:
                    peak.share = max(peak.share, scheduler_stats.kv_cache_usage)

            def log_engine_initialized(self) -> None: ...

        return Logger

    def take(self) -> float:
        share, self.share = self.share, 0.0
        return share


@dataclass
class RetentionCost:
    """The cost of one retention at one point, so far."""

    wall: float = 0.0
    first: list[float] = field(default_factory=list)
    """Seconds to the first token, per request."""
    peak: float = 0.0
    prompt: int = 0

    def summary(self, blocks: int) -> dict[str, Any]:
        return {
            "requests_per_s": round(len(self.first) / self.wall, 4),
            "first_token_s": round(statistics.median(self.first), 4),
            "blocks": round(self.peak * blocks),
            "prompt_tokens": self.prompt,
            "requests": len(self.first),
        }


@dataclass
class Bench:
    """The engine and its cache use."""

    engine: Any
    peak: Peak
    requests: int = 0

    async def ask(self, clips: Clips, retain: float, cost: RetentionCost) -> None:
        """Send one request and wait for its end."""
        from vllm import SamplingParams

        self.requests += 1
        prompt = clips.next_request(retain)
        sampling = SamplingParams(temperature=0, max_tokens=ANSWER, min_tokens=ANSWER, ignore_eos=True)
        begin, first = time.perf_counter(), None
        async for output in self.engine.generate(prompt, sampling, f"request-{self.requests}"):
            first = first or time.perf_counter() - begin
            cost.prompt = len(output.prompt_token_ids)
        assert first is not None
        cost.first.append(first)

    async def round(self, clips: Clips, clients: int, retain: float, cost: RetentionCost) -> None:
        """Send one request per client, all at once."""
        self.peak.take()
        begin = time.perf_counter()
        await asyncio.gather(*(self.ask(clips, retain, cost) for _ in range(clients)))
        cost.wall += time.perf_counter() - begin
        cost.peak = max(cost.peak, self.peak.take())

    async def point(self, tokens: int, clients: int) -> dict[str, Any]:
        """Measure both retentions in turns."""
        clips, costs = Clips(tokens), {name: RetentionCost() for name in RETAINS}
        # A warm-up request of each, which is not counted.
        for retain in RETAINS.values():
            await self.round(clips, 1, retain, RetentionCost())
        for _ in range(ROUNDS[clients]):
            for name, cost in costs.items():
                await self.round(clips, clients, RETAINS[name], cost)
        blocks = self.engine.vllm_config.cache_config.num_gpu_blocks
        summaries: dict[str, Any] = {name: cost.summary(blocks) for name, cost in costs.items()}
        if clients == 1:
            await self.round(clips, 1, FLOOR_RETAIN, floor := RetentionCost())
            summaries["floor_s"] = round(floor.first[0], 4)
        return {
            "tokens": tokens, "clients": clients, **ratios(summaries["whole"], summaries["cut"]), **summaries
        }  # fmt: skip


def ratios(complete: dict[str, Any], cut: dict[str, Any]) -> dict[str, float]:
    """Return the gains at one point."""
    return {
        "times_requests": round(cut["requests_per_s"] / complete["requests_per_s"], 2),
        "times_sooner": round(complete["first_token_s"] / cut["first_token_s"], 2),
        "share_of_blocks": round(cut["blocks"] / complete["blocks"], 3),
    }


def table(result: dict[str, Any]) -> str:
    """Return the table in docs/serving.md, in Markdown."""
    head = ["tokens", "clients", "requests/s", "first token", "cache", "all tokens", "25 %"]
    lines = ["| " + " | ".join(head) + " |", "|" + " ---: |" * len(head)]
    for point in result["points"]:
        costs = [f"{point[name]['requests_per_s']:.3g}/s, {point[name]['first_token_s']:.3g} s" for name in RETAINS]
        gain = [f"{point['times_requests']:.2f} x", f"{point['times_sooner']:.2f} x sooner"]
        cells = [
            f"{point['tokens']:,}",
            str(point["clients"]),
            *gain,
            f"{100 * point['share_of_blocks']:.0f} %",
            *costs,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def start(model: Path, **changes: Any) -> Bench:
    """Start an engine in a separate process, on one thread; ``changes`` replace options of `ENGINE`."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from omnisift.serving.vllm import ARCHITECTURE

    overrides = {"architectures": [ARCHITECTURE], "omnisift": {"compressor": "omnisift", "retain": 0.25}}
    peak = Peak()
    options = AsyncEngineArgs(model=str(model), hf_overrides=overrides, **{**ENGINE, **changes})
    return Bench(AsyncLLM.from_engine_args(options, stat_loggers=[peak.logger()]), peak)


async def measure(todo: list[tuple[int, int]], journal: Any, commit: object) -> None:
    """Measure the points that are missing in the journal."""
    with tempfile.TemporaryDirectory() as folder:
        bench = start(build(Path(folder)))
        try:
            for tokens, clients in todo:
                begin = time.perf_counter()
                record = await bench.point(tokens, clients)
                record["seconds"] = round(time.perf_counter() - begin, 1)
                record |= {"load": round(os.getloadavg()[0], 2), "commit": commit}
                journal.add(record)
                print(json.dumps(record), file=sys.stderr, flush=True)
        finally:
            bench.engine.shutdown()


def settings() -> dict[str, Any]:
    """Return the settings that all points of one result share."""
    return {"ways": RETAINS, "layers": LAYERS, "width": WIDTH, "answer": ANSWER, "rounds": ROUNDS, "engine": ENGINE}


def main() -> int:
    from omnisift.errors import OmniSiftError
    from omnisift.lab.benchmark.journal import Journal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, choices=CLIENTS)
    parser.add_argument("--journal", type=Path, default=ROOT / "runs" / "bench-serving.jsonl")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    where = machine_info("vllm-cpu", "torch", "transformers")
    try:
        journal = Journal(options.journal, settings(), key=lambda record: (record["tokens"], record["clients"]))
    except OmniSiftError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    points = [(tokens, clients) for tokens in options.tokens for clients in options.clients]
    todo = [point for point in points if point not in journal.records]
    if todo:
        asyncio.run(measure(todo, journal, where["commit"]))
    result = {"bench": "serving", **settings(), "points": [journal.records[point] for point in points], **where}
    print(table(result), file=sys.stderr)
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
