"""The compressor at the model that ms-swift trains or asks: attached as long as it does, and checked at each step."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from omnisift.compressors import make_compressor
from omnisift.compressors.omnisift import trainable_part
from omnisift.errors import TrainingError
from omnisift.integrations.ms_swift.selectors import NEW, selector_in
from omnisift.integrations.ms_swift.settings import PREFIX, SwiftSettings
from omnisift.models import Attachment, Compression, attach
from omnisift.models.attachment import is_attached
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.models.training_checks import assert_compressed, zero_loss_anchor

logger = logging.getLogger(__name__)


class TrainerHook:
    """``with TrainerHook(model, settings): ...`` compresses every prompt of ``model``, which PEFT may have wrapped.

    ``learning``: the loss gets a gradient to all that learns, in batches without sound too.

    Raises:
        TrainingError: the selector is new and would not learn, or its estimator needs another loop of training.
        CompressorError, UsageError: the compressor can't be made as asked.
    """

    def __init__(self, model: nn.Module, settings: SwiftSettings, learning: bool = True) -> None:
        unwrap: Any = getattr(model, "get_base_model", None)
        selector = selector_in(model if unwrap is None else unwrap())
        compressor = make_compressor(settings.compressor, settings.budget, selector=selector)
        self._learner = trainable_part(compressor)
        if learning:
            self._check(settings, selector)
        self.attachment: Attachment = attach(model, compressor.train(learning))
        self._touch = torch.zeros(())
        self._handles: list[RemovableHandle] = []
        if learning:
            # Behind the attachment's own hooks, so that the loss is there; inside of what DDP wraps, where it looks.
            self._handles.append(model.register_forward_pre_hook(self._before))
            self._handles.append(model.register_forward_hook(self._behind))

    def __enter__(self) -> TrainerHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Unplug; a second call does nothing."""
        self.attachment.detach()
        while self._handles:
            self._handles.pop().remove()

    def begin(self, progress: float) -> None:
        """Before a step of training: forget the prompt before; soft estimators harden with ``progress``, 0 to 1."""
        self.attachment.last = self.attachment.cut = None
        if self._learner is not None:
            self._learner.estimator.progress = progress

    def end(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Compression | None]:
        """After it: the labels [B, K] of the cut prompt, and what was cut; None for prompts without video.

        Raises `TrainingError` if nothing was.
        """
        assert_compressed(self.attachment, input_ids)
        cut = self.attachment.cut
        return labels if cut is None else cut.labels(labels), self.attachment.last

    def _before(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        self._touch = zero_loss_anchor(module, self.attachment.adapter.parts.language_model)

    def _behind(self, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG002
        if getattr(output, "loss", None) is not None and output.loss.requires_grad:
            output.loss = output.loss + self._touch.to(output.loss.device)
        return output

    def _check(self, settings: SwiftSettings, selector: Any) -> None:
        learns = selector is not None and any(p.requires_grad for p in selector.parameters())
        if selector is not None and settings.selector == NEW and not learns:
            raise TrainingError(
                f"{PREFIX}SELECTOR is {NEW}, and its random weights would not learn: add --modules_to_save compressor"
            )
        if selector is not None:
            logger.info("the selector %s", "learns" if learns else "is kept as it is")
        if learns and self._learner is not None and self._learner.estimator.samples > 1:
            raise TrainingError(
                f"estimator {self._learner.estimator.name!r} asks several forward passes of each step, which ms-swift "
                "does not make; take another (docs/estimators.md), or omnisift train"
            )


def check_partners(joined: bool) -> None:
    """Raise `TrainingError` where a launcher started several processes (``WORLD_SIZE``) and they did not join.

    ``joined``: whether the trainer averages their gradients. On a CPU ms-swift's does not without ``--use_cpu``.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and not joined:
        raise TrainingError(
            f"{started} processes should train together, but each would train a model of its own: on a CPU add "
            "--use_cpu true --ddp_backend gloo"
        )


def refuse_whole(model: nn.Module) -> None:
    """From now on the language model of ``model`` refuses prompts that no compressor has seen.

    As when the template of a run is another than ours.
    """
    Qwen25OmniAdapter(model).parts.language_model.register_forward_pre_hook(_refuse)


def _refuse(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if not is_attached(module):
        raise TrainingError(
            "training without compression: the model was called without a compressor attached; leave --template out, "
            "and use swift sft, pt, infer or export"
        )
