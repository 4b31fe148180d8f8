"""``python -m omnisift.lab.wide_text``: fine-tune the backbone of the wide family on clips with subtitles.

``wide`` has never seen a word among the tokens of a clip. This one keeps its encoders, and its language model learns
from clips of which half have lines at their places, with all tokens or few, with sound, little of it or none. Some
lines are absent and some clips have wrong ones, so that sound counts. Run it again to resume.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch

from omnisift.budget import Budget
from omnisift.compressors import Compressor, make_compressor
from omnisift.lab.nano import load_thinker
from omnisift.lab.training.clip_lines import LinePlaces, modality_of
from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.language_model import ClipSource, train_language_model
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import WIDTH
from omnisift.lab.training.packed import WIDE_WEIGHTS, PromptLayout, clip_layout
from omnisift.lab.training.text_batches import IDS, Batch, Prompts, TextBatches
from omnisift.lab.wide import CLIPS as WIDE_CLIPS
from omnisift.lab.wide import FRAMES, WideBuild, WideClips, options_of, run
from omnisift.lab.wide import SETTINGS as WIDE_SETTINGS
from omnisift.utils.assets import bundled_path
from omnisift.vgas import VGAS
from omnisift.world import WIDE_TYPES, subtitles, world_setting

logger = logging.getLogger(__name__)
CLIPS = {"wide": WideClips(900, 150, 1, 8)}
"""Setting -> its clips."""
SETTINGS = replace(WIDE_SETTINGS, steps=900, learning_rate=5e-4)
"""Numbers of the run; those of encoders and of `CLIPS` are the backbone's."""
SOUND_SHARE = 4
"""Steps with sound for each one without."""
CHECKS: Mapping[str, tuple[bool, str, float]] = MappingProxyType(
    {
        "sound": (True, "none", 1.0),
        "lines": (False, "right", 1.0),
        "sound and lines": (True, "right", 1.0),
        "neither": (False, "none", 1.0),
        "sound and wrong lines": (True, "wrong", 1.0),
        "sound and late lines": (True, "late", 1.0),
        "10 %, sound": (True, "none", 0.1),
        "10 %, lines": (False, "right", 0.1),
        "10 %, sound and lines": (True, "right", 0.1),
    }
)
"""What is measured on validation clips -> whether there is sound, which lines there are, and what ``resift`` keeps of
video and audio; lines come on top."""


class TextBuild(WideBuild):
    """A `WideBuild` that starts from the bundled ``wide`` and trains its language model alone."""

    name: ClassVar[str] = "wide-text"
    processes: ClassVar[int] = 1
    stages: ClassVar[tuple[str, ...]] = ("features", "untouched", "language", "finish")

    @property
    def first_clip(self) -> int:
        """Training clips are new to the backbone."""
        return FRAMES * WIDE_SETTINGS.encoder_clips + WIDE_CLIPS["wide"].train

    def features(self) -> dict[str, Any]:
        """Stage 1: encode all clips with the backbone's encoders."""
        load_thinker(bundled_path("wide")).save_pretrained(self.out / "encoders")
        return super().features()

    def untouched(self) -> dict[str, Any]:
        """Stage 2: measure the backbone, which has never seen a line."""
        return self._measures(self.model("encoders"))

    def language(self) -> dict[str, Any]:
        """Stage 3: train the language model; the encoders stay."""
        settings, model, features = self.settings, self.model("encoders").float(), self.load_features("train", "wide")
        prompts = [self._prompts(model, features, sound) for sound in (*[True] * SOUND_SHARE, False)]
        sources = tuple(
            ClipSource(features, part.layout, WIDE_WEIGHTS, self.clips["wide"].per_step) for part in prompts
        )
        config = self._config(model, features, settings.steps, settings.learning_rate, 1.0, ())
        batches = TextBatches(prompts, partial(_method, _selector()), settings.seed)
        config = replace(
            config, layout=sources[0].layout, sources=sources, warmup_steps=30, use_hints=False, compress=batches
        )
        torch.manual_seed(settings.seed)
        hints, check = Hints(WIDTH, self.tokenizer), self.load_features("validation", "wide")
        train_language_model(model, hints, config, check, self.out / "language-steps", log_every=100)
        model.to(torch.bfloat16).save_pretrained(self.out / "language")
        return self._measures(self.model("language"))

    def _measures(self, model: Any) -> dict[str, Any]:
        model, check = model.float().eval(), self.load_features("validation", "wide")
        result = {}
        for name, condition in CHECKS.items():
            found = self._accuracies(model, check, *condition)
            logger.info("%s: %s", name, format_accuracies(found))
            result[name] = {kind: round(value, 4) for kind, value in found.items()}
        return {"accuracies": result}

    def _accuracies(self, model: Any, check: FeatureCache, sound: bool, lines: str, retain: float) -> dict[str, float]:
        prompts = self._prompts(model, check, sound)
        degradation = None if lines == "right" else lines

        def prepare(batch: Batch, clips: list[int]) -> Batch:
            rows = [() if lines == "none" else subtitles(check.scenes[clip], degradation) for clip in clips]
            batch = prompts.lined(batch, rows)
            return batch if retain == 1 else prompts.compressed(batch, _method(None, Budget(retain=retain), False))

        return accuracies(
            model, prompts.layout, self.writer, check, clips=len(check), types=WIDE_TYPES, prepare=prepare
        )

    def _prompts(self, model: Any, features: FeatureCache, sound: bool) -> Prompts:
        layout = self.sound_layout(model, sound)
        places = LinePlaces.of(modality_of(layout), layout.position[0], 1 / IDS)
        return Prompts(features.scenes, layout, places, self.tokenizer)

    def sound_layout(self, model: Any, sound: bool) -> PromptLayout:
        """The prompt layout of clips read with their sound, or without."""
        config = world_setting("wide").config
        return clip_layout(model, self.tokenizer, config.seconds, sound, config.size // 28)


def _selector() -> VGAS:
    """The backbone's selector."""
    selector = VGAS.from_pretrained(str(bundled_path("wide") / "selector"))
    selector.train(False)
    return selector


def _method(selector: VGAS | None, budget: Budget, trained: bool) -> Compressor:
    """``omnisift`` or ``resift``."""
    return make_compressor("omnisift" if trained else "resift", budget, selector=selector).eval()


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    options = options_of("omnisift.lab.wide_text", __doc__, "build/wide-text").parse_args(arguments)
    run(options, SETTINGS, CLIPS, TextBuild)


if __name__ == "__main__":
    main()
