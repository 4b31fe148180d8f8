"""All methods, the tokens that share one count in each, and the budgets that each can't reach."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from tests.helpers.oracle import audio_of, frames_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes, segment_of
from omnisift.compressors import COMPRESSORS, Compressor, VideoCompressor, make_compressor
from omnisift.errors import UnreachableBudget
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.vgas import VGAS, VGASConfig

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
_ROWS = [row for path in RECIPES for row in yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]]
IN_RECIPES = {row["method"] for row in _ROWS if "method" in row}
METHODS = list(dict.fromkeys([*COMPRESSORS, *sorted(IN_RECIPES)]))
"""All names, and all configurations and pairs in recipes, so that a new row of a recipe is tested automatically."""
MORE = [
    "evs:mode=frame", "uniform:mode=pool", "stvp:mode=spatial", "stvp:mode=temporal", "stvp:adaptive=true",
    "stvp:mode=spatial,adaptive=true", "stvp:mode=temporal,adaptive=true", "omnipack:attention=true",
    "routed:scope=clip", "omnizip:contextual=0.2", "visionzip:contextual=0.2",
]  # fmt: skip
"""Configurations that no recipe has."""
SPLIT = Budget(retain_video=0.4, retain_audio=0.6)
BUDGETS = (
    SPLIT,
    Budget(retain=0.3),
    Budget(retain_video=0.12, retain_audio=0.9),
    Budget(retain_video=0.12, retain_audio=0.25),
    Budget(tokens=150),
)
"""Budgets for comparisons with a loop."""
WITH_AUDIO = [name for name, method in COMPRESSORS.items() if not issubclass(method, VideoCompressor)]
"""Methods that may be the audio half of a pair."""

COUNTED = {
    "random:scope=clip": ("clip", "clip"),
    "stvp:adaptive=true": ("clip", "frame"),
    "stvp:mode=spatial,adaptive=true": ("clip", "frame"),
    "stvp:mode=temporal,adaptive=true": ("clip", "frame"),
    "dycoke": ("clip", "clip"),
    "evs": ("clip", "frame"),
    "evs:mode=frame": ("frame", "frame"),
    "vidcom2": ("clip", "frame"),
    "v_cast": ("clip", "frame"),
    "gleanvid": ("clip", "frame"),
    "a_pack": ("clip", "frame"),
    "divprune": ("chunk", "chunk"),
    "omnifocus": ("chunk", "chunk"),
    "omnipack": ("window", "window"),
    "tome": ("chunk", "chunk"),
    "omnizip": ("clip", "clip"),
    "seats": ("chunk", "chunk"),
    "routed": ("both", "both"),
    "routed:scope=clip": ("both of a clip", "both of a clip"),
    "joint": ("both", "both"),
}
"""Tokens of the video, and of the audio, that share one count; by default each frame and the audio of each chunk.
``window``: eight chunks of one modality; ``both``: a chunk's video and audio together."""
COUNTED_AS_HALF = {"routed": ("frame", "frame"), "routed:scope=clip": ("frame", "frame"), "joint": ("chunk", "chunk")}
"""Methods for which this differs in a pair."""


def selector(width: int) -> VGAS:
    """A small random selector."""
    torch.manual_seed(0)
    return VGAS(VGASConfig(input_size=width, hidden_size=16, num_attention_heads=2)).eval()


_SELECTORS: dict[int, VGAS] = {}


def made(name: str, budget: Budget, width: int = 16) -> Compressor:
    """The method, with a random selector."""
    weights = _SELECTORS[width] if width in _SELECTORS else _SELECTORS.setdefault(width, selector(width))
    return make_compressor(name, budget, selector=weights, seed=3).eval()


def scopes(name: str) -> tuple[str, str]:
    """The scope of the counts of video and of audio."""

    def of(one: str, table: Mapping[str, tuple[str, str]]) -> tuple[str, str]:
        return table.get(one, table.get(one.partition(":")[0], ("frame", "frame")))

    if "+" not in name:
        return of(name, COUNTED)
    video, audio = name.split("+")
    halves = COUNTED | COUNTED_AS_HALF
    return of(video, halves)[0], of(audio, halves)[1]


def check_counts(name: str, stream: TokenStream, keep: Tensor, budget: Budget) -> None:
    """Check the budget's number in each scope of the method; all tokens outside chunks are kept."""
    segment, shapes = segment_of(stream), ChunkShapes.of(stream)
    assert keep.shape == (len(stream),)
    assert keep.dtype == torch.bool
    assert keep[segment < 0].all()
    wanted = budget.counts(shapes).by_segment().tolist()
    kept = torch.bincount(segment[keep & (segment >= 0)], minlength=len(wanted)).tolist()
    clip, by = shapes.clip.tolist(), scopes(name)
    totals: tuple[Counter[object], Counter[object]] = (Counter(), Counter())
    for number in range(len(wanted)):
        chunk, part = divmod(number, 3)
        audio = part == 2
        key: object = {
            "frame": number,
            "chunk": (chunk, audio),
            "window": (clip[chunk], (chunk - clip.index(clip[chunk])) // 8, audio),
            "clip": (clip[chunk], audio),
            "both": chunk,
            "both of a clip": clip[chunk],
        }[by[audio]]
        totals[0][key] += wanted[number]
        totals[1][key] += kept[number]
    assert totals[0] == totals[1]


def out_of_reach(name: str, stream: TokenStream, budget: Budget) -> bool:
    """Whether the budget is below the minimum of the method."""
    video, plus, audio = name.partition("+")
    audio = audio if plus else video
    shapes = ChunkShapes.of(stream)
    counts = budget.counts(shapes)
    if video.startswith("dycoke") and _too_few(frames_of(stream), stream, shapes, counts.frame0 + counts.frame1):
        return True
    if audio.startswith("dycoke"):
        seconds = [[clip[i : i + 25] for i in range(0, len(clip), 25)] for clip in audio_of(stream)]
        if _too_few(seconds, stream, shapes, counts.audio):
            return True
    if not video.startswith("omnizip") or "rebounded=true" in video:
        return False
    for clip in shapes.clip.unique():
        mine = shapes.clip == clip
        floor = sum(math.floor(size / 4) for size in (shapes.frame0 + shapes.frame1)[mine].tolist())
        if bool(shapes.audio[mine].any()) and int((counts.frame0 + counts.frame1)[mine].sum()) < floor:
            return True
    return False


def _too_few(clips: list[list[list[int]]], stream: TokenStream, shapes: ChunkShapes, kept: Tensor) -> bool:
    """Whether every fourth step of a clip is more than its total."""
    return any(
        sum(len(step) for step in steps[::4]) > int(kept[shapes.clip == stream.clip[steps[0][0]]].sum())
        for steps in clips
    )


def check_floor_is_named(error: UnreachableBudget) -> None:
    """Check that the message is one line with the numbers, the minimum and the remedy."""
    assert re.fullmatch(
        r"\w+ can't keep \d+ of \d+ (video|audio) tokens: .*at least \d+; raise (retain|tokens).*", str(error)
    )


def chosen(name: str, stream: TokenStream, budget: Budget) -> Selection | None:
    """The method's selection; None if it raises, as it should, that it can't reach the budget."""
    with torch.no_grad():
        if not out_of_reach(name, stream, budget):
            return made(name, budget, stream.width)(stream)
        with pytest.raises(UnreachableBudget) as caught:
            made(name, budget, stream.width)(stream)
    check_floor_is_named(caught.value)
    return None


def check_embeds(stream: TokenStream, result: Selection) -> None:
    """Check one row per kept token, in order.

    A dropped token changes at most one kept token; all other tokens, and tokens outside chunks, are bit-identical.
    """
    if result.embeds is None:
        return
    before = stream.embeds[result.keep]
    assert result.embeds.shape == before.shape
    assert result.embeds.dtype == before.dtype
    assert result.embeds.isfinite().all()
    touched = (result.embeds != before).any(dim=1)
    assert int(touched.sum()) <= int((~result.keep).sum())
    assert not touched[(stream.chunk < 0)[result.keep]].any()
    for modality in Modality:  # tokens merge only within their modality
        mine = stream.modality == modality
        assert int((touched & mine[result.keep]).sum()) <= int((mine & ~result.keep).sum())


class Watch(TorchDispatchMode):
    """Counts operations, waits for a value, and the largest new tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = self.waits = self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.steps += 1
        self.waits += func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        if isinstance(out, torch.Tensor) and out.is_floating_point() and not func.is_view:
            self.largest = max(self.largest, out.numel())
        return out
