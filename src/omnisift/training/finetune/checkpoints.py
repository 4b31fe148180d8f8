"""Checkpoints that are whole or not taken: a marker with the sizes of all files is written last, looked for first."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from omnisift.errors import CheckpointError
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.utils.atomic_io import atomic_folder, write_atomic

logger = logging.getLogger(__name__)
MARKER = "complete.json"
LANGUAGE, ADAPTER, SELECTOR = "language", "adapter", "selector"
SHARDS = "pytorch_model_fsdp_0"
"""Folder in which accelerate puts the shards of a model under FSDP2."""


def seal(folder: Path) -> None:
    """Say that ``folder`` is whole, by the sizes of its files."""
    sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in _files(folder)}
    write_atomic(folder / MARKER, json.dumps(sizes, indent=1))


def is_whole(folder: Path) -> bool:
    """Whether every file that was sealed is there in full."""
    try:
        sizes = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def newest(run: Path) -> Path | None:
    """The last whole checkpoint of a run. Those that were never finished are deleted."""
    found = sorted(run.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if is_whole(path)]
    for path in found:
        if path not in whole:
            logger.warning("%s was never finished and is deleted", path.name)
            shutil.rmtree(path, ignore_errors=True)  # another process of the run may be at it too
    return whole[-1] if whole else None


def save_weights(sifted: CompressedModel, folder: Path) -> None:
    """What learns: adapter or language model, and the selector, as safetensors."""
    thinker: Any = sifted.thinker
    if hasattr(thinker, "peft_config"):
        thinker.save_pretrained(folder / ADAPTER)
    elif any(parameter.requires_grad for parameter in thinker.parameters()):
        thinker.save_pretrained(folder / LANGUAGE)
    if sifted.selector is not None:
        sifted.selector.save_pretrained(folder / SELECTOR)


def load_weights(sifted: CompressedModel, folder: Path) -> None:
    """What `save_weights` wrote, or FSDP2's shards, into the same modules.

    Raises `CheckpointError` if something lacks.
    """
    if (folder / SHARDS).is_dir():
        _load_shards(sifted, folder / SHARDS)
        return
    thinker: Any = sifted.thinker
    if (folder / ADAPTER).is_dir():
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(thinker, load_file(folder / ADAPTER / "adapter_model.safetensors"))
    if (folder / LANGUAGE).is_dir():
        # float32 holds every narrower number exactly; what does not learn is narrowed again where it is copied to.
        saved = type(thinker).from_pretrained(folder / LANGUAGE, dtype=torch.float32)
        thinker.load_state_dict(saved.state_dict())
    if sifted.selector is not None:
        if not (folder / SELECTOR).is_dir():
            raise CheckpointError(f"{folder} holds no selector; delete the folder, and the run starts before it")
        sifted.selector.load_state_dict(type(sifted.selector).from_pretrained(folder / SELECTOR).state_dict())


def _load_shards(sifted: CompressedModel, folder: Path) -> None:
    """Of any number of processes, into a model that is not sharded; needs no process group."""
    state = {"model": sifted.state_dict()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(state, checkpoint_id=folder, no_dist=True)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(f"{folder} can't be read: {str(error).splitlines()[0]}; delete its checkpoint") from None


def save_model(sifted: CompressedModel, processor: Any, folder: Path, dtype: torch.dtype) -> None:
    """A checkpoint in ``dtype`` that `omnisift ask --model` takes: adapters merged, processor and selector beside it.

    The last thing that is done with ``sifted``.
    """
    thinker: Any = sifted.thinker
    if hasattr(thinker, "merge_and_unload"):
        sifted.attachment.detach()  # its hooks lie on the wrapper, which ends here
        thinker = thinker.merge_and_unload()
    sifted.to(dtype)
    thinker.to(dtype)
    with atomic_folder(folder) as unfinished:
        thinker.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        if sifted.selector is not None:
            sifted.selector.save_pretrained(unfinished / SELECTOR)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(MARKER))
