"""Helpers for training loops: verify that compression happened, and keep unused parameters in the graph."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omnisift.chunks import has_clips
from omnisift.errors import TrainingError
from omnisift.models.attachment import Attachment
from omnisift.models.compression import Compression

MIN_TOKENS = 32
"""Prompts with fewer video and audio tokens may keep all of them."""


def assert_compressed(attachment: Attachment, input_ids: Tensor) -> None:
    """Check after a forward pass that prompts with video were compressed.

    Args:
        attachment: of the compressor.
        input_ids: [B, S] int64, the prompts of the pass.

    Raises:
        TrainingError: a prompt with video bypassed the compressor, or kept every token although the budget is a
            ratio below 1.
    """
    budget = attachment.compressor.budget
    modality = attachment.adapter.modality(input_ids.cpu())
    if budget.keeps_all or not has_clips(modality, compress_audio=budget.compress_audio):
        return
    last: Compression | None = attachment.last
    if last is None:
        raise TrainingError(
            "training without compression: a prompt with video bypassed the hooks of the compressor; "
            "call the model that it is attached to, not the one inside, and don't detach while training"
        )
    total, kept = last.n_video + last.n_audio + last.n_text, last.kept_video + last.kept_audio + last.kept_text
    # A number of tokens keeps all of the clips that have no more.
    if total >= MIN_TOKENS and kept == total and budget.tokens is None:
        raise TrainingError(
            f"training without compression: all {total} tokens of the clips of a batch were kept; "
            "check the budget and the compressor"
        )


def zero_loss_anchor(module: nn.Module, language_model: nn.Module) -> Tensor:
    """Return a loss of 0 that gives a gradient of 0 to every trainable parameter outside the language model.

    Add it to the loss: distributed processes wait for every gradient, and a batch without audio or video uses neither
    encoders nor selector. Sharded parameters (with ``placements``) are left out.

    **Call it before the forward pass.** The backward pass differentiates last what was computed first, so these
    gradients complete at its end and in the same order for every batch. DeepSpeed's ZeRO sums gradients over processes
    in the order in which they complete: in different orders it silently sums those of different weights.

    Args:
        module: the module that is trained.
        language_model: the part of it that every batch uses.
    """
    in_language_model = {id(parameter) for parameter in language_model.parameters()}
    trainable = (p for p in module.parameters() if p.requires_grad and id(p) not in in_language_model)
    local = [p for p in trainable if not hasattr(p, "placements")]
    return 0.0 * torch.stack([p.float().flatten()[0] for p in local]).sum() if local else torch.zeros(())
