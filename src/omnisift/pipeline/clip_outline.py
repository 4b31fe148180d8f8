"""Where and when the tokens of a long clip are, without an entry for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS, ChunkShapes
from omnisift.models.adapter import Prompt
from omnisift.models.grid_adapter import GridAdapter
from omnisift.models.layout import PromptLines
from omnisift.tokens import Modality, TokenStream

CHUNK_STEPS = 2
"""Time steps of a chunk; more where several have the same time, which then count as one."""


class ClipOutline:
    """The video of a prompt, with its audio: what `Layout` and `index_stream` find, for some chunks at a time.

    Args:
        adapter: of the host.
        inputs: of a prompt with one video; sizes alone are read.
        seconds_per_step: seconds from one time step to the next, for hosts that are not told.
        lines: of the clip, among the tokens of the prompt; None without any.
    """

    def __init__(
        self,
        adapter: GridAdapter,
        inputs: Mapping[str, Any],
        seconds_per_step: float,
        lines: PromptLines | None = None,
    ) -> None:
        ids = inputs["input_ids"]
        self.modality = adapter.modality(ids, inputs)[0]
        """[S] int8: `Modality` of the S tokens of the prompt."""
        self._video, self._audio = (_places(self.modality, kind) for kind in (Modality.VIDEO, Modality.AUDIO))
        steps, rows, columns = adapter.token_grids(inputs["video_grid_thw"])[0].tolist()
        self.grid: tuple[int, int, int] = steps, rows, columns
        """Time steps, and rows and columns of tokens."""
        self._step_times = step_times(adapter, inputs, steps, seconds_per_step)
        # Frames are the distinct times: hosts that count in whole ids have several steps with one, at high rates.
        times, self._frame = torch.unique_consecutive(self._step_times, return_inverse=True)
        self.chunks = -(-len(times) // CHUNK_STEPS)
        """Number of chunks."""
        self._first_step = torch.searchsorted(self._frame, CHUNK_STEPS * torch.arange(self.chunks + 1))
        self._audio_step = adapter.audio_step
        # The audio of a chunk begins with it, and that of the last chunk ends with the clip.
        begins = times[::CHUNK_STEPS].contiguous()
        chunk = torch.searchsorted(begins, self._audio_times(0, len(self._audio)), right=True)
        self._bounds = torch.searchsorted(chunk, torch.arange(1, self.chunks + 2))
        # Lines: the place, time and chunk of each token.
        self._line_begin = 0 if lines is None else lines.begin
        self._line_times = torch.zeros(0, dtype=torch.int64)
        if lines is not None:
            self._line_times = torch.tensor(lines.times).repeat_interleave(torch.tensor(lines.lengths))
            self.modality[lines.begin : lines.begin + lines.total] = int(Modality.SUBTITLE)
        of_lines = torch.searchsorted(begins, self._line_times, right=True) - 1
        self._line_chunks = of_lines.clamp(min=0)

    @property
    def begin(self) -> int:
        """The first token of the clip in the prompt."""
        return int(min(part[0] for part in (self._video, self._audio) if len(part)))

    @property
    def shapes(self) -> ChunkShapes:
        """Tokens of each chunk."""
        _, rows, columns = self.grid
        steps = torch.bincount(self._frame, minlength=CHUNK_STEPS * self.chunks)
        first, second = (rows * columns * steps).view(-1, CHUNK_STEPS).unbind(dim=1)
        text = torch.bincount(self._line_chunks, minlength=self.chunks)
        return ChunkShapes(first, second, self._bounds.diff(), torch.zeros_like(first), text)

    def part(self, begin: int, end: int) -> TokenStream:
        """The tokens of the chunks from ``begin`` to before ``end``, in the order of the prompt: lines come last.

        Their embeddings have no width, chunks keep their numbers in the clip, and ``sample`` is the place of each token
        in the prompt.
        """
        _, rows, columns = self.grid
        area = rows * columns
        first, stop = int(self._first_step[begin]), int(self._first_step[end])
        step = torch.arange(first, stop).repeat_interleave(area)
        place = torch.arange(area).repeat(stop - first)
        low, high = int(self._bounds[begin]), int(self._bounds[end])
        audio = torch.arange(high - low)
        of_audio = torch.searchsorted(self._bounds, audio + low, right=True) - 1
        lines = torch.nonzero((self._line_chunks >= begin) & (self._line_chunks < end))[:, 0]
        chunk = torch.cat([self._frame[step] // CHUNK_STEPS, of_audio, self._line_chunks[lines]])
        position = torch.zeros(3, len(chunk), dtype=torch.int64)
        position[0] = torch.cat([self._step_times[step], self._audio_times(low, high), self._line_times[lines]])
        position[1, : len(place)], position[2, : len(place)] = place // columns, place % columns
        modality = torch.full((len(chunk),), int(Modality.AUDIO), dtype=torch.int8)
        modality[: len(place)], modality[len(place) + len(audio) :] = int(Modality.VIDEO), int(Modality.SUBTITLE)
        frame = torch.cat([self._frame[step] % CHUNK_STEPS, torch.full((len(chunk) - len(place),), -1)])
        sample = torch.cat([self._video[first * area : stop * area], self._audio[low:high]]).long()
        sample = torch.cat([sample, self._line_begin + lines])
        order = sample.argsort()
        return TokenStream(
            embeds=torch.empty(len(order), 0),
            modality=modality[order],
            position=position[:, order],
            time=(position[0, order].double() / MICROSECONDS).float(),
            chunk=chunk[order],
            frame=frame[order],
            clip=torch.zeros_like(order),
            sample=sample[order],
        )

    def _audio_times(self, begin: int, end: int) -> Tensor:
        """[N] int64: microseconds of audio tokens."""
        return (torch.arange(begin, end) * self._audio_step).round().long()


def step_times(adapter: GridAdapter, inputs: Mapping[str, Any], steps: int, seconds_per_step: float) -> Tensor:
    """[steps] int64: microseconds of each time step of a prompt's video. Arguments as `ClipOutline` has them."""
    none = torch.zeros(1, 0)
    seconds = adapter.step_seconds(Prompt(none, none, none, inputs, [seconds_per_step]), 1)
    return adapter.frame_time(torch.arange(steps), seconds.expand(steps))


def _places(modality: Tensor, kind: Modality) -> Tensor:
    """[N] int32: where the tokens of a kind are."""
    return torch.nonzero(modality == kind)[:, 0].int()
