"""Finished runs as `omnisift eval` leaves them, written without running anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omnisift.evaluation.public.eval_run import SETTINGS
from omnisift.evaluation.public.lmms_hooks import MISSED, SCORE, grade_choice, grade_description, task_name
from omnisift.evaluation.public.rows import Row

OPTIONS = ("A. Red.", "B. Green.", "C. Blue.", "D. None of them.")


def choice_rows(count: int, benchmark: str = "worldsense") -> list[Row]:
    """Two questions a video, the right answer always B, groups by turns."""
    return [
        Row(str(n), benchmark, f"v{n // 2}", f"v{n // 2}.mp4", f"Q{n}?", OPTIONS, "B", {"domain": "GM"[n % 2]})
        for n in range(count)
    ]


def caption_rows(count: int) -> list[Row]:
    events = ("a red circle appears", "a bell rings")
    return [
        Row(str(n), "video_salmonn2", f"v{n}", f"v{n}.mp4", "Describe it.", (), "-", {}, events) for n in range(count)
    ]


def write_run(
    folder: Path,
    rows: Sequence[Row],
    said: Sequence[str],
    compressor: str = "omnisift",
    share: float = 0.25,
    request: dict[str, Any] | None = None,
) -> Path:
    """A folder whose model said ``said`` and kept ``share`` of 100 video and 100 audio tokens a question."""
    benchmark = rows[0].benchmark
    harness = folder / "harness" / "nano"
    harness.mkdir(parents=True)
    kept = 100 if compressor == "none" else round(100 * share)
    grade = grade_choice if rows[0].is_choice else grade_description
    samples, requests = [], []
    for number, (row, text) in enumerate(zip(rows, said, strict=True)):
        graded = grade({**row.to_dict(), "rule": "videomme"}, [text])
        name = SCORE if row.is_choice else MISSED
        samples.append({"doc_id": number, name: graded[name]})
        tokens = {"video": 100, "video_kept": kept, "audio": 100, "audio_kept": kept, "prompt": 220, "generated": 1}
        seconds = {"read": 9.0, "encode": 0.5, "compress": 0.1, "prefill": kept / 100, "decode": 0.4}
        requests.append({"document": number, "problem": None, "tokens": tokens, "seconds": seconds})
        requests[-1] |= {"batch_size": 1, "peak_memory_bytes": 2**30 + number, **(request or {})}
    _lines(harness / f"20261126_000000_samples_{task_name(benchmark)}.jsonl", samples)
    _lines(folder / "requests-0.jsonl", requests)
    settings = {
        "benchmark": benchmark,
        "model": "nano",
        "compressor": compressor,
        "retain": "all" if compressor == "none" else f"{share:g}",
        "percent": 100.0 if compressor == "none" else 100 * share,
        "wording": "paper",
        "rule": "videomme",
        "reading": {"fps": 2.0},
        "max_new_tokens": 256,
        "rows": len(rows),
        "batch_size": 1,
    }
    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _lines(path: Path, items: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
