"""``python -m omnisift.lab.wide``: train the backbone of the wide family, which never sees a compressed prompt.

It starts from neutral: both encoders are adapted to the images and audio of ``wide``, and the language model is trained
further with all tokens. A selector is then distilled from it without labels. Run it again to resume; every stage leaves
its result and a marker in ``--out``.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerFast

from omnisift.lab.nano import NanoBuild, recipe_provenance
from omnisift.lab.training.clips import clip_batches, frame_batches
from omnisift.lab.training.encoder_training import (
    color_and_form,
    corner_of,
    fit_heads,
    train_audio_encoder,
    train_vision_encoder,
)
from omnisift.lab.training.evaluate import accuracies, format_accuracies
from omnisift.lab.training.feature_cache import FeatureCache, class_means, encode_features
from omnisift.lab.training.language_model import ClipSource, train_language_model
from omnisift.lab.training.losses import Hints
from omnisift.lab.training.nano_model import WIDTH, build_model, build_processor, core_of, language_model_of
from omnisift.lab.training.packed import WIDE_WEIGHTS, PromptLayout, clip_layout
from omnisift.lab.training.settings import NanoSettings
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.pipeline.loading import load_host
from omnisift.training.distill import DistillSettings, distill, find_clips, observe_clips, save_selector
from omnisift.utils.assets import bundled_path
from omnisift.utils.jsonl import JsonLines
from omnisift.world import WIDE_TYPES, WORDS, vocabulary, world_setting
from omnisift.world.dataset import write_dataset

logger = logging.getLogger(__name__)
MAX_PIXELS, SECONDS_OF_AUDIO = 280 * 280, 60
FRAMES = 16
"""Frames for the vision encoder, each of another clip, for every clip of the audio encoder."""
SHARD = 100
"""Clips per file of features."""


@dataclass(frozen=True)
class WideClips:
    """Numbers of clips of one setting."""

    train: int
    validation: int
    share: int
    """How often a training step takes this setting, relative to the others."""
    per_step: int
    """Clips of such a step."""
    selector: int = 0
    """Clips on which the model's attention is recorded for the selector."""


CLIPS = {"wide": WideClips(1000, 150, 6, 8, 240), "wide20": WideClips(150, 30, 1, 2), "wide60": WideClips(0, 10, 0, 1)}
"""Setting -> its clips; no step trains on a minute, which costs as much as a hundred clips of 6 s."""


SETTINGS = NanoSettings(
    encoder_clips=320,
    decoded_share=0.25,
    audio_steps=250,
    vision_steps=4500,
    encoder_learning_rate=1.5e-3,
    steps=900,
    learning_rate=1e-3,
    full_share=1.0,
)
"""Numbers of the run, beside those of `CLIPS`."""


class WideBuild(NanoBuild):
    """A `NanoBuild` that starts from neutral.

    Args:
        out: working folder.
        settings: all numbers of the run.
        clips: numbers of clips by setting.
    """

    name: ClassVar[str] = "wide"
    """That of the bundled checkpoint."""
    max_pixels: ClassVar[int] = MAX_PIXELS
    """Pixels of an image as the host reads it."""
    stages: ClassVar[tuple[str, ...]] = ("hearing", "encoders", "features", "language", "finish", "selector")

    def __init__(self, out: Path, settings: NanoSettings, clips: dict[str, WideClips]) -> None:
        super().__init__(out, settings)
        self.clips = clips

    def make_tokenizer(self) -> PreTrainedTokenizerFast:
        """Nano's, with the words of the wide family."""
        return build_tokenizer(vocabulary(WIDE_TYPES), MAX_PIXELS)

    def hearing(self) -> dict[str, Any]:
        """Stage 1: neutral with new words, its audio encoder adapted."""
        settings, model = self.settings, self._start()
        tower = core_of(model).audio_tower
        # A head that reads neutral's own outputs; under it the encoder learns to say the same of the new sounds.
        old = encode_features(model, "train", settings.encoder_clips // 4, 0.3)
        (head,) = fit_heads(old.audio.float().flatten(0, 1), [old.audio_class.flatten()])
        train = list(clip_batches("train", 0, settings.encoder_clips, settings.decoded_share, setting="wide"))
        check = list(clip_batches("validation", 0, min(50, settings.encoder_clips), 1.0, setting="wide"))
        result = train_audio_encoder(tower, train, check, settings, head)
        model.save_pretrained(self.out / "hearing")
        return dict(result)

    def encoders(self) -> dict[str, Any]:
        """Stage 2: the vision encoder adapted, in the same way."""
        settings, model = self.settings, self.model("hearing")
        old = encode_features(model, "train", settings.encoder_clips // 2, 0.3, setting="camera")
        color, form = color_and_form(old.video_class.flatten())
        corner = torch.where(color > 0, corner_of(torch.arange(len(color))), -100)
        heads = fit_heads(old.video.float().flatten(0, 1), [color, form, corner])
        train = list(frame_batches("train", 0, FRAMES * settings.encoder_clips, "wide"))
        check = list(clip_batches("validation", 0, min(50, settings.encoder_clips), 1.0, setting="wide"))
        logger.info("rendered %d frames for the vision encoder", FRAMES * settings.encoder_clips)
        saved = self.out / "encoders-steps" / "checkpoint.safetensors"
        result = train_vision_encoder(core_of(model).visual, train, check, settings, heads, saved)
        model.save_pretrained(self.out / "encoders")
        return dict(result)

    def _start(self) -> Any:
        """Neutral's weights under the larger vocabulary; new words stay random."""
        from transformers import AutoTokenizer
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

        model = build_model(self.tokenizer, self.settings.seed)
        neutral = Thinker.from_pretrained(bundled_path("neutral"), trust_remote_code=False)
        weights = neutral.state_dict()
        known = AutoTokenizer.from_pretrained(bundled_path("neutral"), trust_remote_code=False).get_vocab()
        with torch.no_grad():
            rows, old = language_model_of(model).embed_tokens.weight, language_model_of(neutral).embed_tokens.weight
            rows.mul_(self.settings.embedding_std / rows.std())
            for word, row in self.tokenizer.get_vocab().items():
                if word in known:
                    rows[row] = old[known[word]]
        tables = ("embed_tokens.weight", "lm_head.weight")
        model.load_state_dict({k: v for k, v in weights.items() if not k.endswith(tables)}, strict=False)
        return model

    @property
    def first_clip(self) -> int:
        """Number of the first training clip of the language model."""
        return FRAMES * self.settings.encoder_clips

    def features(self) -> dict[str, Any]:
        """Stage 3: encode all clips. Validation clips go through files; training clips are new to the encoders, whose
        outputs are better on those that they were trained on.
        """
        jobs, unseen = [], self.first_clip
        for setting, clips in self.clips.items():
            for split, first, total, share in (
                ("validation", 0, clips.validation, 1.0),
                ("train", unseen, clips.train, self.settings.decoded_share),
            ):
                jobs += [(split, first + n, min(SHARD, total - n), share, setting) for n in range(0, total, SHARD)]
        self.encode(jobs)
        return {"clips": {setting: [clips.train, clips.validation] for setting, clips in self.clips.items()}}

    def language(self) -> dict[str, Any]:
        """Stage 4: go on with the language model, with all tokens only."""
        settings, model, features = self.settings, self.model("encoders"), self.load_features("train", "wide")
        self.embed_new_words(model, features)
        caches = {"wide": features} | {
            name: self.load_features("train", name) for name, c in self.clips.items() if c.train and name != "wide"
        }
        sources = [
            ClipSource(cache, self.layout(model, name), WIDE_WEIGHTS, self.clips[name].per_step)
            for name, cache in caches.items()
            for _ in range(self.clips[name].share)
        ]
        config = self._config(model, features, settings.steps, settings.learning_rate, 1.0, ())
        config = replace(config, layout=sources[0].layout, sources=tuple(sources), warmup_steps=30)
        torch.manual_seed(settings.seed)
        check = self.load_features("validation", "wide")
        train_language_model(
            model, Hints(WIDTH, self.tokenizer), config, check, self.out / "language-steps", log_every=100
        )
        model.save_pretrained(self.out / "language")
        return {name: self._measure(model, name) for name in self.clips}

    @torch.no_grad()
    def embed_new_words(self, model: Any, features: FeatureCache) -> None:
        """Let the words that neutral does not know begin as the means of the tokens that show or say them."""
        rows, means = language_model_of(model).embed_tokens.weight, class_means(features)
        for word in means.keys() & set(WORDS):
            mean, row = means[word], self.tokenizer.convert_tokens_to_ids(word)
            rows[row] = mean / mean.square().mean().sqrt() * self.settings.embedding_std

    def layout(self, model: Any, setting: str) -> PromptLayout:
        """The prompt layout of a setting's clips."""
        config = world_setting(setting).config
        return clip_layout(model, self.tokenizer, config.seconds, config.sound, config.size // 28)

    def _measure(self, model: Any, setting: str) -> dict[str, float]:
        check = self.load_features("validation", setting)
        types = world_setting(setting).types
        result = accuracies(model, self.layout(model, setting), self.writer, check, clips=len(check), types=types)
        logger.info("%s: %s", setting, format_accuracies(result))
        return {name: round(value, 4) for name, value in result.items()}

    def finish(self) -> dict[str, Any]:
        """Stage 5: write the checkpoint folder with ``recipe.json``."""
        folder, model = self.out / "checkpoint", self.model("language")
        model.generation_config.max_new_tokens = 64
        model.save_pretrained(folder)
        self.make_processor().save_pretrained(folder)
        done = self.stages[: self.stages.index("finish")]
        recipe = {
            "made_by": f"python -m omnisift.lab.{self.name.replace('-', '_')} --seed {self.settings.seed}",
            **recipe_provenance(),
            "settings": self.settings.as_dict(),
            "stages": {name: json.loads((self.out / f"{name}.json").read_text(encoding="utf-8")) for name in done},
        }
        (folder / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        return {}

    def make_processor(self) -> Any:
        """The host's processor."""
        return build_processor(self.tokenizer, self.max_pixels, SECONDS_OF_AUDIO)

    def selector(self) -> dict[str, Any]:
        """Stage 6: distil a selector from the finished model's attention, without labels; the model does not change."""
        clips = self.out / "selector-clips"
        write_dataset(clips, self.clips["wide"].selector, 0, 8, lambda: None, "wide")
        rows = [row for _, row in JsonLines(clips / "metadata.jsonl").records()]
        texts = sorted({pair["question"] for row in rows for pair in row["qa"]})
        host = load_host(str(self.out / "checkpoint"), "cpu", None, None)
        settings = DistillSettings(max_steps=self.settings.selector_steps, questions=8, max_pixels=self.max_pixels)
        found, work = find_clips(clips), self.out / "selector.work"
        samples, skipped = observe_clips(host, found, texts, settings, work, lambda: None)
        selector, report = distill(host, samples, settings)
        report |= {"model": "checkpoint", "skipped": skipped}
        save_selector(selector, report, self.out / "checkpoint" / "selector")
        return report


def options_of(module: str, doc: str | None, out: str) -> argparse.ArgumentParser:
    """The command line of a module that trains a backbone into the folder ``out`` unless told otherwise."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=doc)
    parser.add_argument("--out", type=Path, default=Path(out), help=f"working folder (default: {out})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="run every stage in about a minute; learns nothing")
    parser.add_argument("--steps", type=int, help="steps of the language model")
    parser.add_argument("--bundle", action="store_true", help="copy the result into the package")
    return parser


def run(
    options: argparse.Namespace,
    settings: NanoSettings,
    clips: dict[str, WideClips],
    build_of: Callable[[Path, NanoSettings, dict[str, WideClips]], WideBuild],
) -> None:
    """Run all stages of a build with these settings and clips, or with few if the options say so."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    if options.small:
        settings = replace(NanoSettings.small(), full_share=1.0)
        small = {"wide": WideClips(9, 4, 1, 2, 4), "wide20": WideClips(2, 2, 1, 1)}
        clips = {name: small[name] for name in clips if name in small}
    settings = replace(settings, seed=options.seed)
    if options.steps is not None:
        settings = replace(settings, steps=options.steps)
    build = build_of(options.out, settings, clips)
    build.run()
    if options.bundle:
        build.bundle(build.name)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and run all stages."""
    options = options_of("omnisift.lab.wide", __doc__, "build/wide").parse_args(arguments)
    run(options, SETTINGS, CLIPS, WideBuild)


if __name__ == "__main__":
    main()
