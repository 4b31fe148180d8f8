"""One prompt in two forms, for vLLM and for Transformers, and what Transformers with `attach` answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.assets import nano_path
from omnisift.budget import Budget
from omnisift.compressors import make_compressor, needs_selector
from omnisift.media import read
from omnisift.models import attach
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.world import make_scene, write_clip

LENGTH = 16


@dataclass(frozen=True)
class Film:
    """A video and its sound."""

    images: np.ndarray
    fps: float = 2.0
    sound: np.ndarray | None = None

    @classmethod
    def of_world(cls, folder: Path, seed: int) -> Film:
        """A clip of nano's world, decoded."""
        file = folder / f"{seed}.mp4"
        if not file.exists():
            write_clip(make_scene(seed, split="test"), file)
        media = read(file, min_pixels=12544, max_pixels=50176)
        assert media.images is not None
        return cls(media.images, media.fps, media.waveform)

    def first(self, images: int, seconds: float | None = None) -> Film:
        """Its beginning."""
        sound = self.sound if seconds is None or self.sound is None else self.sound[: int(16000 * seconds)]
        return replace(self, images=self.images[:images], sound=sound)

    @property
    def silent(self) -> Film:
        return replace(self, sound=None)


def long_film(films: list[Film], seconds: float) -> Film:
    """256 images of many clips, spread over ``seconds``, with sound all along."""
    images = np.concatenate([film.images for film in films] * 6)[:256]
    sound = np.concatenate([film.sound for film in films if film.sound is not None] * 6)
    return Film(images, 256 / seconds, np.tile(sound, 2)[: int(16000 * seconds)])


@dataclass(frozen=True)
class Prompt:
    """Media in this order: images, videos, plain sounds; then the question."""

    question: str = "what shape is it ?"
    images: tuple[Any, ...] = ()
    films: tuple[Film, ...] = ()
    sounds: tuple[np.ndarray, ...] = ()

    def text(self, processor: Any) -> str:
        kinds = ["image"] * len(self.images) + ["video"] * len(self.films) + ["audio"] * len(self.sounds)
        content = [*({"type": kind, kind: "-"} for kind in kinds), {"type": "text", "text": self.question}]
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text

    def for_vllm(self, processor: Any, **asked: Any) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if self.images:
            data["image"] = list(self.images)
        if self.films:
            data["video"] = [(film.images, {"fps": film.fps, "audio": film.sound}) for film in self.films]
        if self.sounds:
            data["audio"] = list(self.sounds)
        return {"prompt": self.text(processor), "multi_modal_data": data, "mm_processor_kwargs": asked}

    def for_transformers(self, processor: Any) -> dict[str, Any]:
        heard = [film.sound for film in self.films if film.sound is not None]
        arguments: dict[str, Any] = {"text": [self.text(processor)], "return_tensors": "pt"}
        if self.images:
            arguments["images"] = list(self.images)
        if self.films:
            arguments["videos"] = [np.ascontiguousarray(film.images.transpose(0, 3, 1, 2)) for film in self.films]
            arguments["videos_kwargs"] = {
                "fps": self.films[0].fps, "do_sample_frames": False, "use_audio_in_video": bool(heard)
            }  # fmt: skip
        if heard or self.sounds:
            arguments["audio"] = [*heard, *self.sounds]
            arguments["audio_kwargs"] = {"truncation": False}
        return {**processor(**arguments), "use_audio_in_video": bool(heard)}


class Reference:
    """nano in Transformers, with a compressor attached."""

    def __init__(self) -> None:
        self.host: Host = load_host("nano", "cpu", "float32", None)
        self.processor = self.host.processor
        self._known: dict[Any, list[int]] = {}

    def tokens(self, prompt: Prompt, budget: Budget | None = None, method: str = "omnisift") -> list[int]:
        """The first `LENGTH` greedy tokens."""
        key = (id(prompt), budget, method)
        if key not in self._known:
            self._known[key] = self._tokens(prompt, Budget(retain=0.25) if budget is None else budget, method)
            self._kept_alive = (*getattr(self, "_kept_alive", ()), prompt)  # or its id could come again
        return self._known[key]

    def _tokens(self, prompt: Prompt, budget: Budget, method: str) -> list[int]:
        inputs = prompt.for_transformers(self.processor)
        selector = load_selector(self.host, nano_path() / "selector") if needs_selector(method) else None
        with attach(self.host.thinker, make_compressor(method, budget, selector=selector).eval()), torch.no_grad():
            found = self.host.thinker.generate(**inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
        return found[0, inputs["input_ids"].shape[1] :].tolist()
