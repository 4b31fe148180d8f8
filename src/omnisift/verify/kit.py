"""Run checks and measurements of several models, and write the result after each step."""

from __future__ import annotations

import json
import math
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch

from omnisift.errors import UsageError
from omnisift.evaluation.tables import table
from omnisift.profiling.gauges import energy_meter
from omnisift.utils.atomic_io import write_atomic
from omnisift.utils.provenance import provenance
from omnisift.verify.checks import Check, run_checks
from omnisift.verify.hosts import TINY, ModelSpec, default_attention
from omnisift.verify.measure import FULL, METHOD, Plan, Row, measure
from omnisift.verify.subject import NO_TIME, release

GOAL, GOAL_SECONDS = 0.02, 60
"""Wanted: compression takes less than this share of the prefill, on a clip of so many seconds."""


_Record = TypeVar("_Record", Check, Row)


@dataclass
class Result:
    """All that one run of the kit found."""

    environment: dict[str, Any]
    checks: list[Check] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0
    is_complete: bool = False
    """False while it runs, and for good if the run was cut off."""

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "failed"]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "kind": "verify",
            "environment": self.environment,
            "is_complete": self.is_complete,
            "seconds": round(self.seconds, 1),
            "checks": [asdict(check) for check in self.checks],
            "rows": [row.to_dict() for row in self.rows],
        }

    @classmethod
    def read(cls, path: Path) -> Result:
        """Read the file of an earlier run.

        Raises:
            UsageError: the file is missing or is no such result.
        """
        try:
            if path.exists() and not path.is_file():
                raise ValueError("no file")
            data = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(data["environment"], dict) or not isinstance(data["is_complete"], bool):
                raise TypeError("environment or is_complete")
            checks = [_typed(Check, check) for check in data["checks"]]
            rows = [_typed(Row, row) for row in data["rows"]]
            seconds = _checked("seconds", data["seconds"], (float,))
            return cls(data["environment"], checks, rows, seconds, data["is_complete"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            words = f"{type(error).__name__}: {error}"
            raise UsageError(
                f"{path} is not a result of omnisift verify ({words}); give a file that it wrote"
            ) from error


def _typed(kind: type[_Record], values: dict[str, Any]) -> _Record:
    """A record of a file, if each value has the type of its field."""
    hints = get_type_hints(kind)
    return kind(
        **{name: _checked(name, value, get_args(hints[name]) or (hints[name],)) for name, value in values.items()}
    )


def _checked(name: str, value: Any, types: tuple[type, ...]) -> Any:
    is_number = type(value) in (int, float)
    if type(value) not in types and not (is_number and float in types):
        raise TypeError(f"{name} is {value!r:.40}")
    if is_number and not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return value


def run(
    specs: Sequence[ModelSpec],
    device: torch.device,
    *,
    plan: Callable[[ModelSpec], Plan],
    attn_implementation: str | None = None,
    time_limit: float | None = None,
    output: Path | None = None,
    on_step: Callable[[Check | Row], None] = lambda _step: None,
) -> Result:
    """Check and measure models.

    Args:
        specs: the models; all checks of a model precede its measurements.
        device: where they run.
        plan: what to measure of a model.
        attn_implementation: of the measured models; None takes FlashAttention where it is installed, else sdpa.
        time_limit: seconds after which nothing more is checked or measured; what is left says "no time left".
        output: file that is written after each step; None writes none.
        on_step: called with each check and row.

    Raises:
        UsageError: Transformers can't use ``attn_implementation`` here.
    """
    begin = time.monotonic()
    kernels = default_attention(device) if attn_implementation is None else attn_implementation
    check_attention(kernels, device)
    result = Result(environment(device, kernels))
    memory = result.environment.get("memory_bytes")

    def step(item: Check | Row) -> None:
        (result.checks if isinstance(item, Check) else result.rows).append(item)  # type: ignore[arg-type]
        save()
        on_step(item)

    def save() -> None:
        result.seconds = time.monotonic() - begin
        if output is not None:
            write_atomic(output, json.dumps(result.to_dict(), indent=1) + "\n")

    def is_over() -> bool:
        return time_limit is not None and time.monotonic() - begin > time_limit

    for spec in specs:
        reason = spec.missing_memory(memory) if memory is not None else None
        if reason is not None:
            step(Check(spec.name, "everything", "skipped", reason, 0.0))
            continue
        run_checks(spec, device, is_over=is_over, on_check=step)
        release(device)
        measure(spec, device, plan(spec), attn_implementation=kernels, is_over=is_over, on_row=step)
        release(device)
    # Nothing was left out for want of time.
    found = [*(check.detail for check in result.checks), *(row.error for row in result.rows)]
    result.is_complete = NO_TIME not in found
    save()
    return result


def check_attention(attn_implementation: str, device: torch.device) -> None:
    """Raise `UsageError` if Transformers does not know this attention, or can't use it on the device."""
    try:
        if not re.fullmatch(r"\w+", attn_implementation):
            raise ValueError("it is not a name")
        TINY.build(device, torch.bfloat16, attn_implementation)
    except (ValueError, ImportError, OSError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"no attention {attn_implementation!r} here ({reason}); use sdpa, eager or flash_attention_2"
        ) from error


def environment(device: torch.device, attn_implementation: str) -> dict[str, Any]:
    """Return the machine, the versions and the commit."""
    info: dict[str, Any] = {**provenance(), "attn_implementation": attn_implementation, "system": platform.platform()}
    if device.type != "cuda":
        return {**info, "device": str(device), "energy": energy_meter(device).words}
    properties = torch.cuda.get_device_properties(device)
    return {
        **info,
        "machine": properties.name,
        "device": str(device),
        "memory_bytes": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": driver_version(),
        "energy": energy_meter(device).words,
    }


def driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """Return the version of NVIDIA's driver; None where it is unknown."""
    with suppress(ImportError):
        import pynvml

        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            return str(pynvml.nvmlSystemGetDriverVersion())
    try:
        words = proc.read_text(encoding="utf-8").split("Kernel Module", 1)[1].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit()), None)


HEAD = (
    "model", "clip", "method", "kept", "memory GB", "prefill s", "E2E s", "faster", "compression ms", "of prefill",
    "kernels", "decode ms", "joules",
)  # fmt: skip
"""Columns of the table; memory, prefill and E2E are those of the paper's Table 3."""


def measurement_table(rows: Sequence[Row]) -> str:
    """Return a Markdown table, one line per row; ``faster`` compares the prefill with that of all tokens."""
    full = {(row.model, row.seconds): row for row in rows if row.method == FULL}
    lines = [_line(row, full.get((row.model, row.seconds))) for row in rows]
    return table(HEAD, lines)


def _line(row: Row, full: Row | None) -> list[str]:
    name = "all tokens" if row.method == FULL else row.method
    cells = [row.model, f"{row.seconds:g} s", name, f"{row.retain:.0%}"]
    if row.error is not None or not row.prefill_ms:
        return [*cells, (row.error or "-").split(":")[0], *["-"] * (len(HEAD) - len(cells) - 1)]
    faster = full.prefill_ms / row.prefill_ms if full is not None and full.prefill_ms else None
    return [
        *cells,
        _number(row.peak_bytes and row.peak_bytes / 1e9, 2),
        _number(row.prefill_ms / 1e3, 3),
        _number((row.end_to_end_ms or 0.0) / 1e3, 3),
        "-" if faster is None else f"{faster:.2f} x",
        _number(row.compress_ms, 2),
        "-" if row.compress_share is None else f"{row.compress_share:.2%}",
        "-" if row.compress_kernels is None else f"{row.compress_kernels:,}",
        _number(row.decode_ms, 2),
        _number(row.joules, 1),
    ]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def shares(rows: Sequence[Row]) -> list[str]:
    """Return one sentence per model: how much of the prefill our method takes on the clip that `GOAL` names."""
    return [
        f"{row.model}, {row.seconds:g} s at {row.retain:.0%}: compression is {row.compress_share:.2%} of the prefill "
        f"(wanted: below {GOAL:.0%})"
        for row in rows
        if row.method == METHOD and row.seconds == GOAL_SECONDS and row.compress_share is not None
    ]


def check_table(checks: Sequence[Check]) -> str:
    """Return a Markdown table of checks."""
    return table(
        ["model", "check", "result", "what was compared"],
        [[check.model, check.name, check.status, check.detail.replace("|", "/")] for check in checks],
    )
