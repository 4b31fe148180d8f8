"""Stage 1 of nano: train both encoders to classify every token; they are frozen afterwards."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.lab.training.clips import ClipBatch, clip_batches
from omnisift.lab.training.encoders import log_mel
from omnisift.lab.training.host_encoders import frame_tokens, sound_tokens
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.settings import NanoSettings
from omnisift.training.loop import Checkpoint, ParameterGroup, train_steps
from omnisift.world import COLOR_NAMES, FIRST_TITLE_CLASS, PLACES, SHAPES, SOUNDS, WORDS

logger = logging.getLogger(__name__)
FRAMES_PER_STEP, CLIPS_PER_STEP = 96, 16
"""Frames of 16 tokens, or fewer larger ones with as many tokens; and clips."""
_BACKGROUND = 0.1
"""Weight of a token without a shape or title in the wide family."""


def train_encoders(model: Any, settings: NanoSettings) -> dict[str, float]:
    """Train ``visual`` and ``audio_tower`` in place; returns validation accuracies of both."""
    train = list(clip_batches("train", 0, settings.encoder_clips, settings.decoded_share))
    check = list(clip_batches("validation", 0, 100, 1.0))
    logger.info("rendered %d clips for the encoders", settings.encoder_clips)
    result = train_audio_encoder(core_of(model).audio_tower, train, check, settings)
    return result | train_vision_encoder(core_of(model).visual, train, check, settings)


def train_audio_encoder(
    encoder: Any,
    train: list[ClipBatch],
    check: list[ClipBatch],
    settings: NanoSettings,
    known: nn.Linear | None = None,
    teacher: Tensor | None = None,
) -> dict[str, float]:
    """Classification of every audio token: silence, one of eight kinds of sound, or one of eight spoken words.

    Args:
        encoder: trained in place.
        train, check: clips.
        settings: steps and rates.
        known: a frozen head for silence and sounds, where the encoder is adapted to the wide family; without it there
            are no words.
        teacher: [N, A, D], outputs of a trained encoder for the training clips, which this one learns to repeat.

    Returns:
        Validation accuracies by name.
    """
    width = encoder.config.output_dim
    heads = [nn.Linear(width, len(SOUNDS) + 1)] if known is None else [known, nn.Linear(width, len(WORDS))]

    def predict(tokens: Tensor) -> Tensor:
        return torch.cat([head(tokens) for head in heads], dim=-1)

    def loss(mel: Tensor, labels: Tensor, *taught: Tensor) -> Tensor:
        tokens, labels = sound_tokens(encoder, mel).flatten(0, 1), labels.flatten()
        return F.cross_entropy(predict(tokens), labels) + _distance(tokens, labels, *taught)

    mel, labels = (torch.cat([f(b) for b in train]) for f in (lambda b: log_mel(b.waves), lambda b: b.audio_class))
    tensors = [mel, labels] if teacher is None else [mel, labels, teacher]
    batches = _random_batches(tensors, CLIPS_PER_STEP, settings.seed)
    _fit(encoder, heads, loss, batches, settings.audio_steps, settings)
    with torch.no_grad():
        guess = torch.cat([predict(sound_tokens(encoder, log_mel(b.waves)).flatten(0, 1)).argmax(-1) for b in check])
    target = torch.cat([b.audio_class.flatten() for b in check])
    return _content_accuracy("sound", guess, target) | {"sound_silence": _accuracy(guess, target, target == 0)}


def train_vision_encoder(
    visual: Any,
    train: list[ClipBatch],
    check: list[ClipBatch],
    settings: NanoSettings,
    known: Sequence[nn.Linear] | None = None,
    checkpoint: Path | None = None,
    teacher: Tensor | None = None,
) -> dict[str, float]:
    """Classification of every video token: colour and form of its shape, or background; and the corner of a shape.

    A token must encode the corner by itself: the language model's rotary ids of height and width change too slowly to
    tell
    it, and compression drops the neighbours from which it could be counted.

    Args:
        visual: trained in place.
        train, check: clips.
        settings: steps and rates.
        known: frozen heads for colour, form and corner, where the encoder is adapted to the wide family: then what it
            says of a shape keeps its place in the embeddings, and a language model that reads them stays useful. A
            head for titles is trained beside them.
        checkpoint: where the state is saved, and from where the run resumes.
        teacher: [N, tokens, D], outputs of a trained encoder for the training frames, which this one learns to repeat.

    With deepstack the heads read the token, and its sum with the features of all levels: what the first layers of the
    language model add. Accuracies are of the sum.

    Returns:
        Validation accuracies by name.
    """
    width, tokens_per_frame = visual.config.out_hidden_size, train[0].video_class.shape[2]
    side = math.isqrt(tokens_per_frame)
    sizes = (len(COLOR_NAMES) + 1, len(SHAPES) + 1, len(PLACES))
    heads = [nn.Linear(width, size) for size in sizes] if known is None else [*known, nn.Linear(width, len(WORDS) + 1)]

    def views(images: Tensor) -> list[Tensor]:
        tokens, *deep = torch.split(frame_tokens(visual, images.numpy()).flatten(0, 1), width, dim=-1)
        return [tokens, torch.stack([tokens, *deep]).sum(0)] if deep else [tokens]

    def predict(images: Tensor) -> list[Tensor]:
        tokens = views(images)[-1]
        return [head(tokens) for head in heads]

    def loss(images: Tensor, labels: Tensor, *taught: Tensor) -> Tensor:
        seen, labels = views(images), labels.flatten()
        named = torch.stack([_naming_loss([head(tokens) for head in heads], labels, side) for tokens in seen]).mean()
        return named + _distance(seen[0], labels, *taught)

    images = torch.cat([torch.from_numpy(b.images).reshape(-1, 2, *b.images.shape[2:]) for b in train])
    labels = torch.cat([b.video_class for b in train]).flatten(0, 1)
    tensors = [images, labels] if teacher is None else [images, labels, teacher]
    # Pairs of images with a shape are two thirds of all; empty ones attention_targets only the background.
    kept = torch.nonzero((labels > 0).any(-1) | (torch.arange(len(labels)) % 2 == 0)).flatten()
    batches = _random_batches(tensors, FRAMES_PER_STEP * 16 // tokens_per_frame, settings.seed + 1, kept)
    _fit(visual, heads, loss, batches, settings.vision_steps, settings, checkpoint)
    return _check_vision(predict, check, side)


def _naming_loss(logits: list[Tensor], labels: Tensor, side: int) -> Tensor:
    """Cross-entropies of colour, form, corner and, where there is a head for it, title; ``labels`` [N]."""
    colors, forms, corners, *titles = logits
    true_color, true_form = color_and_form(labels)
    shown = true_color > 0
    where = corner_of(torch.arange(len(labels)), side)
    # In the wide family few tokens show anything, so that the others count less.
    weight = torch.where(labels > 0, 1.0, _BACKGROUND) if titles else None
    visible_loss = _cross_entropy(colors, true_color, weight) + _cross_entropy(forms, true_form, weight)
    if titles:
        visible_loss = visible_loss + _cross_entropy(titles[0], title_of(labels), weight)
    return visible_loss + 0.5 * F.cross_entropy(corners[shown], where[shown])


def _distance(tokens: Tensor, labels: Tensor, teacher: Tensor | None = None) -> Tensor:
    """Squared distance from the outputs [N, T, D] of a trained encoder in units of their variance; 0 without one."""
    if teacher is None:
        return tokens.new_zeros(())
    target = teacher.float().flatten(0, 1)
    weight = torch.where(labels > 0, 1.0, _BACKGROUND)
    distance = (tokens - target).square().mean(-1) / target.var()
    return (distance * weight).sum() / weight.sum()


def _check_vision(predict: Callable[[Tensor], list[Tensor]], check: list[ClipBatch], side: int) -> dict[str, float]:
    with torch.no_grad():
        parts = [[logits.argmax(-1) for logits in predict(torch.from_numpy(b.images))] for b in check]
    color, form, corner, *titles = (torch.cat(guesses) for guesses in zip(*parts, strict=True))
    labels = torch.cat([b.video_class.flatten() for b in check])
    true_color, true_form = color_and_form(labels)
    right = _content_accuracy("color", color, true_color) | _content_accuracy("form", form, true_form)
    right |= {"corner": _accuracy(corner, corner_of(torch.arange(len(labels)), side), true_color > 0)}
    if titles:
        right |= _content_accuracy("title", titles[0], title_of(labels))
        right |= {"background": _accuracy(color, true_color, labels == 0)}
    return right


def corner_of(token: Tensor, side: int = 4) -> Tensor:
    """Quarter of the image (index into PLACES) of a video token; a frame has ``side`` x ``side`` tokens."""
    inside = token % (side * side)
    return inside // side // (side // 2) * 2 + inside % side // (side // 2)


def color_and_form(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Joint class [N] (0 for background) -> (1 + colour or 0, 1 + form or 0), each [N]; a title has neither."""
    shown = (labels > 0) & (labels < FIRST_TITLE_CLASS)
    joint = torch.where(shown, labels - 1, torch.zeros_like(labels))
    zero = torch.zeros_like(labels)
    return torch.where(shown, joint // len(SHAPES) + 1, zero), torch.where(shown, joint % len(SHAPES) + 1, zero)


def title_of(labels: Tensor) -> Tensor:
    """Joint class [N] -> 1 + number of the written word, or 0."""
    return (labels - FIRST_TITLE_CLASS + 1).clamp(min=0)


def _cross_entropy(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over tokens, or weighted mean."""
    if weight is None:
        return F.cross_entropy(logits, target)
    return (F.cross_entropy(logits, target, reduction="none") * weight).sum() / weight.sum()


def _accuracy(guess: Tensor, target: Tensor, where: Tensor) -> float:
    return round(float((guess == target)[where].float().mean()), 4)


def _content_accuracy(name: str, guess: Tensor, target: Tensor) -> dict[str, float]:
    """Accuracy over the tokens that are not background or silence."""
    return {name: _accuracy(guess, target, target > 0)}


def _random_batches(
    tensors: Sequence[Tensor], size: int, seed: int, among: Tensor | None = None
) -> Iterator[tuple[Tensor, ...]]:
    rng = torch.Generator().manual_seed(seed)
    among = torch.arange(len(tensors[0])) if among is None else among
    while True:
        pick = among[torch.randint(len(among), (size,), generator=rng)]
        yield tuple(tensor[pick] for tensor in tensors)


def _fit(
    encoder: nn.Module,
    heads: Sequence[nn.Module],
    loss: Callable[..., Tensor],
    batches: Iterator[tuple[Tensor, ...]],
    steps: int,
    settings: NanoSettings,
    checkpoint: Path | None = None,
) -> None:
    """Train with 50 steps of warm-up and a cosine; the heads are discarded afterwards."""
    module = nn.ModuleList([encoder, *heads])
    parameters = [p for p in module.parameters() if p.requires_grad]

    def rate(peak: float, step: int) -> float:
        return peak * min(1.0, (step + 1) / 50) * max(0.02, 0.5 + 0.5 * math.cos(math.pi * step / steps))

    def log(step: int, value: float) -> None:
        if step % 50 == 0:
            logger.info("%s step %d of %d loss %.3f", type(encoder).__name__, step, steps, value)

    groups = [ParameterGroup(parameters, settings.encoder_learning_rate)]
    saved = None if checkpoint is None else Checkpoint(checkpoint, module)
    train_steps(lambda _: loss(*next(batches)), groups, steps, rate, after_step=log, checkpoint=saved)


def fit_heads(tokens: Tensor, targets: Sequence[Tensor], seed: int = 0) -> list[nn.Linear]:
    """Fit linear heads to encoder outputs, and freeze them.

    Args:
        tokens: [N, D] outputs.
        targets: classes [N] for each head; -100 is ignored.
        seed: seed of the batches.
    """
    rng = torch.Generator().manual_seed(seed)
    heads = [nn.Linear(tokens.shape[1], int(target.max()) + 1) for target in targets]
    # Half of each batch has contents.
    shown = torch.nonzero(targets[0] > 0).flatten()

    def loss(_: int) -> Tensor:
        parts = [pool[torch.randint(len(pool), (600,), generator=rng)] for pool in (shown, torch.arange(len(tokens)))]
        pick = torch.cat(parts)
        losses = [F.cross_entropy(head(tokens[pick]), y[pick]) for head, y in zip(heads, targets, strict=True)]
        return torch.stack(losses).sum()

    groups = [ParameterGroup([p for head in heads for p in head.parameters()], 3e-2)]
    train_steps(loss, groups, 300, lambda peak, _: peak)
    return [head.requires_grad_(False) for head in heads]
