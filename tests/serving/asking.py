"""Prompts in two forms, for vLLM and for Transformers, and the answers of Transformers with `attach`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor, needs_selector
from omnisift.media import read
from omnisift.models import attach
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.utils.assets import nano_path
from omnisift.world import make_scene, write_clip

LENGTH = 16


@dataclass(frozen=True)
class Video:
    """Images of a video and its audio."""

    images: np.ndarray
    fps: float = 2.0
    audio: np.ndarray | None = None

    @classmethod
    def of_world(cls, folder: Path, seed: int) -> Video:
        """A clip of nano's world, decoded."""
        file = folder / f"{seed}.mp4"
        if not file.exists():
            write_clip(make_scene(seed, split="test"), file)
        media = read(file, min_pixels=12544, max_pixels=50176)
        assert media.images is not None
        return cls(media.images, media.fps, media.waveform)

    def first(self, images: int, seconds: float | None = None) -> Video:
        """The first part of the video."""
        audio = self.audio if seconds is None or self.audio is None else self.audio[: int(16000 * seconds)]
        return replace(self, images=self.images[:images], audio=audio)

    @property
    def muted(self) -> Video:
        return replace(self, audio=None)


def long_video(videos: list[Video], seconds: float) -> Video:
    """256 images of many clips, spread over ``seconds``, with audio over all of it."""
    images = np.concatenate([video.images for video in videos] * 6)[:256]
    audio = np.concatenate([video.audio for video in videos if video.audio is not None] * 6)
    return Video(images, 256 / seconds, np.tile(audio, 2)[: int(16000 * seconds)])


@dataclass(frozen=True)
class Prompt:
    """Media in this order: images, videos, plain audio items; then the question."""

    question: str = "what shape is it ?"
    images: tuple[Any, ...] = ()
    videos: tuple[Video, ...] = ()
    audios: tuple[np.ndarray, ...] = ()

    def text(self, processor: Any) -> str:
        kinds = ["image"] * len(self.images) + ["video"] * len(self.videos) + ["audio"] * len(self.audios)
        content = [*({"type": kind, kind: "-"} for kind in kinds), {"type": "text", "text": self.question}]
        text: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return text

    def for_vllm(self, processor: Any, **kwargs: Any) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if self.images:
            data["image"] = list(self.images)
        if self.videos:
            data["video"] = [(video.images, {"fps": video.fps, "audio": video.audio}) for video in self.videos]
        if self.audios:
            data["audio"] = list(self.audios)
        return {"prompt": self.text(processor), "multi_modal_data": data, "mm_processor_kwargs": kwargs}

    def for_transformers(self, processor: Any) -> dict[str, Any]:
        video_audio = [video.audio for video in self.videos if video.audio is not None]
        arguments: dict[str, Any] = {"text": [self.text(processor)], "return_tensors": "pt"}
        if self.images:
            arguments["images"] = list(self.images)
        if self.videos:
            arguments["videos"] = [np.ascontiguousarray(video.images.transpose(0, 3, 1, 2)) for video in self.videos]
            arguments["videos_kwargs"] = {
                "fps": self.videos[0].fps, "do_sample_frames": False, "use_audio_in_video": bool(video_audio)
            }  # fmt: skip
        if video_audio or self.audios:
            arguments["audio"] = [*video_audio, *self.audios]
            arguments["audio_kwargs"] = {"truncation": False}
        return {**processor(**arguments), "use_audio_in_video": bool(video_audio)}


class Reference:
    """A model in Transformers, with a compressor attached."""

    def __init__(self, model: str = "nano", method: str = "omnisift") -> None:
        self.host: Host = load_host(model, "cpu", "float32", None)
        self.processor = self.host.processor
        self.method = method
        self._cache: dict[Any, list[int]] = {}

    def tokens(self, prompt: Prompt, budget: Budget | None = None, method: str | None = None) -> list[int]:
        """The first `LENGTH` greedy tokens."""
        method = method or self.method
        key = (id(prompt), budget, method)
        if key not in self._cache:
            self._cache[key] = self._tokens(prompt, Budget(retain=0.25) if budget is None else budget, method)
            self._kept_alive = (*getattr(self, "_kept_alive", ()), prompt)  # or its id could be reused
        return self._cache[key]

    def _tokens(self, prompt: Prompt, budget: Budget, method: str) -> list[int]:
        inputs = prompt.for_transformers(self.processor)
        selector = load_selector(self.host, nano_path() / "selector") if needs_selector(method) else None
        with attach(self.host.thinker, make_compressor(method, budget, selector=selector).eval()), torch.no_grad():
            output = self.host.thinker.generate(**inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
        return output[0, inputs["input_ids"].shape[1] :].tolist()
