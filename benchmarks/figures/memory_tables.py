"""Write the tables of memory into docs/profile.md and docs/small-machines.md.

python benchmarks/figures/memory_tables.py             # from benchmarks/results
python benchmarks/figures/memory_tables.py --count     # search the longest clips again first (five minutes)
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from streaming_tables import ROOT, filled_with, loaded

from omnisift.budget import Budget
from omnisift.evaluation.tables import table
from omnisift.profiling.analytic import cache_bytes, kept_tokens
from omnisift.profiling.fit import RETAINS, longest_clips, parse_size
from omnisift.profiling.shape import PromptShape, prompt_shape
from omnisift.profiling.sizes import host_config
from omnisift.utils.provenance import provenance

PAGES = [ROOT.parent / "docs" / name for name in ("profile.md", "small-machines.md")]
RESULTS = ROOT / "results"
CACHED = {
    "7b": "Qwen2.5-Omni-7B",
    "3b": "Qwen2.5-Omni-3B",
    "qwen3-omni-30b-a3b": "Qwen3-Omni-30B-A3B",
    "qwen3-vl-8b": "Qwen3-VL-8B",
}
BITS = (16, 8, 4, 2)
KEPT = (1.0, 0.25, 0.1)
FITTED = {"7b": ("8GB", "12GB", "16GB", "24GB"), "3b": ("8GB", "12GB", "16GB"), "qwen3-vl-4b": ("8GB", "12GB")}
NEW = 64


def cache_table() -> str:
    """MB of keys and values of a minute of 1080p video with its audio, by model, bits and share."""
    head = ["model", "kept", "tokens", *(f"{bits} bits, MB" for bits in BITS)]
    lines = []
    for name, title in CACHED.items():
        config = host_config(name)
        shape = prompt_shape(60, config=config)
        for share in KEPT:
            _, video, audio = kept_tokens(shape, shape.chunks(), Budget(retain=share))
            tokens = video + audio + shape.times
            sizes = [cache_bytes(config.text_config, tokens, bits=None if bits == 16 else bits) for bits in BITS]
            lines.append([title, f"{100 * share:g} %", f"{tokens:,}", *(f"{size / 1e6:,.0f}" for size in sizes)])
    return table(head, lines).rstrip()


def count() -> dict[str, Any]:
    """Search the longest clips of all models and sizes."""
    budgets, rows = [Budget(retain=share) for share in RETAINS], []
    for name, sizes in FITTED.items():
        config = host_config(name)
        known: dict[float, PromptShape] = {}

        def shape_of(seconds: float, config: Any = config, known: dict[float, PromptShape] = known) -> PromptShape:
            if seconds not in known:
                known[seconds] = prompt_shape(seconds, config=config, max_frames=round(2 * seconds))
            return known[seconds]

        for size in sizes:
            fits = longest_clips(config, parse_size(size), budgets, shape_of, fps=2.0, new=NEW)
            rows += [{"config": name, "device_memory": size, **fit.to_dict()} for fit in fits]
            print(name, size, flush=True)
    return {"rows": rows, **provenance()}


def fit_table(result: dict[str, Any]) -> str:
    """One line for each model, memory and bits: the longest clips, in minutes."""
    settings = list(dict.fromkeys(row["retain"] for row in result["rows"]))
    head = ["model", "memory", "bits", "weights, GB"]
    head += ["all tokens" if retain == "full" else f"{100 * float(retain):g} %" for retain in settings]
    lines: dict[tuple[Any, ...], list[str]] = {}
    for row in result["rows"]:
        size = row["device_memory"].replace("GB", " GB")
        start = [row["config"], size, str(row["bits"]), f"{row['weights'] / 1e9:.1f}"]
        lines.setdefault(tuple(start[:3]), start).append(_cell(row))
    return table(head, lines.values()).rstrip()


def _cell(row: dict[str, Any]) -> str:
    if row["seconds"] is None:
        return f"needs {row['needed'] / 1e9:.1f} GB"
    minutes, seconds = divmod(round(row["seconds"]), 60)
    return f"{minutes}:{seconds:02d}{' (context)' if row['limit'] == 'context' else ''}"


def parts() -> dict[str, str]:
    """All tables by name."""
    accuracy, memory, fits = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("quantized_cache", "question_memory", "fit")
    )
    return {
        "cache_bytes": cache_table(),
        "cache_accuracy": loaded(ROOT / "accuracy" / "quantized_cache.py").accuracy_table(accuracy["rows"]).rstrip(),
        "question_memory": loaded(ROOT / "speed" / "question_memory.py").memory_table(memory["rows"]).rstrip(),
        "longest_clips": fit_table(fits),
    }


def filled(page: str) -> str:
    """The page with those of the tables that it has places for."""
    return filled_with(page, parts())


def main() -> None:
    """Write the pages that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", action="store_true", help="search the longest clips again")
    if parser.parse_args().count:
        (RESULTS / "fit.json").write_text(json.dumps(count(), indent=1) + "\n", encoding="utf-8")
    for path in PAGES:
        if path.exists():
            path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
