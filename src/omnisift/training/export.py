"""Weights out: a selector as its own small folder, or merged into its model's checkpoint in the released layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from omnisift.errors import CheckpointError, UsageError
from omnisift.vgas import RELEASED_PREFIX, VGAS

INDEX = "model.safetensors.index.json"
_CARD = """# OmniSIFT selector

A vision-guided audio selector (arXiv 2602.04804) for a Qwen2.5-Omni model of width {width}: {count:,} parameters,
layout {layout}. It says which sounds stay when a prompt is compressed.

    omnisift ask clip.mp4 "What happens?" --model MODEL --selector THIS_FOLDER --retain 0.25

    selector = omnisift.VGAS.from_pretrained("THIS_FOLDER")
"""


def export_selector(selector: VGAS, folder: Path) -> None:
    """``config.json``, ``model.safetensors`` and a card; the folder appears only when it is whole."""
    unfinished = _fresh(folder)
    selector.save_pretrained(unfinished)
    layout = selector.label or "as released"
    count = sum(parameter.numel() for parameter in selector.parameters())
    card = _CARD.format(width=selector.config.width, count=count, layout=layout)
    (unfinished / "README.md").write_text(card, encoding="utf-8")
    unfinished.rename(folder)


def export_merged(source: Path, selector: VGAS, folder: Path) -> None:
    """``source``, a whole model's checkpoint, with the selector as ``thinker.compressor.*`` in one more shard.

    Files are linked where the disk allows it, else copied; nothing of the model is loaded. A selector that was in the
    checkpoint is left out.

    Raises:
        UsageError: the released layout can't say this selector's guide or heads.
        CheckpointError: ``source`` has no safetensors.
    """
    if selector.config.guide != "cross" or selector.config.heads != 8:
        raise UsageError(
            f"the released layout has 8 heads and cross attention, this selector {selector.config.heads} and "
            f"{selector.config.guide}: export it with --as selector"
        )
    shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{source} holds no .safetensors file: give the folder of a checkpoint")
    unfinished = _fresh(folder)
    for path in source.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
            shutil.copyfile(path, unfinished / path.name)
    where: dict[str, str] = {}
    size, total = 0, len(shards) + 1
    for number, shard in enumerate(shards, start=1):
        names, weight = _take_over(shard, unfinished / _name(number, total))
        where |= dict.fromkeys(names, _name(number, total))
        size += weight
    tensors = {RELEASED_PREFIX + name: tensor.contiguous() for name, tensor in selector.state_dict().items()}
    save_file(tensors, str(unfinished / _name(total, total)), metadata={"format": "pt"})
    where |= dict.fromkeys(tensors, _name(total, total))
    size += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    (unfinished / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
    unfinished.rename(folder)


def _take_over(shard: Path, target: Path) -> tuple[list[str], int]:
    """(names, bytes) of the tensors of ``shard`` that are now in ``target``: all but a selector's."""
    with safe_open(str(shard), framework="pt") as file:
        names = list(file.keys())
        kept = [name for name in names if "compressor." not in name]
        if len(kept) < len(names):
            tensors = {name: file.get_tensor(name) for name in kept}
            save_file(tensors, str(target), metadata=file.metadata() or {"format": "pt"})
            return kept, sum(tensor.nbytes for tensor in tensors.values())
    try:
        os.link(shard.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(shard, target)
    return kept, shard.stat().st_size


def _name(number: int, total: int) -> str:
    return f"model-{number:05d}-of-{total:05d}.safetensors"


def _fresh(folder: Path) -> Path:
    """An empty folder beside ``folder`` to write in."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    return unfinished
