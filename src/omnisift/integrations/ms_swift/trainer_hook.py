"""Attach the compressor to the model that ms-swift trains or generates with, and check each step."""

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
from omnisift.integrations.ms_swift.selectors import NEW, find_selector
from omnisift.integrations.ms_swift.settings import PREFIX, SwiftSettings
from omnisift.models import Attachment, Compression, adapter_for, attach
from omnisift.models.attachment import is_attached
from omnisift.models.training_checks import assert_compressed, zero_loss_anchor

logger = logging.getLogger(__name__)


class TrainerHook:
    """Compresses every prompt of a model while attached; a context manager.

    Args:
        model: the model that the trainer calls, possibly wrapped by PEFT.
        settings: compressor, budget and selector.
        training: whether the loss must give every trainable parameter a gradient, also in batches without audio.

    Raises:
        TrainingError: the selector is new and would not be trained, or its estimator needs another training loop.
        CompressorError: the compressor can't be made.
        UsageError: the compressor is not valid.
    """

    def __init__(self, model: nn.Module, settings: SwiftSettings, training: bool = True) -> None:
        unwrap: Any = getattr(model, "get_base_model", None)
        selector = find_selector(model if unwrap is None else unwrap())
        compressor = make_compressor(settings.compressor, settings.budget, selector=selector, seed=settings.seed)
        self._learner = trainable_part(compressor)
        if training:
            self._check(settings, selector)
        self.attachment: Attachment = attach(model, compressor.train(training))
        self._zero_loss = torch.zeros(())
        self._handles: list[RemovableHandle] = []
        if training:
            # Registered after the attachment's hooks, so that the loss is there, and on the module inside DDP's
            # wrapper, which searches the output for parameters.
            self._handles.append(model.register_forward_pre_hook(self._pre_forward))
            self._handles.append(model.register_forward_hook(self._post_forward))

    def __enter__(self) -> TrainerHook:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def detach(self) -> None:
        """Remove the compressor and all hooks; a second call does nothing."""
        self.attachment.detach()
        while self._handles:
            self._handles.pop().remove()

    def before_step(self, progress: float) -> None:
        """Prepare a training step.

        Args:
            progress: share of the training that is done, 0 to 1; soft estimators become harder with it.
        """
        self.attachment.last = self.attachment.cut = None
        if self._learner is not None:
            self._learner.estimator.progress = progress

    def after_step(self, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Compression | None]:
        """Check that the step was compressed.

        Args:
            input_ids: [B, S] of the uncompressed prompts.
            labels: [B, S].

        Returns:
            The labels [B, K] of the cut prompts, and the record of the compression; None for prompts without video.

        Raises:
            TrainingError: nothing was cut.
        """
        assert_compressed(self.attachment, input_ids)
        cut = self.attachment.cut
        return labels if cut is None else cut.labels(labels), self.attachment.last

    def _pre_forward(self, module: nn.Module, args: Any) -> None:  # noqa: ARG002
        self._zero_loss = zero_loss_anchor(module, self.attachment.adapter.parts.language_model)

    def _post_forward(self, module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG002
        # A term of zero that depends on every trainable parameter: DDP waits for the gradient of each.
        if getattr(output, "loss", None) is not None and output.loss.requires_grad:
            output.loss = output.loss + self._zero_loss.to(output.loss.device)
        return output

    def _check(self, settings: SwiftSettings, selector: Any) -> None:
        trained = selector is not None and any(p.requires_grad for p in selector.parameters())
        if selector is not None and settings.selector == NEW and not trained:
            raise TrainingError(
                f"{PREFIX}SELECTOR is {NEW}, but its random weights would not be trained; add --modules_to_save "
                "compressor"
            )
        if selector is not None:
            logger.info("the selector is %s", "trained" if trained else "frozen")
        if trained and self._learner is not None and self._learner.estimator.samples > 1:
            raise TrainingError(
                f"estimator {self._learner.estimator.name!r} needs several forward passes per step, which ms-swift "
                "does not make; choose another (docs/estimators.md), or use omnisift train"
            )


def check_processes(joined: bool) -> None:
    """Check that the processes which a launcher started (``WORLD_SIZE``) train one model.

    Args:
        joined: whether the trainer averages their gradients. On a CPU ms-swift's does so only with ``--use_cpu``.

    Raises:
        TrainingError: there are several processes, and they are not joined.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and not joined:
        raise TrainingError(
            f"{started} processes should train together, but each would train its own model; on a CPU add "
            "--use_cpu true --ddp_backend gloo"
        )


def refuse_uncompressed(model: nn.Module) -> None:
    """Let the language model of ``model`` raise `TrainingError` for prompts that no compressor has seen.

    This happens when a run uses another template than the plugin's.
    """
    adapter_for(model).parts.language_model.register_forward_pre_hook(_refuse)


def _refuse(module: nn.Module, args: Any) -> None:  # noqa: ARG001
    if not is_attached(module):
        raise TrainingError(
            "training without compression: the model was called without a compressor attached; leave --template out, "
            "and use swift sft, pt, infer or export"
        )
