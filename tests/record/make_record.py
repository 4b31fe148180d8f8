"""Write the record that `test_record.py` compares with: what each method does on 200 test clips of the plain world.

    OMP_NUM_THREADS=1 python -m tests.record.make_record [--clips 200] [--out tests/record/record.npz]

The committed record is of commit 6229157. It is made again only where a change of what a method computes is meant.

The rows run once per instruction set, in processes of their own. Where masks, positions, logits or answers differ
between instruction sets, a row's clip is marked unstable and later compared by its counts alone.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch
from tests.record import rows

INSTRUCTION_SETS = {
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "default": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "NPY_DISABLE_CPU_FEATURES": "AVX512_SKX AVX512_ICL AVX512_SPR AVX2 FMA3",
    },
}
"""Name -> environment of a process that is held to it."""


def observe_all(clips: int, name: str) -> rows.Record:
    """All rows on the first ``clips`` clips, in this process."""
    torch.set_num_threads(1)
    every, begin = list(rows.rows()), time.perf_counter()
    columns = []
    for number in range(clips):
        columns.append([rows.observe(row, number) for row in every])
        if (number + 1) % 20 == 0:
            spent = time.perf_counter() - begin
            print(f"[{name}] {number + 1}/{clips} clips, {spent:.0f} s", file=sys.stderr, flush=True)
    about = {
        "clips": clips,
        "instruction_set": name,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "ties": rows.all_ties(),
        "versions": {package: version(package) for package in ("torch", "transformers", "numpy", "tokenizers")},
    }
    return rows.Record.of(about, [row.key for row in every], list(zip(*columns, strict=True)))


def make(clips: int, out: Path) -> rows.Record:
    """Run all instruction sets, two at a time; mark what differs; write the file."""

    def run(name: str) -> rows.Record:
        path = Path(folder) / f"{name}.npz"
        command = [sys.executable, "-m", "tests.record.make_record", "--clips", str(clips), "--only", name]
        subprocess.run([*command, "--out", str(path)], check=True, env={**os.environ, **INSTRUCTION_SETS[name]})
        return rows.Record.load(path)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        record = merged(list(pool.map(run, INSTRUCTION_SETS)))
    record.save(out)
    return record


def merged(records: list[rows.Record]) -> rows.Record:
    """The first record, with what differs in any other marked as unstable; of a tied clip nothing is left then."""
    first, *others = records
    unstable = first.arrays["unstable"]
    for other in others:
        unstable |= first.differing(other)
    apart = max(float(first.logits_apart(other)[~unstable].max()) for other in others)
    for key, result in first.about["ties"].items():
        same = [all(other.about["ties"][key][i] == one for other in others) for i, one in enumerate(result)]
        first.about["ties"][key] = [one if equal else "" for one, equal in zip(result, same, strict=True)]
    first.about["instruction_sets"] = [record.about["cpu_capability"] for record in records]
    first.about["largest_difference_of_logits"] = apart
    first.about["unstable"] = int(unstable.sum())
    return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=rows.CLIPS)
    parser.add_argument("--out", type=Path, default=rows.FILE)
    parser.add_argument("--only", choices=INSTRUCTION_SETS, help="run one instruction set, set by the environment")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if given.only:
        observe_all(given.clips, given.only).save(given.out)
        return
    record = make(given.clips, given.out)
    names = [key for key, row in zip(record.keys, record.arrays["unstable"], strict=True) if row.any()]
    total = record.arrays["unstable"].size
    print(f"{given.out}: {given.out.stat().st_size} bytes, {len(record.keys)} rows of {given.clips} clips")
    print(f"{record.about['unstable']} of {total} unstable, in {len(names)} rows: {', '.join(names)}")
    print(f"logits differ by up to {record.about['largest_difference_of_logits']:.6f} between instruction sets")


if __name__ == "__main__":
    main()
