"""Stage 4: the selector learns which sounds to keep, by distillation (works here) or straight-through (the paper).

Distillation trains VGAS alone to rank sounds as the full-token model's own attention does. The literal straight-through
estimator trains VGAS and language model together on answers; on nano it ends below an untrained selector (docs/log.md).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omnisift.budget import kept_count
from omnisift.straight_through import topk_mask
from omnisift.training.feature_cache import FeatureCache
from omnisift.training.forward import Kept, run
from omnisift.training.host import core_of
from omnisift.training.losses import answer_losses
from omnisift.training.packed import TYPE_WEIGHTS, Layout, Writer, make_batch
from omnisift.training.selections import (
    PATCHES,
    Select,
    audio_saliency,
    omnisift,
    picture_scores,
    select_with,
    selector_logits,
    stvp_scores,
    top,
    video_scores,
)
from omnisift.training.settings import NanoSettings
from omnisift.training.teacher import eager_attention, looked_at
from omnisift.vgas import VGAS, VGASConfig
from omnisift.video_score import VideoScore

logger = logging.getLogger(__name__)
ANCHOR_RETAINS = (0.35, 0.25, 0.15)
"""The selector sees the anchors of one of these each step, so that one set of weights serves all ratios."""


def new_selector(
    width: int, time_embedding: bool, seed: int, guide: str = "cross", layers: int = 1, picture: bool = False
) -> VGAS:
    """VGAS in the released layout (hidden 512, 8 heads) or a variant of it, with or without our time embedding.

    The embedding starts as sines and cosines of the place in the chunk: sounds then lie near the frame they fall into
    from the first step, and the guidance by the picture is learned within 50 steps instead of several hundred.
    """
    torch.manual_seed(seed)
    config = VGASConfig(
        input_size=width, time_embedding=time_embedding, guide=guide, num_hidden_layers=layers, video_score=picture
    )
    selector = VGAS(config)
    if time_embedding:
        weight = selector.time_embedding.weight
        turn = torch.exp(torch.linspace(math.log(2 * math.pi / 8), math.log(2 * math.pi / 200), weight.shape[1] // 2))
        angle = torch.arange(len(weight))[:, None] * turn
        with torch.no_grad():
            weight.copy_(torch.cat([angle.sin(), angle.cos()], dim=1))
    return selector


def teach(
    nano: Any,
    layout: Layout,
    writer: Writer,
    bank: FeatureCache,
    settings: NanoSettings,
    with_pointer_head: bool = False,
) -> Tensor:
    """[N, 150] in 0..1: what the frozen full-token ``nano`` looks at in the first ``teacher_clips`` clips. No labels.

    Sixteen questions a clip: together they ask about nearly everything that can be asked. Attention is weighted by how
    unlike its chunk's mean a token is: alone it rests on silence too, since silent tokens carry what is visible, and
    keeping those crowds out sounds that belong to nothing visible.
    """
    parts = []
    for batch in _taught(nano, writer, bank, settings):
        novelty = 1 + audio_saliency(batch["audio"]).flatten(1)
        parts.append(looked_at(nano, layout, batch, with_pointer_head) * novelty)
    targets = torch.cat(parts)
    return targets / targets.amax(-1, keepdim=True).clamp(min=1e-6)


def teach_picture(
    model: Any,
    layout: Layout,
    writer: Writer,
    bank: FeatureCache,
    settings: NanoSettings,
    with_pointer_head: bool = False,
) -> Tensor:
    """[N, 96] in 0..1: as `teach`, for the patches, and by attention alone."""
    batches = _taught(model, writer, bank, settings)
    return torch.cat([looked_at(model, layout, batch, with_pointer_head, layout.video) for batch in batches])


def _taught(model: Any, writer: Writer, bank: FeatureCache, settings: NanoSettings) -> Iterator[dict[str, Tensor]]:
    """The clips that are taught, sixteen at a time, with the questions; the model gives its attention meanwhile."""
    model.eval()
    with eager_attention(model):
        for first in range(0, min(settings.teacher_clips, len(bank)), 16):
            clips = list(range(first, min(first + 16, settings.teacher_clips, len(bank))))
            random = np.random.default_rng((settings.seed, 4, first))
            yield make_batch(bank, clips, writer, 8, random, types=TYPE_WEIGHTS)


def distil_picture(picture: VideoScore, targets: Tensor, bank: FeatureCache, settings: NanoSettings) -> None:
    """Train ``picture`` in place on the targets of `teach_picture`."""
    optimizer = torch.optim.AdamW(picture.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(settings.selector_steps):
        rng = np.random.default_rng((settings.seed, 7, step))
        clips = torch.from_numpy(rng.choice(len(targets), min(16, len(targets)), replace=False))
        logits = picture_scores(picture, bank.video[clips].float()).flatten(1)
        loss = F.binary_cross_entropy_with_logits(logits, targets[clips])
        _step(optimizer, loss, picture, _rate(step, settings))


def distil(selector: VGAS, targets: Tensor, bank: FeatureCache, settings: NanoSettings, blind: bool = False) -> None:
    """Train ``selector`` in place on the targets of `teach`; ``blind`` shows it another clip's picture (a control)."""
    optimizer = torch.optim.AdamW(selector.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(settings.selector_steps):
        rng = np.random.default_rng((settings.seed, 6, step))
        clips = torch.from_numpy(rng.choice(len(targets), min(16, len(targets)), replace=False))
        video, audio = bank.video[clips].float(), bank.audio[clips].float()
        video = video.roll(1, 0) if blind else video
        retain = ANCHOR_RETAINS[int(rng.integers(len(ANCHOR_RETAINS)))]
        anchors = top(video_scores(selector, video), kept_count(PATCHES, retain))
        logits = selector_logits(selector, video, audio, anchors).flatten(1)
        loss = F.binary_cross_entropy_with_logits(logits, targets[clips])
        _step(optimizer, loss, selector, _rate(step, settings))
        if (step + 1) % 50 == 0:
            logger.info("selector step %d loss %.3f %s", step + 1, loss.item(), kept_events(selector, bank, 0.25, 60))


def straight_through(
    selector: VGAS, nano: Any, layout: Layout, writer: Writer, bank: FeatureCache, settings: NanoSettings, steps: int
) -> None:
    """The paper's training, literally: cross-entropy of the answers at 25 %, model and selector together.

    Encoders stay frozen. The forward multiplier of a kept token is exactly 1; its gradient goes to the score. A dropped
    token gets none.
    """
    nano.requires_grad_(True).train()
    core_of(nano).visual.requires_grad_(False)
    core_of(nano).audio_tower.requires_grad_(False)
    language = [p for p in nano.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": language, "peak": settings.finetune_rate},
        {"params": list(selector.parameters()), "peak": settings.selector_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        rng = np.random.default_rng((settings.seed, 5, step))
        clips = [int(i) for i in rng.choice(len(bank), settings.clips_per_step, replace=False)]
        batch = make_batch(bank, clips, writer, settings.questions, rng, types=TYPE_WEIGHTS)
        kept, gated = _gated(selector, batch, 0.25)
        loss = answer_losses(nano, run(nano, layout, gated, kept), batch)["answer"]
        for group in optimizer.param_groups:
            group["lr"] = (
                group["peak"] * min(1.0, (step + 1) / 20) * max(0.02, min(1.0, (steps - step) / (0.7 * steps)))
            )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(language, 1.0)
        nn.utils.clip_grad_norm_(selector.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 25 == 0:
            logger.info(
                "straight-through step %d loss %.3f %s", step + 1, loss.item(), kept_events(selector, bank, 0.25, 60)
            )


def _gated(selector: VGAS, batch: dict[str, Tensor], retain: float) -> tuple[Kept, dict[str, Tensor]]:
    scores = stvp_scores(batch["video"])
    anchors = top(scores, kept_count(PATCHES, retain))
    soft = torch.sigmoid(selector_logits(selector, batch["video"], batch["audio"], anchors))
    kept = select_with(scores, soft.detach(), retain)
    hard = torch.zeros_like(soft.flatten(1), dtype=torch.bool).scatter(1, kept.audio, True)
    gate = topk_mask(soft.flatten(1), hard)
    return kept, batch | {"audio": batch["audio"] * gate[..., None]}


def _rate(step: int, settings: NanoSettings) -> float:
    steps = settings.selector_steps
    return settings.selector_rate * min(1.0, (step + 1) / 20) * max(0.05, min(1.0, (steps - step) / (0.5 * steps)))


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, selector: nn.Module, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(selector.parameters(), 1.0)
    optimizer.step()


@torch.no_grad()
def kept_events(selector: VGAS | Select, bank: FeatureCache, retain: float, clips: int = 200) -> dict[str, float]:
    """What a selection keeps: share of relevant, distractor and silent sound tokens, and of tied sounds kept at all."""
    select = omnisift(selector, retain) if isinstance(selector, VGAS) else selector
    clips = min(clips, len(bank))
    kept = select(bank.video[:clips].float(), bank.audio[:clips].float()).audio
    owner = bank.audio_owner[:clips]
    mask = torch.zeros(owner.shape).scatter(1, kept, 1.0)
    events = [float(mask[i][owner[i] == 1 + e].any()) for i in range(clips) for e in range(len(bank.scenes[i].shapes))]
    shares = {"relevant": owner > 0, "distractor": owner < 0, "silent": owner == 0}
    return {name: round(float(mask[where].mean()), 3) for name, where in shares.items()} | {
        "events": round(float(np.mean(events)), 3)
    }
