"""The longest clip about which a model can be asked in a given memory, by bits of the weights and what is kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omnisift.budget import Budget
from omnisift.errors import UsageError
from omnisift.media.sampling import MAX_SECONDS
from omnisift.pipeline.clip_windows import WINDOW_STEPS
from omnisift.pipeline.context import context_length
from omnisift.pipeline.windowed_clip import LONG_IMAGES
from omnisift.profiling.analytic import Weights
from omnisift.profiling.memory import ClipMemory, check_countable, clip_memory
from omnisift.profiling.shape import PromptShape

BITS = (16, 8, 4)
"""Bits of the language model's linear layers; all other weights have 16."""
RETAINS = (0.25, 0.1, 0.05)
"""What is kept, if nothing else is asked for, besides all tokens."""
RESERVE, RESERVE_SHARE = 500_000_000, 0.05
"""Memory that is left free: what a driver and its kernels take, and what an allocator loses between its blocks. Both
are assumptions; no GPU was measured."""
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes of a size such as ``8GB``, ``8GiB`` or ``24000MB``.

    Raises:
        UsageError: it has no number or no unit.
    """
    match = _SIZE.fullmatch(text)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if not 1 <= size < float("inf"):
        raise UsageError(f"a size is a number above 0 with a unit, such as 8GB, 8GiB or 24000MB, got {text!r:.60}")
    return round(size)


@dataclass(frozen=True)
class Fit:
    """What fits at one setting."""

    bits: int
    """Bits of the language model's linear layers."""
    retain: str
    """``full``, or the requested share."""
    seconds: float | None
    """Length of the longest clip; None if not even one of two images fits."""
    limit: str
    """What a longer clip lacks: ``memory``, ``context``, or ``reading``, the two hours that are read of a file."""
    images: int | None
    """Images of that clip."""
    needed: int
    """Bytes of that clip with the weights and the reserve; of the shortest one if none fits."""
    weights: int
    """Bytes of the weights, with one matrix in 16 bits where they are quantised."""
    memory: ClipMemory
    """Of that clip, or of the shortest one."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "memory": self.memory.to_dict()}


def reserve(device_memory: int) -> int:
    """Bytes of a device that are left free."""
    return RESERVE + int(RESERVE_SHARE * device_memory)


def resident_weights(weights: Weights, bits: int) -> int:
    """Bytes of the weights in use. Quantised matrices are expanded to 16 bits for a product, one at a time."""
    return weights.nbytes(bits) + (2 * weights.largest if bits < 16 else 0)


def longest_clips(
    config: Any,
    device_memory: int,
    budgets: Sequence[Budget],
    shape_of: Callable[[float], PromptShape],
    *,
    fps: float,
    new: int = 256,
) -> list[Fit]:
    """Search the longest clip for all bits, with all tokens and with each budget.

    Args:
        config: Configuration of a host.
        device_memory: Bytes.
        budgets: What the default method keeps.
        shape_of: Returns the prompt about a clip of so many seconds, with every image at ``fps``.
        fps: Images per second.
        new: Tokens of the answer.

    Returns:
        For each of `BITS` one `Fit` for all tokens, then one for each budget. A clip with one more frame of the token
        grid (two images) does not fit.

    Raises:
        UsageError: the activations of the model are not known.
    """
    check_countable(config)
    weights, fits = Weights.of(config), list[Fit]()
    known: dict[tuple[str, int], ClipMemory] = {}
    for bits in BITS:
        held = resident_weights(weights, bits)
        room = device_memory - reserve(device_memory) - held
        for budget in (None, *budgets):
            words = "full" if budget is None else budget.words

            def memory(steps: int, budget: Budget | None = budget, words: str = words) -> ClipMemory:
                if (words, steps) not in known:
                    known[words, steps] = clip_memory(config, shape_of(2 * steps / fps), budget, new=new)
                return known[words, steps]

            steps, limit = _longest(memory, room, _context(config, new), int(MAX_SECONDS * fps / 2))
            found = memory(steps or 1)
            needed = found.peak + held + reserve(device_memory)
            seconds = 2 * steps / fps if steps else None
            fits.append(Fit(bits, words, seconds, limit, 2 * steps or None, needed, held, found))
    return fits


def _context(config: Any, new: int) -> float:
    """Tokens of the longest prompt."""
    length = context_length(config)
    return float("inf") if length is None else length - new


def _longest(memory: Callable[[int], ClipMemory], room: int, context: float, most: int) -> tuple[int, str]:
    """Frames of the longest clip, 0 if none fits, and what one more lacks."""

    def lacks(steps: int) -> str:
        found = memory(steps)
        return "context" if found.prompt > context else "memory" if found.peak > room else ""

    if room <= 0:
        return 0, "memory"
    # Double the length until the prompt exceeds the context: nothing longer can fit.
    high = 1
    while high < most and memory(high).prompt <= context:
        high = min(most, 2 * high)
    # Memory grows with the length, but drops where a clip becomes too long to be encoded or compressed at once.
    for start in (LONG_IMAGES // 2 + 1, WINDOW_STEPS + 1, 1):
        if start > high or lacks(start):
            high = min(high, start)
            continue
        if not lacks(high):
            return high, "reading"
        low = start
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if lacks(middle) else (middle, high)
        return low, lacks(high)
    return 0, lacks(1)
