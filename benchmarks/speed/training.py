"""Time and memory of a training step under compression against all tokens.

A small but deep Thinker of the real class on random video and audio, about 4,000 tokens per sample, so that the
language model takes most of the cost, as in a full-size one. It is narrow, so attention has a larger share than there,
and the gain is larger too. Selector and language model are trained, encoders are frozen. Each configuration runs in
its own process, one after the other; memory is the peak resident size minus that before the first step. Prints one
JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for tests.helpers

SECONDS, HEIGHT, WIDTH_OF_GRID = 40, 6, 12
"""The clip: one frame per second of HEIGHT x WIDTH_OF_GRID tokens, 25 audio tokens per second."""
LAYERS, WIDTH = 16, 256


def build(retain: float | None) -> tuple[Any, dict[str, Any]]:
    """(the model to train, a batch)."""
    import tests.helpers.models as tiny
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    from omnisift.budget import Budget
    from omnisift.compressors import make_compressor
    from omnisift.training.finetune import CompressedModel
    from omnisift.vgas import VGAS, VGASConfig

    config = tiny.thinker_config(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [16, 8, 8]},
    )  # fmt: skip
    config.vision_config.out_hidden_size = config.audio_config.output_dim = WIDTH
    torch.manual_seed(0)
    model = Thinker._from_config(config, attn_implementation="sdpa")
    if retain is None:
        compressor = make_compressor("uniform", Budget(retain=1.0))
    else:
        compressor = make_compressor("omnisift", Budget(retain=retain), selector=VGAS(VGASConfig(input_size=WIDTH)))
    clip = tiny.Video(frames=SECONDS, height=HEIGHT, width=WIDTH_OF_GRID, audio=25 * SECONDS)
    batch = tiny.prompt([8, clip, 16])
    ids = batch["input_ids"]
    is_answer = torch.arange(ids.shape[1]) >= ids.shape[1] - 8
    batch["labels"] = ids.masked_fill(~is_answer, -100)
    return CompressedModel(model, compressor).train(), batch


def resident() -> int:
    """Peak resident size in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(retain: float | None, steps: int) -> dict[str, float]:
    """One configuration, in this process."""
    torch.set_num_threads(1)
    model, batch = build(retain)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    before, seconds = resident(), []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - begin)
    last = model.attachment.last
    return {
        "seconds": statistics.median(seconds[1:]),
        "bytes": resident() - before,
        "tokens": last.n_video + last.n_audio,
        "kept": last.kept_video + last.kept_audio,
    }


def child(retain: float | None, steps: int) -> dict[str, float]:
    command = [
        sys.executable,
        str(Path(__file__)),
        "--one",
        "all" if retain is None else str(retain),
        "--steps",
        str(steps),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--retain", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(None if options.one == "all" else float(options.one), options.steps)))
        return
    full, cut = child(None, options.steps), child(options.retain, options.steps)
    result = {
        "bench": "training",
        "retain": options.retain,
        "tokens": full["tokens"],
        "kept": cut["kept"],
        "times_faster": round(full["seconds"] / cut["seconds"], 2),
        "share_of_memory": round(cut["bytes"] / full["bytes"], 3),
        "whole": full,
        "cut": cut,
        **machine_info("torch", "transformers"),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
