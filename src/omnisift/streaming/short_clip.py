"""The prompt of a short clip of which there are sizes alone, from which `StreamLayout` learns that of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UnsupportedModel
from omnisift.media import Media
from omnisift.models.grid_adapter import GridAdapter
from omnisift.tokens import Modality


def last_position(position_ids: Tensor, modality: Tensor) -> int:
    """The largest rotary position [3, N] among the last tokens of one modality.

    Hosts count the text behind a clip on from these alone: behind sound, rows and columns of large images don't count.
    Subtitles are left out.
    """
    position_ids, modality = position_ids[:, modality != Modality.SUBTITLE], modality[modality != Modality.SUBTITLE]
    others = torch.nonzero(modality != modality[-1])[:, 0]
    begin = int(others[-1]) + 1 if len(others) else 0
    return int(position_ids[:, begin:].max())


@dataclass(frozen=True)
class Virtual:
    """The prompt of a short clip."""

    media: Media
    inputs: Mapping[str, Any]
    ids: Tensor
    """[S] int64."""
    modality: Tensor
    """[S] int8."""
    position_ids: Tensor
    """[3, S] int64."""
    begin: int
    """The first token of the clip, with the words around its frames."""
    end: int
    """Behind its last token."""
    text: int
    """The first token of the text behind it; the processor wrote those between."""

    @classmethod
    def of(
        cls, adapter: GridAdapter, media: Media, inputs: Mapping[str, Any], tail: int, around: tuple[int, int] | None
    ) -> Virtual:
        """Find the clip in a prompt.

        Args:
            adapter: of the host.
            media: the clip.
            inputs: of the prompt.
            tail: tokens of the text behind the clip.
            around: from `words_around`; None where the processor writes no times.

        Raises:
            UnsupportedModel: there is text between frames without times.
        """
        ids = inputs["input_ids"]
        modality = adapter.modality(ids, inputs)[0]
        places = torch.nonzero(modality != Modality.TEXT)[:, 0]
        begin, end = int(places[0]), int(places[-1]) + 1
        if around is None and bool((modality[begin:end] == Modality.TEXT).any()):
            raise UnsupportedModel("its processor writes text between the frames of a clip")
        before, behind = around or (0, 0)
        begin, end = begin - before, end + behind
        return cls(
            media, inputs, ids[0], modality, adapter.rotary_positions(inputs)[:, 0], begin, end, ids.shape[1] - tail
        )

    @property
    def tokens(self) -> int:
        """How many tokens the clip has, with the words around its frames."""
        return self.end - self.begin

    @property
    def last(self) -> int:
        """`last_position` of the clip."""
        clip = self.clip(0, self.tokens)
        return last_position(clip.position_ids, clip.modality)

    def words_around(self) -> tuple[int, int]:
        """How many tokens of text before and behind each frame belong to it, in a clip of two frames with one time.

        What the first frame and the second both have before them is the time; the rest between them is behind.
        """
        places = torch.nonzero(self.modality != Modality.TEXT)[:, 0]
        last = int(places.diff().argmax())
        head, between = self.ids[: places[0]], self.ids[places[last] + 1 : places[last + 1]]
        width = min(len(head), len(between))
        same = head[len(head) - width :] == between[len(between) - width :]
        before = int(same.flip(0).long().cumprod(0).sum())
        return before, len(between) - before

    def clip(self, begin: int, end: int) -> Slice:
        """Tokens of the clip from ``begin`` to before ``end``."""
        part = slice(self.begin + begin, self.begin + end)
        return Slice(self.ids[part], self.modality[part], self.position_ids[:, part])


@dataclass(frozen=True)
class Slice:
    """Some tokens of a clip: ids [N], modality [N] and rotary positions [3, N]."""

    ids: Tensor
    modality: Tensor
    position_ids: Tensor
