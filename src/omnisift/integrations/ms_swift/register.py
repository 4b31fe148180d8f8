"""Model type and template of ms-swift 4.6: its own classes for Qwen2.5-Omni, with a compressor in between.

ms-swift merges pictures and sound into the embeddings in a hook of its own and drops the ids; a model that would cut
its prompt by what its ``forward`` is handed then reads everything, without a word. So the ids are handed on, and the
compressor is attached to whatever the trainer calls (`omnisift.models.attach` does the rest).
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
from omnisift.integrations.ms_swift.selectors import give_selector
from omnisift.integrations.ms_swift.settings import SOUND, SwiftSettings, check_sound
from omnisift.integrations.ms_swift.trainer_hook import TrainerHook, check_partners, refuse_whole


class CompressedLoader(Qwen2_5OmniLoader):  # type: ignore[misc]
    """The model with its selector as ``thinker.compressor``, and a guard against prompts that are read whole."""

    default_trust_remote_code = False

    def get_model(self, model_dir: str, *args: Any, **kwargs: Any) -> Any:
        """As usual, then the selector."""
        model = super().get_model(model_dir, *args, **kwargs)
        if not self.return_dummy_model:
            give_selector(model, model_dir, SwiftSettings.of(os.environ))
            refuse_whole(model)
        return model


class CompressedTemplate(Qwen2_5OmniTemplate):  # type: ignore[misc]
    """Attaches the compressor while ms-swift trains or writes, and stops a run that would not compress."""

    _plug: TrainerHook | None = None

    def init_processor(self, processor: Any) -> None:
        """Refuse wrong settings before anything is loaded."""
        super().init_processor(processor)
        if processor is not None:
            self._settings = SwiftSettings.of(os.environ)
            check_sound(self.use_audio_in_video, SOUND in os.environ, self._settings)

    def __getstate__(self) -> dict[str, Any]:
        """For workers that read data: without the model."""
        return {**super().__getstate__(), "_plug": None}

    def set_mode(self, mode: str) -> None:
        """Raises `TrainingError` for engines and kinds of training that would see no compressor."""
        if mode not in ("train", "transformers", "pt"):
            raise TrainingError(f"mode {mode!r} of ms-swift does not compress: use swift sft, pt, infer or export")
        super().set_mode(mode)

    def register_post_encode_hook(self, models: list[nn.Module]) -> None:
        """Attach to the model that is trained, behind ms-swift's own hook."""
        if self._plug is not None:
            return
        if is_deepspeed_zero3_enabled():
            raise TrainingError("DeepSpeed ZeRO-3 shards the selector and hangs on mixed batches: use ZeRO-2")
        super().register_post_encode_hook(models)
        (model,) = models
        self._plug = TrainerHook(model, self._settings)

    def remove_post_encode_hook(self) -> Any:
        """Detach."""
        if self._plug is not None:
            self._plug.detach()
            self._plug = None
        return super().remove_post_encode_hook()

    def pre_forward_hook(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Merged embeddings as usual, with the ids beside them: only they tell which token is what."""
        ids: Tensor = kwargs["input_ids"]
        args, kwargs = super().pre_forward_hook(model, args, kwargs)
        return args, {**kwargs, "input_ids": ids}

    def compute_sft_loss(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None, trainer: Any = None
    ) -> Any:
        """As usual, then the check; the labels become those of the cut prompt, and the trainer logs what stayed."""
        if self._plug is None or "labels" not in inputs:
            raise TrainingError(
                "this run computes its loss apart from the model, on the uncut prompt: leave out --loss_scale, "
                "--loss_type, --label_smoothing_factor, --enable_dft_loss, --enable_channel_loss and sequence parallel"
            )
        check_partners(trainer.args.parallel_mode == ParallelMode.DISTRIBUTED)
        self._plug.begin(trainer.state.global_step / max(1, trainer.state.max_steps))
        outputs = super().compute_sft_loss(model, inputs, num_items_in_batch=num_items_in_batch, trainer=trainer)
        inputs["labels"], last = self._plug.end(inputs["input_ids"], inputs["labels"])
        if last is not None:
            metrics = trainer.custom_metrics["train" if trainer.model.training else "eval"]
            metrics["retained_ratio"].update(last.retained_ratio)
            metrics["retained_video"].update(last.kept_video / max(1, last.n_video))
            if last.n_audio:
                metrics["retained_audio"].update(last.kept_audio / last.n_audio)
        return outputs

    def generate(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Answers are written on compressed prompts too."""
        with TrainerHook(model, self._settings, learning=False):
            return super().generate(model, *args, **kwargs)


def register() -> None:
    """Tell ms-swift of the model type and template `MODEL_TYPE`. For `plugin_path`; once a process."""
    register_template(QwenTemplateMeta(MODEL_TYPE, template_cls=CompressedTemplate))
    register_model(
        ModelMeta(
            MODEL_TYPE,
            [],
            CompressedLoader,
            template=MODEL_TYPE,
            model_arch="qwen2_5_omni",
            # As for the built-in type: so a folder without --model_type is refused as ambiguous, not read uncompressed.
            architectures=["Qwen2_5OmniModel", "Qwen2_5OmniForConditionalGeneration"],
            is_multimodal=True,
            requires=["transformers>=5.19,<5.20", "soundfile", "qwen_omni_utils", "decord"],
            additional_saved_files=["spk_dict.pt"],
        )
    )
