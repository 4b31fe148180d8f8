"""Model type and template for ms-swift 4.6: its own classes for Qwen2.5-Omni with a compressor attached.

ms-swift merges video and audio into the embeddings in a hook and drops ``input_ids``. A compressor that needs them in
``forward`` would then silently compress nothing. So the template passes the ids on, and `TrainerHook` attaches the
compressor to the model that the trainer calls.
"""

from __future__ import annotations

import os
from typing import Any

from swift.model import ModelMeta, register_model
from swift.model.models.qwen import Qwen2_5OmniLoader
from swift.template import register_template
from swift.template.templates.qwen import Qwen2_5OmniTemplate, QwenTemplateMeta
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.training_args import ParallelMode

from omnisift.errors import TrainingError
from omnisift.integrations.ms_swift import MODEL_TYPE
from omnisift.integrations.ms_swift.selectors import add_selector
from omnisift.integrations.ms_swift.settings import USE_AUDIO, SwiftSettings, check_audio
from omnisift.integrations.ms_swift.trainer_hook import TrainerHook, check_processes, refuse_uncompressed


class CompressedLoader(Qwen2_5OmniLoader):  # type: ignore[misc]
    """Loads the model with its selector as ``thinker.compressor``, and lets it refuse uncompressed prompts."""

    default_trust_remote_code = False

    def get_model(self, model_dir: str, *args: Any, **kwargs: Any) -> Any:
        """Load the model, then add the selector."""
        model = super().get_model(model_dir, *args, **kwargs)
        if not self.return_dummy_model:
            add_selector(model, model_dir, SwiftSettings.from_environment(os.environ))
            refuse_uncompressed(model)
        return model


class CompressedTemplate(Qwen2_5OmniTemplate):  # type: ignore[misc]
    """Attaches the compressor while ms-swift trains or generates, and stops a run that would not compress."""

    _trainer_hook: TrainerHook | None = None

    def init_processor(self, processor: Any) -> None:
        """Check the settings before the model is loaded."""
        super().init_processor(processor)
        if processor is not None:
            self._settings = SwiftSettings.from_environment(os.environ)
            check_audio(self.use_audio_in_video, USE_AUDIO in os.environ, self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for data workers, without the model."""
        return {**super().__getstate__(), "_trainer_hook": None}

    def set_mode(self, mode: str) -> None:
        """Set the mode. Raises `TrainingError` for engines and kinds of training without compression."""
        if mode not in ("train", "transformers", "pt"):
            raise TrainingError(f"mode {mode!r} of ms-swift does not compress; use swift sft, pt, infer or export")
        super().set_mode(mode)

    def register_post_encode_hook(self, models: list[nn.Module]) -> None:
        """Attach to the model that is trained, after ms-swift's own hook."""
        if self._trainer_hook is not None:
            return
        if is_deepspeed_zero3_enabled():
            raise TrainingError("DeepSpeed ZeRO-3 shards the selector and hangs on mixed batches; use ZeRO-2")
        super().register_post_encode_hook(models)
        (model,) = models
        self._trainer_hook = TrainerHook(model, self._settings)

    def remove_post_encode_hook(self) -> Any:
        """Detach."""
        if self._trainer_hook is not None:
            self._trainer_hook.detach()
            self._trainer_hook = None
        return super().remove_post_encode_hook()

    def pre_forward_hook(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Return ms-swift's merged embeddings together with ``input_ids``, which tell the modality of each token."""
        ids: Tensor = kwargs["input_ids"]
        args, kwargs = super().pre_forward_hook(model, args, kwargs)
        return args, {**kwargs, "input_ids": ids}

    def compute_sft_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None, trainer: Any = None
    ) -> Any:
        """Compute the loss, check the compression, cut the labels, and log the retained ratios."""
        if self._trainer_hook is None or "labels" not in inputs:
            raise TrainingError(
                "this run computes its loss outside the model, on the uncompressed prompt; leave out --loss_scale, "
                "--loss_type, --label_smoothing_factor, --enable_dft_loss, --enable_channel_loss and sequence parallel"
            )
        check_processes(trainer.args.parallel_mode == ParallelMode.DISTRIBUTED)
        self._trainer_hook.before_step(trainer.state.global_step / max(1, trainer.state.max_steps))
        outputs = super().compute_sft_loss(model, inputs, num_items_in_batch=num_items_in_batch, trainer=trainer)
        inputs["labels"], last = self._trainer_hook.after_step(inputs["input_ids"], inputs["labels"])
        if last is not None:
            metrics = trainer.custom_metrics["train" if trainer.model.training else "eval"]
            metrics["retained_ratio"].update(last.retained_ratio)
            metrics["retained_video"].update(last.kept_video / max(1, last.n_video))
            if last.n_audio:
                metrics["retained_audio"].update(last.kept_audio / last.n_audio)
        return outputs

    def generate(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Generate on compressed prompts."""
        with TrainerHook(model, self._settings, training=False):
            return super().generate(model, *args, **kwargs)


def register() -> None:
    """Register the model type and template `MODEL_TYPE` with ms-swift; called once per process by the plugin file."""
    register_template(QwenTemplateMeta(MODEL_TYPE, template_cls=CompressedTemplate))
    register_model(
        ModelMeta(
            MODEL_TYPE,
            [],
            CompressedLoader,
            template=MODEL_TYPE,
            model_arch="qwen2_5_omni",
            # The same as for the built-in type: a folder without --model_type is then refused as ambiguous, instead of
            # being read uncompressed.
            architectures=["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"],
            is_multimodal=True,
            requires=["transformers>=5.19,<5.20", "soundfile", "qwen_omni_utils", "decord"],
            additional_saved_files=["spk_dict.pt"],
        )
    )
