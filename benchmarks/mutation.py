"""Do the tests notice a wrong line? Plant fourteen faults, one at a time, in a copy of the package.

    python benchmarks/mutation.py [NAME ...]

For each fault it runs the tests that must catch it and prints one JSON line; it exits with 1 if a fault survives. The
checkout is never changed. Takes three minutes on one core.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Fault:
    """A line that is replaced by a wrong one."""

    name: str
    old: str
    """Part of one line, which occurs once in the package."""
    new: str
    tests: tuple[str, ...]
    """What pytest runs: at least one of these tests must fail."""


FAULTS = (
    Fault(
        "budget: a video rate of exactly retain / 2 is raised",
        "few = (video < retain / 2 - 1e-12)",
        "few = (video < retain / 2 + 1e-12)",
        ("tests/test_budget.py",),
    ),
    Fault(
        "sampling: the number of images is rounded down",
        "_even_up(math.floor(seconds * fps + 0.5))",
        "_even_up(math.floor(seconds * fps))",
        ("tests/media/test_sampling.py", "-k", "by_time"),
    ),
    Fault(
        "chunks: audio at the start of a chunk belongs to the one before",
        "torch.searchsorted(starts, key[audio], right=True)",
        "torch.searchsorted(starts, key[audio], right=False)",
        ("tests/test_chunks.py",),
    ),
    Fault(
        "top-k: of equal scores the last is kept",
        "torch.sort(scores, descending=True, stable=True).indices",
        "torch.sort(-scores.flip(0), stable=True).indices.neg() + len(scores) - 1",
        ("tests/ops/test_topk.py",),
    ),
    Fault(
        "positions: text positions keep their gaps",
        "cut[0] = self._without_gaps(full[0])",
        "cut[0] = cut[0]",
        ("tests/models/test_prompt_cut.py",),
    ),
    Fault(
        "labels: the first labels are used instead of the kept ones",
        "self.labels if cut is None else cut.labels(self.labels)",
        "self.labels if cut is None else self.labels[:, : cut.width]",
        ("tests/models/test_training.py", "-k", "labels"),
    ),
    Fault(
        "decoding: the mask keeps the length of the full prompt",
        'prompt.attention_mask(arguments.get("attention_mask"), cached, new, rows)',
        'arguments.get("attention_mask")',
        ("tests/models/test_generate.py", "-k", "right_padding or continues_from"),
    ),
    Fault(
        "STVP: padding counts for the mean of a frame",
        "mean = torch.bmm(weight.unsqueeze(1), frame0)",
        "mean = frame0.mean(dim=1, keepdim=True)",
        ("tests/test_stvp.py",),
    ),
    Fault(
        "shares: the smallest remainder is rounded up",
        "torch.argsort(remainder, descending=True, stable=True)",
        "torch.argsort(remainder, descending=False, stable=True)",
        ("tests/ops/test_integer_shares.py",),
    ),
    Fault(
        "atomic writes: the file itself is written to",
        "temporary = folder / path.name",
        "temporary = target",
        ("tests/utils/test_atomic_io.py",),
    ),
    Fault(
        "JSON lines: a line that was cut off is read",
        'if line.endswith(b"\\n") and line.strip():',
        "if line.strip():",
        ("tests/utils/test_jsonl.py",),
    ),
    Fault(
        "serving: private addresses are fetched from",
        "return ip.is_global and not reserved",
        "return not ip.is_loopback",
        ("tests/serving/test_url_policy.py",),
    ),
    Fault(
        "hooks: they act on copies of the model",
        "if self._hook is None or module is not self._module():",
        "if self._hook is None:",
        ("tests/models/test_shared_models.py",),
    ),
    Fault(
        "scales: kept tokens are taken for the first ones of the prompt",
        "kept = compression.modality.flatten()[attachment.cut.source]",
        "kept = compression.modality[:, : attachment.cut.width]",
        ("tests/calibration/test_ranges.py", "-k", "kept_tokens"),
    ),
)


def find(fault: Fault, source: Path) -> Path:
    """The file below ``source`` that holds the fault's line; `ValueError` unless the line occurs exactly once."""
    files = [path for path in sorted(source.rglob("*.py")) if fault.old in path.read_text(encoding="utf-8")]
    if len(files) != 1 or files[0].read_text(encoding="utf-8").count(fault.old) != 1:
        raise ValueError(f"{fault.name}: {fault.old!r} must occur once below {source}, is in {len(files)} files")
    return files[0]


def passes(source: Path, *tests: str) -> bool:
    """Whether the tests pass with the package below ``source``; `RuntimeError` if pytest can't run them."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    environment = os.environ | {"PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def plant(fault: Fault, source: Path) -> dict[str, object]:
    """Run the fault's tests on the package below ``source``, first as it is, then with the fault."""
    path = find(fault, source)
    right = path.read_text(encoding="utf-8")
    if not passes(source, *fault.tests):
        raise RuntimeError(f"{' '.join(fault.tests)} fails without a fault")
    start = time.perf_counter()
    path.write_text(right.replace(fault.old, fault.new), encoding="utf-8")
    survived = passes(source, *fault.tests)
    path.write_text(right, encoding="utf-8")
    return {
        "fault": fault.name,
        "file": path.relative_to(source).as_posix(),
        "result": "survived" if survived else "caught",
        "seconds": round(time.perf_counter() - start, 1),
    }


def main(names: list[str]) -> int:
    """Plant the faults whose name contains one of ``names``, or all; return 1 if one survives."""
    chosen = [fault for fault in FAULTS if not names or any(name in fault.name for name in names)]
    if not chosen:
        raise SystemExit(f"no such fault; known: {'; '.join(fault.name for fault in FAULTS)}")
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "src")
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for fault in chosen:
            line = plant(fault, source)
            survived += line["result"] == "survived"
            print(json.dumps(line), flush=True)
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
