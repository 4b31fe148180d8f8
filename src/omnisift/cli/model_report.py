"""The screen of `omnisift doctor --model`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from omnisift.profiling.diagnosis import Diagnosis


def show_diagnosis(console: Console, found: Diagnosis) -> None:
    """Print what a model is, whether a minute of video fits, and which methods and commands take it."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for label, words in _facts(found):
        table.add_row(Text(label, style="dim"), Text(words))
    console.print(table)
    console.print()
    console.print(_memory(found))
    console.print()
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
    for label, words in _uses(found):
        table.add_row(Text(label, style="dim"), Text(words))
    console.print(table)


def _facts(found: Diagnosis) -> list[tuple[str, str]]:
    size = (
        f"{found.parameters / 1e9:.2f} billion" if found.parameters >= 1e8 else f"{found.parameters / 1e6:.1f} million"
    )
    packed = f", packed by {found.quantization}: the bytes below are of unpacked weights" if found.quantization else ""
    context = "no stated limit" if found.context is None else f"{found.context:,} tokens"
    memory = "memory unknown" if found.memory is None else f"{found.memory / 1e9:.1f} GB"
    facts = [
        ("model", f"{found.model}: {found.model_type}, read by {found.model_class}"),
        ("Transformers", f"{found.release} or newer is needed, {found.installed} is installed"),
        ("parameters", size + packed),
        ("context", context),
        ("reads", "video and audio" if found.hears else "video; the audio of a clip is left out"),
        ("this machine", f"{found.device}, {memory}; {found.dtype} by default"),
    ]
    if found.weights_here is False:
        facts.append(("weights", "none in this folder"))
    return facts


def _memory(found: Diagnosis) -> object:
    """A minute of video with all tokens and with a part of them, in both types."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for index, head in enumerate(
        ("a minute of video", "kept", "prompt", "weights", "cache", "logits", "sum, GB", "fits")
    ):
        table.add_column(head, justify="right" if 0 < index < 7 else "left")
    for need in found.needs:
        sizes = (need.weights, need.cache, need.logits, need.total)
        fits = "unknown" if need.fits is None else "yes" if need.fits else "no"
        if not need.in_context:
            fits = "no, beyond the context"
        kept = "all" if need.retain == "full" else f"{float(need.retain):.0%}"
        cells = [f"{size / 1e9:.2f}" for size in sizes]
        table.add_row(need.dtype, kept, f"{need.prompt:,}", *cells, fits)
    return table


def _uses(found: Diagnosis) -> list[tuple[str, str]]:
    default = found.default or "omnisift if the checkpoint has a selector, resift otherwise"
    uses = [("default method", default), ("methods", ", ".join(found.methods))]
    if found.with_selector:
        there = {
            True: "this folder has one",
            False: "this folder has none: omnisift distill makes one, --selector FOLDER uses it",
            None: "of the checkpoint, or --selector FOLDER",
        }[found.selector_here]
        uses.append(("with a selector", f"{', '.join(found.with_selector)}; {there}"))
    if found.refused:
        needed = sorted({name for names in found.refused.values() for name in names})
        reason = f"they need {', '.join(needed)}, which this family can't supply"
        uses.append(("refused", f"{', '.join(found.refused)}: {reason}"))
    uses.append(("commands", ", ".join(found.commands)))
    if found.other_commands:
        uses.append(("not with it", f"{', '.join(found.other_commands)}: Qwen2.5-Omni and Qwen3-Omni only"))
    return uses
