"""The few names of the library that the record is made with; a rename is followed here and nowhere else in this folder.

A record says what a user of `attach` observes: which tokens stay, at which positions the language model reads them, the
logits of the next token, and the answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from omnisift import Budget, Pipeline, adapter_for, attach, load, make_compressor
from omnisift.compressors import COMPRESSORS, needs_selector
from omnisift.errors import CompressorError, UnreachableBudget, UnsupportedCall
from omnisift.media import Media
from omnisift.pipeline import EncodedClip
from omnisift.pipeline.encoded_clip import prepare_call
from omnisift.tokens import Modality
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig
from omnisift.world import make_scene, questions, render_audio, render_images

SPLIT, QUESTION_STREAM = "test", 11
"""Clips and questions are those of the controlled benchmark."""
MAX_NEW_TOKENS = 4
BUNDLED, EXACT = "selector", "selector-exact"
"""Folders of the nano checkpoint."""
MADE_UP: Mapping[str, Mapping[str, Any]] = {
    "video-score": {"picture": True},
    "time": {"time_embedding": True},
    "self": {"guide": "self"},
    "concat": {"guide": "concat", "layers": 2},
    "direct": {"guide": "direct"},
}
"""Name -> layout of a selector whose weights are numbers from a formula."""


@dataclass(frozen=True)
class Observed:
    """One method on one clip."""

    modality: np.ndarray
    """[S] int8: the modality of each prompt token; 1 is video and 2 audio in the record."""
    keep: np.ndarray
    """[S] bool."""
    positions: np.ndarray
    """[3, K] int64: rotary ids that the language model receives in prefill."""
    logits: np.ndarray
    """[V] float32: of the token after the prompt."""
    text: str


def registered() -> list[str]:
    """Names of all methods that the library brings, in the order of its registry."""
    return [name for name, method in COMPRESSORS.items() if method.__module__.startswith("omnisift.")]


@lru_cache(maxsize=1)
def host() -> Any:
    """The bundled nano model and its processor, float32 on the CPU."""
    return load("nano", compressor=None, device="cpu", dtype="float32").host


@lru_cache(maxsize=1)
def selectors() -> dict[str, Any]:
    """Name -> selector of the width of nano."""
    result = {name: VGAS.from_pretrained(str(Path(nano_path()) / name)) for name in (BUNDLED, EXACT)}
    width = result[BUNDLED].config.width
    return {
        **{name: vgas.float().eval() for name, vgas in result.items()},
        **{
            name: formula_weights(VGAS(VGASConfig(width=width, hidden=64, heads=4, **layout))).eval()
            for name, layout in MADE_UP.items()
        },
    }


@torch.no_grad()
def formula_weights(module: torch.nn.Module) -> Any:
    """Set each parameter from its name and the index of each element, with the same bits on every machine."""
    for name, parameter in module.named_parameters():
        values = _mixed(parameter.numel(), name.encode()) / 2**24 - 0.5
        scale, centre = (0.5, 0.0) if parameter.ndim > 1 else (0.25, float(name.endswith("norm.weight")))
        parameter.copy_(torch.from_numpy(values * scale + centre).view_as(parameter))
    return module


def compressor(method: str, selector: str | None, retain: float, seed: int) -> Any:
    """The method in inference mode; ``selector`` names one of `selectors`, and None takes the bundled one."""
    weights = selectors()[selector or BUNDLED] if needs_selector(method) else None
    return make_compressor(method, Budget(retain=retain), selector=weights, seed=seed).eval()


@lru_cache(maxsize=8)
def clip_and_question(number: int) -> tuple[Any, str]:
    """Test clip ``number`` as rendered, without a codec, and one question about it; the type changes by clip."""
    scene = make_scene(number, split=SPLIT)
    images, waveform = render_images(scene), render_audio(scene).astype(np.float32)
    fps, seconds = float(scene.config.fps), float(scene.config.seconds)
    media = Media(
        path=Path(f"{SPLIT}-{number}"),
        images=images,
        times=np.arange(len(images)) / fps,
        indices=np.arange(len(images)),
        fps=fps,
        waveform=waveform,
        seconds=seconds,
        video_seconds=seconds,
        capped=False,
        bad_packets=0,
        warnings=(),
    )
    asked = questions(scene, np.random.default_rng((QUESTION_STREAM, scene.number)))
    return media, asked[number % len(asked)].text


@lru_cache(maxsize=2)
def held(number: int) -> Any:
    """The clip of `clip_and_question`, which is prepared and encoded once for all methods."""
    return EncodedClip(host(), clip_and_question(number)[0])


@torch.inference_mode()
def observe(number: int, method: Any | None) -> Observed | str:
    """What the model reads and answers with ``method`` attached; the error's name where the budget is out of reach."""
    model, clip, question = host().thinker, held(number), clip_and_question(number)[1]
    if method is None:
        with prepare_call(host(), [clip.prompt(question)], None) as inputs:
            positions, logits, text = _generate(model, inputs)
        ids = inputs["input_ids"][0].numpy()
        return Observed(_modality_of(ids), np.ones(len(ids), bool), positions, logits, text)
    try:
        with prepare_call(host(), [clip.prompt(question)], method) as inputs, attach(model, method) as attachment:
            positions, logits, text = _generate(model, inputs)
    except UnreachableBudget as error:
        return type(error).__name__
    last = attachment.last
    return Observed(_named(last.modality[0]), last.keep[0].numpy(), positions, logits, text)


@torch.inference_mode()
def observe_ties(kinds: int, method: Any) -> np.ndarray | str:
    """[S] bool: what stays of a clip whose tokens are ``kinds`` different vectors of whole numbers, so that scores tie.

    The embeddings are handed to the model, past its encoders; a method that listens to these says that it can't.
    """
    model = host().thinker
    inputs = {k: v for k, v in held(0).prompt("?").inputs.items() if k not in ("pixel_values_videos", "input_features")}
    ids = inputs["input_ids"][0]
    media = torch.from_numpy(_modality_of(ids.numpy()) > 0)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).clone()
    vectors = torch.from_numpy((_mixed(kinds * embeds.shape[-1], b"vectors") % 5).astype(np.float32) - 2)
    which = torch.from_numpy(_mixed(int(media.sum()), b"which") % kinds)
    embeds[0, media] = vectors.view(kinds, -1)[which]
    try:
        with attach(model, method) as attachment:
            model(**inputs, inputs_embeds=embeds, use_cache=False)
    except (CompressorError, UnsupportedCall) as error:
        return type(error).__name__
    return attachment.last.keep[0].numpy()


def ask(number: int, method: Any | None) -> tuple[str, int, int]:
    """(answer, kept video tokens, kept audio tokens) by the library's own pipeline."""
    answer = Pipeline(host(), method).ask(*clip_and_question(number), max_new_tokens=MAX_NEW_TOKENS)
    return answer.text, answer.report.tokens.video_kept, answer.report.tokens.audio_kept


def _mixed(count: int, name: bytes) -> np.ndarray:
    """[count] int64 below 2^24, scattered, the same on every machine."""
    index = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(name))
    return ((index * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(40)).astype(np.int64)


def _generate(model: Any, inputs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, str]:
    """Rotary ids of prefill, logits of the next token, and the greedy answer."""
    seen: list[Tensor] = []
    # Registered after the attachment's own hooks, so that it sees what they hand on.
    watch = adapter_for(model).parts.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        output = model.generate(
            **inputs,
            max_new_tokens=MAX_NEW_TOKENS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
        )
    finally:
        watch.remove()
    written = output.sequences[0, inputs["input_ids"].shape[1] :]
    text = host().processor.tokenizer.decode(written, skip_special_tokens=True).strip()
    return seen[0][-3:, 0].to(torch.int64).numpy(), output.logits[0][0].float().numpy(), text


def _named(modality: Tensor) -> np.ndarray:
    named = np.zeros(len(modality), np.int8)
    named[(modality == int(Modality.VIDEO)).numpy()] = 1
    named[(modality == int(Modality.AUDIO)).numpy()] = 2
    return named


def _modality_of(ids: np.ndarray) -> np.ndarray:
    config = host().thinker.config
    return ((ids == config.video_token_id) + 2 * (ids == config.audio_token_id)).astype(np.int8)
