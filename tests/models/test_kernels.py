"""Number formats and attention kernels: the kernel gets the cut length and positions without gaps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.models import Part, Video, language_model, prompt, thinker
from tests.models.hosts import half, keep_all, omnisift_half
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

import omnisift

ROW: list[Part] = [5, Video(4, 2, 3, audio=90), 6]
BATCH: list[list[Part]] = [ROW, [9, Video(2, 2, 2, audio=30), 21], [40]]
FLASH = "reference_flash"


@torch.no_grad()
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_format_and_kernel_runs_and_keeps_its_dtype(attention: str, dtype: torch.dtype) -> None:
    model = thinker(attention=attention).to(dtype)
    inputs = prompt(*BATCH)
    for name in ("pixel_values_videos", "input_features"):
        inputs[name] = inputs[name].to(dtype)
    full = model(**inputs).logits
    with omnisift.attach(model, keep_all()):
        assert torch.equal(model(**inputs).logits, full)
    with omnisift.attach(model, omnisift_half()) as attachment:
        logits = model(**inputs).logits
        assert attachment.last is not None
        assert logits.dtype == dtype
        assert logits.shape[1] < full.shape[1]
        assert logits[:, -1].isfinite().all()
        model.generate(**inputs, max_new_tokens=3)


@torch.no_grad()
def test_eager_and_sdpa_agree() -> None:
    logits = []
    for attention in ("eager", "sdpa"):
        model = thinker(attention=attention)
        with omnisift.attach(model, half()):
            logits.append(model(**prompt(*BATCH)).logits[:, -1])
    assert (logits[0] - logits[1]).abs().max() < 1e-5


@dataclass
class Kernel:
    """Stands in for FlashAttention: takes a 2-D mask as long as the keys or none, and positions without packing."""

    lengths: list[tuple[int, int]] = field(default_factory=list)

    def __call__(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
    ) -> tuple[Tensor, None]:
        rows, _, new, _ = query.shape
        total = key.shape[2]
        assert not options.get("output_attentions")
        assert attention_mask is None or attention_mask.shape == (rows, total)
        positions = options.get("position_ids")
        if attention_mask is None and positions is not None:
            assert positions.shape[-1] == new
            assert (positions.diff(dim=-1) == 1).all(), "read as packed sequences"
        self.lengths.append((new, total))
        seen = torch.ones(new, total).tril(total - new).bool().expand(rows, 1, new, total)
        if attention_mask is not None:
            seen = seen & attention_mask.bool()[:, None, None, :]
        seen = seen | ~seen.any(-1, keepdim=True)  # what padding sees does not matter, but it must be a number
        output = F.scaled_dot_product_attention(query, key, value, seen, scale=options["scaling"], enable_gqa=True)
        return output.transpose(1, 2), None


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    stand_in = Kernel()
    AttentionInterface.register(FLASH, stand_in)
    AttentionMaskInterface.register(FLASH, flash_attention_mask)
    yield stand_in
    del AttentionInterface._global_mapping[FLASH], AttentionMaskInterface._global_mapping[FLASH]


@torch.no_grad()
@pytest.mark.parametrize("rows", [[ROW], BATCH], ids=["one", "batch"])
@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_the_flash_path_gets_cut_lengths_and_gives_the_same_text(
    kernel: Kernel, rows: list[list[Part]], cache: bool
) -> None:
    inputs, model, flash = prompt(*rows), thinker(), thinker()
    language_model(flash).config._attn_implementation = FLASH
    with omnisift.attach(model, half()):
        expected = model.generate(**inputs, max_new_tokens=4, use_cache=cache)
    with omnisift.attach(flash, half()) as attachment:
        got = flash.generate(**inputs, max_new_tokens=4, use_cache=cache)
    assert torch.equal(got, expected)
    assert attachment.last is not None
    kept = int((attachment.last.keep[:, : inputs["input_ids"].shape[1]] & inputs["attention_mask"].bool()).sum(1).max())
    steps = kernel.lengths[:: len(language_model(flash).layers)]
    assert steps == [(1 if cache and i else kept + i, kept + i) for i in range(4)]


@torch.no_grad()
def test_variable_length_arguments_are_cut_too(kernel: Kernel) -> None:
    """Padding-free training passes borders of the full length; a kernel would read past the end of the cut one."""
    model = thinker()
    inputs = prompt(ROW)
    length = inputs["input_ids"].shape[1]
    borders = torch.tensor([0, length], dtype=torch.int32)
    seen: dict[str, Any] = {}
    options = {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders, "max_length_q": length, "max_length_k": length}
    with omnisift.attach(model, half()) as attachment:
        handle = language_model(model).register_forward_pre_hook(lambda m, a, k: seen.update(k), with_kwargs=True)
        logits = model.model(**inputs, **options)[0] if hasattr(model.model, "language_model") else None
        handle.remove()
    if logits is None:
        pytest.skip("the old layout's encoders take these arguments for their own")
    assert attachment.last is not None
    kept = int(attachment.last.keep.sum())
    assert seen["cu_seq_lens_q"].tolist() == seen["cu_seq_lens_k"].tolist() == [0, kept]
    assert seen["max_length_q"] == seen["max_length_k"] == kept
