"""What any loop of training owes a model with a compressor attached: a look at the cut, a touch of all that learns."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from omnisift.errors import TrainingError
from omnisift.models.attachment import Attachment
from omnisift.models.compression import Compression
from omnisift.tokens import Modality

SURE = 32
"""A clip of fewer tokens may rightly be kept whole."""


def check_cut(attachment: Attachment, input_ids: Tensor) -> None:
    """Raise `TrainingError` if the prompts ``input_ids`` [B, S], with video, were read whole and should not have been.

    Call it after each forward pass.
    """
    video = attachment.adapter.modality(input_ids.cpu()) == Modality.VIDEO
    if attachment.compressor.budget.keeps_all or not bool(video.any()):
        return
    last: Compression | None = attachment.last
    if last is None:
        raise TrainingError(
            "training without compression: a prompt with video never came past the hooks of the compressor; "
            "call the model that it is attached to, not what that wraps, and don't detach while training"
        )
    tokens, kept = last.n_video + last.n_audio, last.kept_video + last.kept_audio
    if tokens >= SURE and kept == tokens:
        raise TrainingError(
            f"training without compression: all {tokens} video and audio tokens of a batch stayed; "
            "check the budget and the compressor"
        )


def touched(module: nn.Module, language_model: nn.Module) -> Tensor:
    """0, with a gradient of 0 for all that learns in ``module`` outside its ``language_model``: what a batch without
    sound or picture may not ask. What is here as a shard is left out.

    To be added to the loss, since distributed processes wait for every gradient. **Make it before the forward pass.**
    What is made first is differentiated last, so these gradients are complete at the end of every backward pass, in one
    order, whatever a batch holds. DeepSpeed's ZeRO sums gradients over the processes in the order in which they come:
    in another order it sums those of different weights, without a word.
    """
    always = {id(parameter) for parameter in language_model.parameters()}
    every = (p for p in module.parameters() if p.requires_grad and id(p) not in always)
    learns = [p for p in every if not hasattr(p, "placements")]
    return 0.0 * torch.stack([p.float().flatten()[0] for p in learns]).sum() if learns else torch.zeros(())
