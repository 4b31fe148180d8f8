"""Checkpoints of a run; a marker file with sizes and digests is written last and tells complete ones apart."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load

from omnisift.errors import CheckpointError, UsageError
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.utils.atomic_io import atomic_folder, write_atomic
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object
from omnisift.vgas import VGAS

logger = logging.getLogger(__name__)
MARKER = "complete.json"
LANGUAGE, ADAPTER, SELECTOR = "language", "adapter", "selector"
_EARLIER = "delete that checkpoint to resume from the one before it"
KEPT = 2
"""Checkpoints of a run that are kept."""
_NAME = re.compile(r"checkpoint-(\d{1,18})")
SHARDS = "pytorch_model_fsdp_0"
"""Folder in which accelerate writes the shards of a model under FSDP2."""
_WRITTEN = re.compile(
    rf"{LANGUAGE}|{ADAPTER}|{SELECTOR}|complete\..*json|\.omnisift-.*|(optimizer|scheduler|scaler)\.(pt|bin)|"
    rf"rng_state(_\d+)?\.pth|trainer_state\.json|training_args\.bin|{SHARDS}|optimizer_\d+|global_step\d+|latest|"
    r"zero_to_fp32\.py"
)
"""Names in an incomplete checkpoint. A folder with any other name in it is not ours and is never deleted."""


def mark_complete(folder: Path) -> None:
    """Write the marker: size and SHA-256 of all files in ``folder``."""
    seals = {file.relative_to(folder).as_posix(): [file.stat().st_size, _digest(file)] for file in _files(folder)}
    write_atomic(folder / MARKER, json.dumps(seals, indent=1))


def is_complete(folder: Path) -> bool:
    """Whether the marker exists and every file in it has its size."""
    try:
        seals = _seals(folder)
        return bool(seals) and all((folder / name).stat().st_size == size for name, (size, _) in seals.items())
    except (OSError, CheckpointError):
        return False


def check_seals(folder: Path) -> None:
    """Check that the files of a complete checkpoint hold the bytes that were written.

    Raises:
        CheckpointError: a file has others.
    """
    for name, (_, digest) in _seals(folder).items():
        if digest is not None and _digest(folder / name) != digest:
            raise CheckpointError(
                f"{folder / name} holds other bytes than were written; delete {folder} to resume from the checkpoint "
                "before it"
            )


def _seals(folder: Path) -> dict[str, tuple[int, str | None]]:
    """File -> size and digest; markers of earlier versions have the size alone."""
    with checkpoint_errors(folder / MARKER):
        values = read_json_object(folder / MARKER)
        return {name: (value, None) if type(value) is int else (value[0], value[1]) for name, value in values.items()}


def _digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        for block in iter(lambda: content.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def newest_checkpoint(run: Path) -> Path | None:
    """The last complete checkpoint of a run, or None. Incomplete ones are deleted.

    Raises:
        UsageError: a file or folder has the name of a checkpoint and is none.
    """
    folders = checkpoints(run)
    complete = [path for path in folders if is_complete(path)]
    for path in folders:
        if path in complete:
            continue
        if not path.is_dir() or not all(_WRITTEN.fullmatch(name) for name in _names(path)):
            raise UsageError(f"{path} is not a checkpoint of this run; move it, or name another --out")
        logger.warning("deleting %s: it is incomplete", path.name)
        shutil.rmtree(path, ignore_errors=True)  # another process of the run may delete it at the same time
    return complete[-1] if complete else None


def best_checkpoint(last: Path) -> Path:
    """The checkpoint that the validation data found best, as the state in the ``last`` one says.

    Raises:
        CheckpointError: no evaluation has taken place, or the checkpoint is missing or has changed.
    """
    step = read_json_object(last / "trainer_state.json").get("best_global_step")
    best = last.with_name(f"checkpoint-{step}")
    if not is_complete(best):
        raise CheckpointError(f"the best checkpoint, {best}, is missing; restore it, or name another --out")
    check_seals(best)
    return best


def delete_old_checkpoints(run: Path, best: int | None = None) -> None:
    """Delete all complete checkpoints of a run but the last two and that of step ``best``."""
    for path in [path for path in checkpoints(run) if is_complete(path)][:-KEPT]:
        if path.name != f"checkpoint-{best}":
            shutil.rmtree(path, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """Everything in a run's folder that has the name of a checkpoint, by step; ``checkpoint-best`` has not."""
    named = [(_NAME.fullmatch(path.name), path) for path in run.glob("checkpoint-*")]
    return [path for _, path in sorted((int(match[1]), path) for match, path in named if match)]


def _names(folder: Path) -> list[str]:
    with suppress(FileNotFoundError):  # another process of the run has deleted it
        return [path.name for path in folder.iterdir()]
    return []


def save_weights(model: CompressedModel, folder: Path) -> None:
    """Write the trained weights as safetensors: the adapter or the language model, and the selector."""
    thinker: Any = model.thinker
    if hasattr(thinker, "peft_config"):
        thinker.save_pretrained(folder / ADAPTER)
    elif any(parameter.requires_grad for parameter in thinker.parameters()):
        thinker.save_pretrained(folder / LANGUAGE)
    if model.selector is not None:
        model.selector.save_pretrained(folder / SELECTOR)


def load_weights(model: CompressedModel, folder: Path) -> None:
    """Load what `save_weights` wrote, or the shards of FSDP2, into ``model``.

    Raises:
        CheckpointError: the selector is missing, or shards can't be read.
    """
    if (folder / SHARDS).is_dir():
        _load_shards(model, folder / SHARDS)
        return
    thinker: Any = model.thinker
    if (folder / ADAPTER).is_dir():
        from peft import set_peft_model_state_dict

        file = folder / ADAPTER / "adapter_model.safetensors"
        with checkpoint_errors(file, _EARLIER):
            set_peft_model_state_dict(thinker, load_file(file))
    if (folder / LANGUAGE).is_dir():
        # float32 represents every narrower number exactly; copying narrows the frozen weights again.
        with checkpoint_errors(folder / LANGUAGE, _EARLIER):
            saved = type(thinker).from_pretrained(folder / LANGUAGE, dtype=torch.float32, trust_remote_code=False)
            thinker.load_state_dict(saved.state_dict())
    if model.selector is not None:
        if not (folder / SELECTOR).is_dir():
            raise CheckpointError(f"{folder} has no selector; delete this folder to resume from the checkpoint before")
        model.selector.load_state_dict(VGAS.from_pretrained(folder / SELECTOR).state_dict())


def _load_shards(model: CompressedModel, folder: Path) -> None:
    """Shards of any number of processes into a model in one piece; no process group is needed."""
    state = {"model": model.state_dict()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            load(state, checkpoint_id=folder, no_dist=True)
    except (OSError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(
            f"can't read the shards in {folder}: {str(error).splitlines()[0]}; delete that checkpoint and run again"
        ) from None


def save_model(model: CompressedModel, processor: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a checkpoint that `omnisift ask --model` loads: merged adapters, processor and selector.

    Of a quantised model it holds the weights that it computed with, no longer quantised: adapters merged into packed
    weights would be rounded. It can be loaded with ``quantization`` again.

    ``model`` is converted and its hooks may be removed, so don't use it afterwards.

    Args:
        model: what was trained.
        processor: the host's processor.
        folder: where to write; it appears only when it is complete.
        dtype: number type of the weights.
    """
    thinker: Any = model.thinker
    if hasattr(thinker, "merge_and_unload"):
        model.attachment.detach()  # the hooks are on the PEFT wrapper, which merging removes
        thinker = _merged(thinker)
    elif getattr(thinker, "is_quantized", False):
        thinker.dequantize(dtype)
    model.to(dtype)
    thinker.to(dtype)
    with atomic_folder(folder) as unfinished:
        thinker.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        if model.selector is not None:
            model.selector.save_pretrained(unfinished / SELECTOR)


def _merged(wrapped: Any) -> Any:
    """The model inside a PEFT wrapper with its adapters merged, and no longer quantised."""
    if not getattr(wrapped.get_base_model(), "is_quantized", False):
        return wrapped.merge_and_unload()
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    adapters, config = get_peft_model_state_dict(wrapped), wrapped.active_peft_config
    adapters = {name: tensor.clone() for name, tensor in adapters.items()}
    base = wrapped.unload()
    base.dequantize(torch.float32)
    again: Any = get_peft_model(base, config)
    set_peft_model_state_dict(again, adapters)
    return again.merge_and_unload()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(MARKER))
