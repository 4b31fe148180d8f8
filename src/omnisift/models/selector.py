"""Read selector weights from a folder, whichever of the three layouts it has; make a selector without weights."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from omnisift.errors import CheckpointError, UsageError
from omnisift.utils.checkpoint_files import read_json_object
from omnisift.utils.parsing import check_path_name
from omnisift.utils.quiet import quiet_transformers
from omnisift.vgas import VGAS, VGASConfig

ADAPTER_PREFIX = "base_model.model.thinker.compressor."
"""Prefix of selector tensors in a PEFT adapter (docs/ms-swift.md)."""


def read_selector_folder(folder: Path, hidden_size: int) -> VGAS:
    """Read the selector in ``folder``, in the dtype that it is stored in.

    Args:
        folder: saved by `VGAS.save_pretrained`, a PEFT adapter with a selector, or a checkpoint of the full model,
            with its selector in ``selector/`` or among its own tensors.
        hidden_size: width of the host's embeddings, which the selector must share.

    Raises:
        UsageError: ``folder`` is not a folder.
        CheckpointError: the selector lacks tensors, its config is unreadable, or its input size is not
            ``hidden_size``.
    """
    check_path_name(str(folder), "the selector's name")
    if not folder.is_dir():
        raise UsageError(f"no selector folder at {folder}; give one that `omnisift distill` wrote")
    if (folder / "selector").is_dir():
        folder = folder / "selector"
    vgas: VGAS
    with quiet_transformers():
        if is_selector_folder(folder):
            vgas = VGAS.from_pretrained(str(folder))
        elif (folder / "adapter_config.json").is_file():
            vgas = VGAS.from_checkpoint(folder, ADAPTER_PREFIX)
        else:
            vgas = VGAS.from_checkpoint(folder)
    check_input_size(vgas, hidden_size, str(folder))
    return vgas


def is_selector_folder(folder: Path) -> bool:
    """Whether ``folder`` was written by `VGAS.save_pretrained`."""
    config = folder / "config.json"
    return config.is_file() and read_json_object(config).get("model_type") == VGASConfig.model_type


def check_input_size(vgas: VGAS, hidden_size: int, source: str) -> None:
    """Raise `CheckpointError` unless ``vgas``, read from ``source``, takes embeddings of ``hidden_size``."""
    if vgas.config.input_size != hidden_size:
        raise CheckpointError(
            f"selector at {source} has width {vgas.config.input_size}, the model {hidden_size}; "
            "give the selector of this model"
        )


def new_selector(
    width: int,
    time_embedding: bool,
    seed: int,
    guide: str = "cross",
    layers: int = 1,
    video_score: bool = False,
    audio_score: bool = True,
) -> VGAS:
    """An untrained selector in the released layout (hidden size 512, 8 heads) or a variant of it.

    The time embedding starts as sines and cosines of a token's time in its chunk: audio then lies near the frame of the
    same time from the first step, and guidance by the video is learned in 50 steps instead of several hundred.

    Args:
        width: hidden size of the language model.
        time_embedding: whether it has a time embedding; the paper's has none.
        seed: seed of the weights.
        guide: what audio tokens attend to; see `VGASConfig`.
        layers: attention layers.
        video_score: whether it has a learned video score, which replaces STVP.
        audio_score: whether it scores audio; False for models that take none.
    """
    torch.manual_seed(seed)
    config = VGASConfig(
        input_size=width,
        time_embedding=time_embedding,
        guide=guide,
        num_hidden_layers=layers,
        video_score=video_score,
        audio_score=audio_score,
    )
    selector = VGAS(config)
    if time_embedding:
        weight = selector.time_embedding.weight
        # Wavelengths from 8 to 200 time steps.
        turn = torch.exp(torch.linspace(math.log(2 * math.pi / 8), math.log(2 * math.pi / 200), weight.shape[1] // 2))
        angle = torch.arange(len(weight))[:, None] * turn
        with torch.no_grad():
            weight.copy_(torch.cat([angle.sin(), angle.cos()], dim=1))
    return selector
