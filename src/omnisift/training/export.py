"""Export a selector to its own small folder, or merged into its model's checkpoint in the released layout."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from omnisift.errors import CheckpointError, UsageError
from omnisift.models import adapter_class
from omnisift.pipeline.devices import DTYPES
from omnisift.pipeline.loading import read_selector
from omnisift.utils.atomic_io import atomic_folder
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object
from omnisift.utils.safetensors_files import INDEX, open_safetensors, weight_files
from omnisift.vgas import RELEASED_PREFIX, VGAS

logger = logging.getLogger(__name__)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_CARD = """---
library_name: omnisift
tags: [audio-video, token-compression]
---

# OmniSIFT selector

{kind} for a model of the class `{model_class}` with embeddings of width {width}:
{count:,} parameters, layout {layout}. It chooses the {modality} tokens that stay when a prompt is compressed. A quarter
of the video and audio tokens (`retain=0.25`) is a good start.

Below, `MODEL` is the model that the selector was trained for, and `SELECTOR` is this folder.

```bash
omnisift ask clip.mp4 "What happens?" --model MODEL --selector SELECTOR --retain 0.25
```

```python
import omnisift

pipe = omnisift.load("MODEL", selector="SELECTOR", retain=0.25)
print(pipe.ask("clip.mp4", "What happens?"))
```

The same with a model that Transformers loaded:

```python
import omnisift
from transformers import AutoProcessor, {model_class}

model = {model_class}.from_pretrained("MODEL")
processor = AutoProcessor.from_pretrained("MODEL")
selector = omnisift.VGAS.from_pretrained("SELECTOR")

inputs = omnisift.inputs(processor, "clip.mp4", "What happens?").to(model.device, model.dtype)
with omnisift.attach(model, "omnisift", retain=0.25, selector=selector) as attachment:
    model.generate(**inputs)
print(attachment.last.retained_ratio)
```
"""
_KINDS = {
    "audio": "A vision-guided audio selector (arXiv 2602.04804)",
    "video": "A learned score for video tokens, of OmniSIFT (arXiv 2602.04804),",
}


@dataclass(frozen=True)
class Storage:
    """How tensors are written."""

    dtype: torch.dtype | None = None
    """Number type; None keeps the stored one."""
    limit: int | None = None
    """Maximum bytes per shard; None keeps the shards."""


def parse_storage(dtype: str | None = None, size: str | None = None) -> Storage:
    """Parse storage options of the command line.

    Args:
        dtype: ``float32``, ``bfloat16`` or ``float16``; None keeps the stored type.
        size: maximum size of a shard, such as ``5GB``; None keeps the shards.

    Raises:
        UsageError: an option has another form.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(DTYPES)}")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", size.upper()) if size is not None else None
    if size is not None and (match is None or float(match[1]) == 0):
        raise UsageError(f"a shard size is a number with B, KB, MB or GB, such as 5GB; got {size!r}")
    limit = int(float(match[1]) * _UNITS[match[2]]) if match else None
    return Storage(DTYPES[dtype] if dtype else None, limit)


def selector_of(source: Path, selector: Path | None) -> VGAS:
    """Load the selector of a checkpoint, or another one; the model is not loaded.

    Args:
        source: folder of the checkpoint.
        selector: folder of another selector; None takes the checkpoint's own.

    Raises:
        UsageError: ``source`` is no checkpoint, or ``selector`` no selector.
        CompressorError: the checkpoint has no selector.
        CheckpointError: the selector does not fit the model.
    """
    if not (source / "config.json").is_file():
        raise UsageError(f"{source} has no config.json; give nano or the folder of a checkpoint")
    config = read_json_object(source / "config.json")
    with checkpoint_errors(source / "config.json"):
        text = config.get("thinker_config", config).get("text_config", {})
        found = "hidden_size" in text
    if not found:
        raise CheckpointError(
            f"{source}/config.json has no hidden_size of a language model; give a checkpoint of a supported model"
        )
    return read_selector(str(source), str(source), selector, text["hidden_size"])


def export_selector(
    selector: VGAS, folder: Path, storage: Storage | None = None, model_type: object = "qwen2_5_omni"
) -> None:
    """Write ``config.json``, ``model.safetensors`` and a model card; the folder appears only when it is complete.

    Args:
        selector: what is written.
        folder: where to write.
        storage: number type; None keeps the stored one.
        model_type: of the model that it is for, as in the ``config.json`` of its checkpoint.

    Raises:
        CheckpointError: ``folder`` can't be written.
        UnsupportedModel: no adapter exists for ``model_type``.
    """
    stored: Any = selector
    if storage is not None and storage.dtype is not None:
        stored = stored.to(storage.dtype)
    layout = selector.label or "as released"
    count = sum(parameter.numel() for parameter in selector.parameters())
    with _export_folder(folder) as unfinished:
        stored.save_pretrained(unfinished)
        modality = "audio" if selector.config.audio_score else "video"
        card = _CARD.format(
            kind=_KINDS[modality],
            modality=modality,
            model_class=adapter_class(model_type).model_class,
            width=selector.config.input_size,
            count=count,
            layout=layout,
        )
        (unfinished / "README.md").write_text(card, encoding="utf-8")


def export_merged(source: Path, selector: VGAS, folder: Path, storage: Storage | None = None) -> None:
    """Write a model's checkpoint with the selector as ``thinker.compressor.*`` in a shard of its own.

    Shards are copied as files and not loaded; with a dtype or a size limit they are rewritten, with one in memory at a
    time. A selector that is already in the checkpoint is replaced.

    Args:
        source: folder of the checkpoint.
        selector: what is merged in.
        folder: where to write; it appears only when it is complete.
        storage: number type and shard size; None keeps them.

    Raises:
        UsageError: the released layout can't represent this selector's guide or number of heads.
        CheckpointError: ``source`` has no safetensors, or ``folder`` can't be written.
    """
    _check_layout(selector)
    shards = weight_files(source)
    for shard in shards:
        with open_safetensors(shard):  # before anything is written
            pass
    storage = storage or Storage()
    with _export_folder(folder) as unfinished:
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
                shutil.copyfile(path, unfinished / path.name)
        written = _Shards(unfinished, storage)
        for shard in shards:
            written.add(shard)
        written.save({RELEASED_PREFIX + name: tensor for name, tensor in selector.state_dict().items()})
        written.finish()
        if storage.dtype is not None:
            _write_dtype(unfinished / "config.json", str(storage.dtype).removeprefix("torch."))


def _check_layout(selector: VGAS) -> None:
    """`UsageError` if loading by names and shapes alone would make another selector."""
    if not selector.config.audio_score:
        raise UsageError("the released layout scores audio, this selector video alone: export it with --as selector")
    if selector.config.guide != "cross" or selector.config.num_attention_heads != 8:
        raise UsageError(
            "the released layout has 8 heads and cross attention, this selector "
            f"{selector.config.num_attention_heads} and {selector.config.guide}: export it with --as selector"
        )
    if selector.label:
        logger.warning("the selector has %s: OmniSIFT can load it, the released code can not", selector.label)


@dataclass
class _Shards:
    """Shards that are being written; their names contain their number, so they are renamed at the end."""

    folder: Path
    storage: Storage
    shards: list[list[str]] = field(default_factory=list)
    """Names of the tensors in each shard."""
    size: int = 0
    """Bytes of all tensors."""

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Write one more shard with ``tensors``."""
        ready = {name: self._converted(tensor).contiguous() for name, tensor in tensors.items()}
        save_file(ready, str(self._next(list(ready))), metadata={"format": "pt"})
        self.size += sum(tensor.nbytes for tensor in ready.values())

    def add(self, shard: Path) -> None:
        """Add all tensors of ``shard`` except a selector's: copy the file if nothing changes, else rewrite it."""
        with safe_open(str(shard), framework="pt") as file:
            names = list(file.keys())
            kept = [name for name in names if not _is_selector_tensor(name)]
            if len(kept) < len(names) or self.storage != Storage():
                self._rewrite(file, kept)
                return
        shutil.copyfile(shard, self._next(kept))
        with shard.open("rb") as raw:  # the first eight bytes hold the length of the header
            self.size += shard.stat().st_size - 8 - int.from_bytes(raw.read(8), "little")

    def finish(self) -> None:
        """Give the shards their final names and write the index."""
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self.shards, start=1):
            name = f"model-{number:05d}-of-{len(self.shards):05d}.safetensors"
            (self.folder / f"{number}.part").rename(self.folder / name)
            weight_map |= dict.fromkeys(names, name)
        index = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(weight_map.items()))}
        (self.folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _rewrite(self, file: Any, names: list[str]) -> None:
        pending: dict[str, Tensor] = {}
        size = 0
        for name in names:
            tensor = self._converted(file.get_tensor(name))
            if pending and self.storage.limit is not None and size + tensor.nbytes > self.storage.limit:
                self.save(pending)
                pending, size = {}, 0
            pending[name] = tensor
            size += tensor.nbytes
        if pending:
            self.save(pending)

    def _converted(self, tensor: Tensor) -> Tensor:
        return (
            tensor.to(self.storage.dtype) if self.storage.dtype is not None and tensor.is_floating_point() else tensor
        )

    def _next(self, names: list[str]) -> Path:
        self.shards.append(names)
        return self.folder / f"{len(self.shards)}.part"


def _is_selector_tensor(name: str) -> bool:
    return name.startswith((RELEASED_PREFIX, RELEASED_PREFIX.removeprefix("thinker.")))


def _write_dtype(config: Path, dtype: str) -> None:
    """Write ``dtype`` wherever a model's ``config`` has one."""

    def with_dtype(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: dtype if k in ("dtype", "torch_dtype") and v else with_dtype(v) for k, v in node.items()}

    config.write_text(
        json.dumps(with_dtype(json.loads(config.read_text(encoding="utf-8"))), indent=2), encoding="utf-8"
    )


@contextmanager
def _export_folder(folder: Path) -> Iterator[Path]:
    """`atomic_folder`, with a full disk as one line."""
    try:
        with atomic_folder(folder) as unfinished:
            yield unfinished
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"can't export to {folder} ({error}); free disk space or choose another folder"
        ) from error
