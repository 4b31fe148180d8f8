"""``python -m omnisift.lab.wide_qwen3``: train the second backbone of the wide family, of Qwen3-Omni's class.

It starts with the weights of the first one, wherever both hosts have a matrix of the same use, and its encoders learn
to repeat those of the first, with labels. The language model is then trained with all tokens, and a selector is
distilled from it without labels. Run it again to resume; every stage leaves its result and a marker in ``--out``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnisift.lab.nano import load_thinker
from omnisift.lab.training.clips import ClipBatch, HostForm, clip_batches, enlarge, frame_batches
from omnisift.lab.training.encoder_training import (
    color_and_form,
    corner_of,
    fit_heads,
    train_audio_encoder,
    train_vision_encoder,
)
from omnisift.lab.training.encoders import log_mel
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.host_encoders import frame_tokens, sound_tokens
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.qwen3_model import MAX_PIXELS, MIN_PIXELS, build_qwen3, build_qwen3_processor
from omnisift.lab.training.qwen3_start import joined_audio, start_from
from omnisift.lab.training.settings import NanoSettings
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.lab.wide import FRAMES, SECONDS_OF_AUDIO, WideBuild, WideClips, options_of, run
from omnisift.utils.assets import bundled_path
from omnisift.world import SOUNDS, WIDE_TYPES, vocabulary, world_setting

logger = logging.getLogger(__name__)

CLIPS = {"wide": WideClips(1000, 150, 6, 8, 120), "wide20": WideClips(100, 30, 1, 2), "wide60": WideClips(0, 10, 0, 1)}
"""Setting -> its clips, as in `omnisift.lab.wide.CLIPS`."""

SETTINGS = NanoSettings(
    encoder_clips=256,
    decoded_share=0.25,
    audio_steps=600,
    vision_steps=3000,
    encoder_learning_rate=1.5e-3,
    steps=1600,
    learning_rate=1e-3,
    full_share=1.0,
)
"""Numbers of the run, beside those of `CLIPS`."""


class Qwen3Build(WideBuild):
    """A `WideBuild` of the other family, on one process.

    Args:
        out: working folder.
        settings: all numbers of the run.
        clips: numbers of clips by setting.
        first: checkpoint folder of the first backbone.
    """

    name: ClassVar[str] = "wide-qwen3"
    max_pixels: ClassVar[int] = MAX_PIXELS
    processes: ClassVar[int] = 1

    def __init__(self, out: Path, settings: NanoSettings, clips: dict[str, WideClips], first: Path) -> None:
        super().__init__(out, settings, clips)
        self.first = first

    def make_tokenizer(self) -> PreTrainedTokenizerFast:
        """The first backbone's, with other sizes of images."""
        return build_tokenizer(vocabulary(WIDE_TYPES), MAX_PIXELS, MIN_PIXELS)

    def make_processor(self) -> Any:
        """The host's processor."""
        return build_qwen3_processor(self.tokenizer, SECONDS_OF_AUDIO)

    def hearing(self) -> dict[str, Any]:
        """Stage 1: a model with the first one's weights, its audio encoder trained."""
        settings, model, first = (
            self.settings,
            build_qwen3(self.tokenizer, self.settings.seed),
            load_thinker(self.first),
        )
        start_from(model, first)
        form = HostForm(audio_rate=HostForm.of(model, 0).audio_rate)
        train = list(
            clip_batches("train", 0, settings.encoder_clips, settings.decoded_share, setting="wide", form=form)
        )
        taught = _taught(train, lambda b: joined_audio(sound_tokens(core_of(first).audio_tower, log_mel(b.waves))))
        sounds = torch.cat([batch.audio_class for batch in train]).flatten()
        sounds = torch.where(sounds <= len(SOUNDS), sounds, -100)
        (head,) = fit_heads(taught.flatten(0, 1), [sounds])
        check = self._check_clips(form)
        result = train_audio_encoder(core_of(model).audio_tower, train, check, settings, head, taught)
        model.save_pretrained(self.out / "hearing")
        return dict(result)

    def encoders(self) -> dict[str, Any]:
        """Stage 2: the vision encoder trained, in the same way."""
        settings, model, first = self.settings, self.model("hearing"), load_thinker(self.first)
        form, total = HostForm.of(model, world_setting("wide").config.size), FRAMES * settings.encoder_clips
        # The first backbone reads the frames as they are drawn.
        drawn = frame_batches("train", 0, total, "wide")
        train: list[ClipBatch] = []
        taught = _taught(_enlarged(drawn, form, train), lambda b: frame_tokens(core_of(first).visual, b.images))
        logger.info("rendered %d frames for the vision encoder", total)
        labels = torch.cat([batch.video_class.flatten() for batch in train])
        color, shape = color_and_form(labels)
        corner = torch.where(color > 0, corner_of(torch.arange(len(color)), math.isqrt(taught.shape[1])), -100)
        heads = fit_heads(taught.flatten(0, 1), [color, shape, corner])
        saved = self.out / "encoders-steps" / "checkpoint.safetensors"
        check = self._check_clips(form)
        result = train_vision_encoder(core_of(model).visual, train, check, settings, heads, saved, taught)
        model.save_pretrained(self.out / "encoders")
        return dict(result)

    def embed_new_words(self, model: Any, features: FeatureCache) -> None:
        """Leave the embeddings of the first backbone, which knows all words."""

    def _check_clips(self, form: HostForm) -> list[ClipBatch]:
        count = min(50, self.settings.encoder_clips)
        return list(clip_batches("validation", 0, count, 1.0, setting="wide", form=form))


@torch.no_grad()
def _taught(batches: Iterator[ClipBatch] | list[ClipBatch], encode: Callable[[ClipBatch], Tensor]) -> Tensor:
    """[N, tokens, D]: outputs of the first backbone's encoder."""
    return torch.cat([encode(batch) for batch in batches])


def _enlarged(batches: Iterator[ClipBatch], form: HostForm, into: list[ClipBatch]) -> Iterator[ClipBatch]:
    """Yield batches as they are, and append them to ``into`` as the second backbone reads them."""
    for batch in batches:
        into.append(replace(batch, images=enlarge(batch.images, form.side)))
        yield batch


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    parser = options_of("omnisift.lab.wide_qwen3", __doc__, "build/wide-qwen3")
    parser.add_argument("--first", type=Path, help="checkpoint of the first backbone (default: the bundled wide)")
    options = parser.parse_args(arguments)
    run(options, SETTINGS, CLIPS, partial(Qwen3Build, first=options.first or bundled_path("wide")))


if __name__ == "__main__":
    main()
