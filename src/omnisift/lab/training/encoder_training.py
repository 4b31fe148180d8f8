"""Stage 1 of nano: train both encoders to classify every token; they are frozen afterwards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.lab.training.clips import ClipBatch, clip_batches
from omnisift.lab.training.encoders import encode_audio, encode_frames, log_mel, patchify
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.settings import NanoSettings
from omnisift.training.loop import ParameterGroup, train_steps
from omnisift.world import COLOR_NAMES, PLACES, SHAPES, SOUNDS

logger = logging.getLogger(__name__)
FRAMES_PER_STEP, CLIPS_PER_STEP = 96, 16


def train_encoders(model: Any, settings: NanoSettings) -> dict[str, float]:
    """Train ``visual`` and ``audio_tower`` in place; returns validation accuracies of both."""
    train = list(clip_batches("train", 0, settings.encoder_clips, settings.decoded_share))
    check = list(clip_batches("validation", 0, 100, 1.0))
    logger.info("rendered %d clips for the encoders", settings.encoder_clips)
    result = train_audio_encoder(core_of(model).audio_tower, train, check, settings)
    return result | train_vision_encoder(core_of(model).visual, train, check, settings)


def train_audio_encoder(
    encoder: Any, train: list[ClipBatch], check: list[ClipBatch], settings: NanoSettings
) -> dict[str, float]:
    """Nine-way classification of every audio token: silence or one of eight kinds of sound.

    Returns:
        Validation accuracies by name.
    """
    head = nn.Linear(encoder.config.output_dim, len(SOUNDS) + 1)

    def predict(mel: Tensor) -> Tensor:
        logits: Tensor = head(encode_audio(encoder, mel)).flatten(0, 1)
        return logits

    mel, labels = (torch.cat([f(b) for b in train]) for f in (lambda b: log_mel(b.waves), lambda b: b.audio_class))
    batches = _random_batches(mel, labels, CLIPS_PER_STEP, settings.seed)
    _fit(
        encoder, [head], lambda x, y: F.cross_entropy(predict(x), y.flatten()), batches, settings.audio_steps, settings
    )
    with torch.no_grad():
        guess = torch.cat([predict(log_mel(b.waves)).argmax(-1) for b in check])
    target = torch.cat([b.audio_class.flatten() for b in check])
    return _content_accuracy("sound", guess, target) | {"sound_silence": _accuracy(guess, target, target == 0)}


def train_vision_encoder(
    visual: Any, train: list[ClipBatch], check: list[ClipBatch], settings: NanoSettings
) -> dict[str, float]:
    """Classification of every video token: colour and form of its shape, or background; and the corner of a shape.

    A token must encode the corner by itself: the language model's rotary ids of height and width change too slowly to
    tell
    it, and compression drops the neighbours from which it could be counted.

    Returns:
        Validation accuracies by name.
    """
    width = visual.config.out_hidden_size
    sizes = (len(COLOR_NAMES) + 1, len(SHAPES) + 1, len(PLACES))
    heads = [nn.Linear(width, size) for size in sizes]

    def predict(images: Tensor) -> list[Tensor]:
        tokens = encode_frames(visual, patchify(images.numpy())).flatten(0, 1)
        return [head(tokens) for head in heads]

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        colors, forms, corners = predict(images)
        true_color, true_form = color_and_form(labels.flatten())
        shown = labels.flatten() > 0
        where = corner_of(torch.arange(labels.numel()))
        visible_loss = F.cross_entropy(colors, true_color) + F.cross_entropy(forms, true_form)
        return visible_loss + 0.5 * F.cross_entropy(corners[shown], where[shown])

    images = torch.cat([torch.from_numpy(b.images).reshape(-1, 2, *b.images.shape[2:]) for b in train])
    labels = torch.cat([b.video_class for b in train]).flatten(0, 1)
    # Pairs of images with a shape are two thirds of all; empty ones attention_targets only the background.
    kept = torch.nonzero((labels > 0).any(-1) | (torch.arange(len(labels)) % 2 == 0)).flatten()
    batches = _random_batches(images, labels, FRAMES_PER_STEP, settings.seed + 1, kept)
    _fit(visual, heads, loss, batches, settings.vision_steps, settings)
    return _check_vision(predict, check)


def _check_vision(predict: Callable[[Tensor], list[Tensor]], check: list[ClipBatch]) -> dict[str, float]:
    with torch.no_grad():
        parts = [[logits.argmax(-1) for logits in predict(torch.from_numpy(b.images))] for b in check]
    color, form, corner = (torch.cat(guesses) for guesses in zip(*parts, strict=True))
    labels = torch.cat([b.video_class.flatten() for b in check])
    true_color, true_form = color_and_form(labels)
    right = _content_accuracy("color", color, true_color) | _content_accuracy("form", form, true_form)
    return right | {"corner": _accuracy(corner, corner_of(torch.arange(len(labels))), labels > 0)}


def corner_of(token: Tensor) -> Tensor:
    """Quarter of the image (index into PLACES) of a video token; a frame has 4 x 4 tokens."""
    inside = token % 16
    return inside // 8 * 2 + inside % 4 // 2


def color_and_form(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Joint class [N] (0 for background) -> (1 + colour or 0, 1 + form or 0), each [N]."""
    joint = (labels - 1).clamp(min=0)
    shown = labels > 0
    zero = torch.zeros_like(labels)
    return torch.where(shown, joint // len(SHAPES) + 1, zero), torch.where(shown, joint % len(SHAPES) + 1, zero)


def _accuracy(guess: Tensor, target: Tensor, where: Tensor) -> float:
    return round(float((guess == target)[where].float().mean()), 4)


def _content_accuracy(name: str, guess: Tensor, target: Tensor) -> dict[str, float]:
    """Accuracy over the tokens that are not background or silence."""
    return {name: _accuracy(guess, target, target > 0)}


def _random_batches(
    inputs: Tensor, labels: Tensor, size: int, seed: int, among: Tensor | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    among = torch.arange(len(inputs)) if among is None else among
    while True:
        pick = among[torch.randint(len(among), (size,), generator=rng)]
        yield inputs[pick], labels[pick]


def _fit(
    encoder: nn.Module,
    heads: Sequence[nn.Module],
    loss: Callable[[Tensor, Tensor], Tensor],
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    settings: NanoSettings,
) -> None:
    """Train with 50 steps of warm-up and a cosine; the heads are discarded afterwards."""
    parameters = [p for module in (encoder, *heads) for p in module.parameters()]

    def rate(peak: float, step: int) -> float:
        return peak * min(1.0, (step + 1) / 50) * max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    def log(step: int, value: float) -> None:
        if step % 50 == 0:
            logger.info("%s step %d of %d loss %.3f", type(encoder).__name__, step, steps, value)

    groups = [ParameterGroup(parameters, settings.encoder_learning_rate)]
    train_steps(lambda _: loss(*next(batches)), groups, steps, rate, after_step=log)
