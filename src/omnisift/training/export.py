"""Weights out: a selector as its own small folder, or merged into its model's checkpoint in the released layout."""

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
from omnisift.pipeline.loading import read_selector
from omnisift.utils.atomic_io import atomic_folder
from omnisift.vgas import RELEASED_PREFIX, VGAS

logger = logging.getLogger(__name__)
INDEX = "model.safetensors.index.json"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_CARD = """# OmniSIFT selector

A vision-guided audio selector (arXiv 2602.04804) for a Qwen2.5-Omni model with embeddings of width {width}:
{count:,} parameters, layout {layout}. It chooses the audio tokens that stay when a prompt is compressed. A quarter of
the video and audio tokens (`retain=0.25`) is a good start.

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
from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained("MODEL")
processor = AutoProcessor.from_pretrained("MODEL")
selector = omnisift.VGAS.from_pretrained("SELECTOR")

inputs = omnisift.inputs(processor, "clip.mp4", "What happens?").to(model.device, model.dtype)
with omnisift.attach(model, "omnisift", retain=0.25, selector=selector) as attachment:
    model.generate(**inputs)
print(attachment.last.retained_ratio)
```
"""


@dataclass(frozen=True)
class Storage:
    """How tensors are written: ``dtype`` None as stored, ``limit`` bytes a shard, None for shards as they are."""

    dtype: torch.dtype | None = None
    limit: int | None = None


def storage(dtype: str | None = None, size: str | None = None) -> Storage:
    """`Storage` from words, as ``bfloat16`` and ``5GB``. `UsageError` for others."""
    if dtype is not None and dtype not in _DTYPES:
        raise UsageError(f"unknown dtype {dtype!r}; use one of {', '.join(_DTYPES)}")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?B)", size.upper()) if size is not None else None
    if size is not None and (found is None or float(found[1]) == 0):
        raise UsageError(f"a shard size is a number with B, KB, MB or GB, as 5GB; got {size!r}")
    limit = int(float(found[1]) * _UNITS[found[2]]) if found else None
    return Storage(_DTYPES[dtype] if dtype else None, limit)


def selector_of(source: Path, selector: Path | None) -> VGAS:
    """The selector of the checkpoint at ``source``, or at ``selector``, as stored. The model is not loaded.

    Raises:
        UsageError: no checkpoint or no selector folder there.
        CompressorError, CheckpointError: no selector, or one that does not fit.
    """
    from transformers import PretrainedConfig

    if not (source / "config.json").is_file():
        raise UsageError(f"{source} holds no config.json; give nano or the folder of a checkpoint")
    config, _ = PretrainedConfig.get_config_dict(str(source))
    text = config.get("thinker_config", config).get("text_config", {})
    if "hidden_size" not in text:
        raise CheckpointError(f"{source}/config.json says no width of a thinker; give a Qwen2.5-Omni checkpoint")
    return read_selector(str(source), str(source), selector, text["hidden_size"])


def export_selector(selector: VGAS, folder: Path, how: Storage | None = None) -> None:
    """``config.json``, ``model.safetensors`` and a card; the folder appears only when it is whole."""
    stored: Any = selector
    if how is not None and how.dtype is not None:
        stored = stored.to(how.dtype)
    layout = selector.label or "as released"
    count = sum(parameter.numel() for parameter in selector.parameters())
    with _room(folder) as unfinished:
        stored.save_pretrained(unfinished)
        card = _CARD.format(width=selector.config.input_size, count=count, layout=layout)
        (unfinished / "README.md").write_text(card, encoding="utf-8")


def export_merged(source: Path, selector: VGAS, folder: Path, how: Storage | None = None) -> None:
    """``source``, a whole model's checkpoint, with the selector as ``thinker.compressor.*`` in one more shard.

    Shards are copied as files and not loaded; with a dtype or a limit they are written anew, one in memory at a time.
    A selector that was in the checkpoint is left out.

    Raises:
        UsageError: the released layout can't say this selector's guide or heads.
        CheckpointError: ``source`` has no safetensors, or ``folder`` can't be written.
    """
    _check_layout(selector)
    shards = _shards_of(source)
    how = how or Storage()
    with _room(folder) as unfinished:
        for path in source.iterdir():
            if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
                shutil.copyfile(path, unfinished / path.name)
        written = _Shards(unfinished, how)
        for shard in shards:
            written.take_over(shard)
        written.save({RELEASED_PREFIX + name: tensor for name, tensor in selector.state_dict().items()})
        written.finish()
        if how.dtype is not None:
            _say_dtype(unfinished / "config.json", str(how.dtype).removeprefix("torch."))


def _check_layout(selector: VGAS) -> None:
    """`UsageError` if loading from names and shapes alone would make another selector."""
    if selector.config.guide != "cross" or selector.config.num_attention_heads != 8:
        raise UsageError(
            "the released layout has 8 heads and cross attention, this selector "
            f"{selector.config.num_attention_heads} and {selector.config.guide}: export it with --as selector"
        )
    if selector.label:
        logger.warning("the selector has %s: omnisift reads it back, the released code does not", selector.label)


@dataclass
class _Shards:
    """Shards of a checkpoint in the making; their names say how many there are, so they come last."""

    folder: Path
    how: Storage
    held: list[list[str]] = field(default_factory=list)
    """Names of the tensors in each shard."""
    size: int = 0

    def save(self, tensors: dict[str, Tensor]) -> None:
        """One more shard with ``tensors``."""
        ready = {name: self._converted(tensor).contiguous() for name, tensor in tensors.items()}
        save_file(ready, str(self._next(list(ready))), metadata={"format": "pt"})
        self.size += sum(tensor.nbytes for tensor in ready.values())

    def take_over(self, shard: Path) -> None:
        """All tensors of ``shard`` but a selector's: the file itself if nothing changes, else written anew."""
        with safe_open(str(shard), framework="pt") as file:
            names = list(file.keys())
            kept = [name for name in names if not _is_selectors(name)]
            if len(kept) < len(names) or self.how != Storage():
                self._write_anew(file, kept)
                return
        shutil.copyfile(shard, self._next(kept))
        with shard.open("rb") as raw:  # eight bytes say how long the header is, data follow it
            self.size += shard.stat().st_size - 8 - int.from_bytes(raw.read(8), "little")

    def finish(self) -> None:
        """Final names, and the index."""
        where: dict[str, str] = {}
        for number, names in enumerate(self.held, start=1):
            name = f"model-{number:05d}-of-{len(self.held):05d}.safetensors"
            (self.folder / f"{number}.part").rename(self.folder / name)
            where |= dict.fromkeys(names, name)
        index = {"metadata": {"total_size": self.size}, "weight_map": dict(sorted(where.items()))}
        (self.folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")

    def _write_anew(self, file: Any, names: list[str]) -> None:
        pending: dict[str, Tensor] = {}
        held = 0
        for name in names:
            tensor = self._converted(file.get_tensor(name))
            if pending and self.how.limit is not None and held + tensor.nbytes > self.how.limit:
                self.save(pending)
                pending, held = {}, 0
            pending[name] = tensor
            held += tensor.nbytes
        if pending:
            self.save(pending)

    def _converted(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.how.dtype) if self.how.dtype is not None and tensor.is_floating_point() else tensor

    def _next(self, names: list[str]) -> Path:
        self.held.append(names)
        return self.folder / f"{len(self.held)}.part"


def _shards_of(source: Path) -> list[Path]:
    """The files that the index names, so that an adapter beside them is not taken for the model; else all."""
    index = source / INDEX
    if index.is_file():
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        shards = sorted({source / name for name in named})
    else:
        shards = sorted(source.glob("*.safetensors"))
    if not shards:
        raise CheckpointError(f"{source} holds no .safetensors file: give the folder of a checkpoint")
    for shard in shards:
        if not shard.is_file():
            raise CheckpointError(f"{index} names {shard.name}, which is not there: download the checkpoint again")
    return shards


def _is_selectors(name: str) -> bool:
    return name.startswith((RELEASED_PREFIX, RELEASED_PREFIX.removeprefix("thinker.")))


def _say_dtype(config: Path, dtype: str) -> None:
    """Write ``dtype`` wherever a model's ``config`` names one."""

    def said(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {k: dtype if k in ("dtype", "torch_dtype") and v else said(v) for k, v in node.items()}

    config.write_text(json.dumps(said(json.loads(config.read_text(encoding="utf-8"))), indent=2), encoding="utf-8")


@contextmanager
def _room(folder: Path) -> Iterator[Path]:
    """`atomic_folder`, with a full disk said in one line."""
    try:
        with atomic_folder(folder) as unfinished:
            yield unfinished
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"can't export to {folder} ({error}); free space or choose another place") from error
