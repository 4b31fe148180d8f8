"""Cost of an attachment: a fixed number of transfers and operations per prompt, no synchronisation while decoding."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from tests.helpers.models import Part, Video, prompt, thinker
from tests.models.hosts import HALF, half
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import omnisift
from omnisift.compressors.base import Compressor
from omnisift.tokens import Selection, TokenStream


class Operations(TorchDispatchMode):
    """Counts tensor operations. ``.item()``, ``bool()`` and ``.tolist()`` wait in ``_local_scalar_dense``."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class EverySecond(Compressor):
    """Keeps every second token: costs nothing itself."""

    name = "every"

    def forward(self, stream: TokenStream) -> Selection:
        return self.select(stream, None)

    def select(self, stream: TokenStream, counts: Any) -> Selection:
        seen.append(stream)
        return Selection((stream.chunk < 0) | (torch.arange(len(stream)) % 2 == 0))


seen: list[TokenStream] = []
MODEL = thinker()


@torch.no_grad()
def work(row: list[Part], rows: int = 1) -> Counter[str]:
    """Operations of the hooks alone for a prompt: with an attachment, less without."""
    inputs = prompt(*[row] * rows)
    with Operations() as plain:
        MODEL(**inputs)
    with omnisift.attach(MODEL, EverySecond(HALF)), Operations() as attached:
        MODEL(**inputs)
    attached.count.subtract(plain.count)
    return attached.count


def test_the_number_of_operations_does_not_depend_on_length_or_rows() -> None:
    short, long = work([5, Video(4, audio=90), 6]), work([5, Video(40, audio=990), 6])
    assert {name: n for name, n in long.items() if n} == {name: n for name, n in short.items() if n}
    # A larger batch adds at most a mask.
    more = work([5, Video(40, audio=990), 6], rows=6)
    assert more["_local_scalar_dense"] <= short["_local_scalar_dense"] + 2
    assert sum(more.values()) <= sum(short.values()) + 40


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3])
def test_a_decoding_step_waits_for_nothing(rows: int) -> None:
    inputs = prompt([5, Video(4, 2, 3, audio=90), 6], *[[9, Video(2), 3 + i] for i in range(rows - 1)])

    def step() -> Counter[str]:
        cache = MODEL(**inputs, use_cache=True).past_key_values
        length = inputs["input_ids"].shape[1]
        mask = torch.cat([inputs["attention_mask"], torch.ones(rows, 1).long()], dim=1)
        arguments = {"position_ids": torch.full((4, rows, 1), length), "past_key_values": cache}
        with Operations() as operations:
            MODEL(input_ids=torch.full((rows, 1), 30), attention_mask=mask if rows > 1 else None, **arguments)
        return operations.count

    plain = step()
    with omnisift.attach(MODEL, half()):
        attached = step()
    for name in ("_local_scalar_dense", "nonzero"):
        assert attached[name] <= plain[name]


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2])
def test_the_stream_is_a_view_of_the_hosts_embeddings(rows: int) -> None:
    merged: list[Tensor] = []
    inputs = prompt(*[[5, Video(4, audio=90), 6]] * rows)
    seen.clear()
    with omnisift.attach(MODEL, EverySecond(HALF)) as attachment:
        core = attachment.adapter.parts.core
        handle = core.get_input_embeddings().register_forward_hook(lambda m, a, o: merged.append(o))
        MODEL(**{k: v for k, v in inputs.items() if k not in ("pixel_values_videos", "input_features")})
        handle.remove()
    assert seen[0].embeds.data_ptr() == merged[0].data_ptr()
    assert len(seen[0]) == inputs["input_ids"].numel()


@torch.no_grad()
@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_times_follow_the_real_seconds_per_grid(seconds: float) -> None:
    """A long clip sampled more coarsely has longer grids; the stream has the times that the host uses."""
    inputs = prompt([5, Video(4, 1, 2), 6])
    inputs["video_second_per_grid"] = torch.tensor([seconds])
    seen.clear()
    with omnisift.attach(MODEL, EverySecond(HALF)):
        MODEL(**inputs)
    times = seen[0].time[seen[0].clip >= 0]
    assert times.tolist() == pytest.approx([seconds * grid for grid in range(4) for _ in range(2)])
