"""Several questions on one clip that is encoded once and read once per method.

The model encodes the clip in an ordinary call. For each method, its ``forward`` with the method attached reads the
prompt up to the end of the clip, and all questions continue from that cache as one batch. A test compares logits and
kept tokens with those of ordinary calls, one complete prompt at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.compressors import Compressor
from omnisift.media import Media
from omnisift.models import Compression, attach
from omnisift.models.cached_prompt import cache_argument, find_cache
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.pipeline.prompt import build_inputs


@dataclass(frozen=True)
class Prompts:
    """``Q`` questions on one clip: ``P`` shared tokens, and ``T`` of each question, padded on the right."""

    clip_ids: Tensor
    """[1, P] int64: everything up to the end of the clip."""
    clip_embeds: Tensor
    """[1, P, D]: embeddings of text, video and audio, merged by the host."""
    clip_positions: Tensor
    """[3, 1, P] int64: rotary ids, from the host."""
    ids: Tensor
    """[Q, T] int64: the questions, each with the opening of the answer."""
    mask: Tensor
    """[Q, T] int64: 0 on padding."""
    positions: Tensor
    """[3, Q, T] int64."""


@torch.inference_mode()
def prepare(thinker: Any, processor: Any, media: Media, texts: Sequence[str]) -> Prompts:
    """Encode a clip once and tokenize its questions.

    Args:
        thinker: A Qwen2.5-Omni thinker with nothing attached.
        processor: Its processor.
        media: A clip with video and audio, read at the processor's size.
        texts: The questions.
    """
    inputs = build_inputs(processor, media, texts[0])
    with _merged_inputs(thinker) as captured:
        thinker(**inputs, use_cache=False)
    embeds, positions = captured[0]
    ids: Tensor = inputs["input_ids"]
    end = processor.tokenizer.convert_tokens_to_ids(processor.vision_eos_token)
    shared = int(torch.nonzero(ids[0] == end)[-1]) + 1
    tails, mask = padded([tail(processor, text) for text in texts], processor.tokenizer.pad_token_id, left=False)
    # After the clip there is only text: its three rotary ids are equal and count on.
    start = positions[..., shared - 1].max() + 1
    counted = (start + torch.arange(tails.shape[1])).expand(3, *tails.shape)
    return Prompts(ids[:, :shared], embeds[:, :shared], positions[:, :, :shared], tails, mask, counted)


@torch.inference_mode()
def answer(thinker: Any, prompts: Prompts, compressor: Compressor | None) -> tuple[Tensor, Compression | None]:
    """Return the logits of each answer's first token [Q, vocabulary], and what was kept (None without a compressor)."""
    with attach(thinker, compressor) if compressor is not None else nullcontext() as attachment:
        output = thinker(
            input_ids=prompts.clip_ids,
            inputs_embeds=prompts.clip_embeds,
            attention_mask=torch.ones_like(prompts.clip_ids),
            position_ids=prompts.clip_positions,
            use_cache=True,
        )
    cache = find_cache(output)
    # The questions are text with explicit positions after a cache of known length: nothing to compress.
    read = prompts.mask.new_ones(len(prompts.ids), cache.get_seq_length())
    cache.batch_repeat_interleave(len(prompts.ids))
    logits = thinker(
        input_ids=prompts.ids,
        attention_mask=torch.cat([read, prompts.mask], dim=1),
        position_ids=prompts.positions,
        use_cache=True,
        **cache_argument(thinker, cache),
    ).logits
    last = prompts.mask.sum(1) - 1
    return logits[torch.arange(len(last)), last], attachment.last if attachment is not None else None


@torch.inference_mode()
def write(
    thinker: Any,
    processor: Any,
    requests: Sequence[tuple[Media, str]],
    compressor: Compressor | None,
    max_new_tokens: int,
) -> list[str]:
    """Return the greedy answer to each (clip, request), generated in one ordinary ``generate`` call."""
    inputs = _batch(
        [build_inputs(processor, media, text) for media, text in requests], processor.tokenizer.pad_token_id
    )
    options = {"max_new_tokens": max_new_tokens, "do_sample": False}
    if compressor is None:
        output = thinker.generate(**inputs, **options)
    else:
        with attach(thinker, compressor):
            output = thinker.generate(**inputs, **options)
    written = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(written, skip_special_tokens=True)]


def _batch(singles: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Join the inputs of several prompts; text is padded on the left."""
    batch = dict(singles[0])
    for name, value in singles[0].items():
        if isinstance(value, Tensor) and name not in ("input_ids", "attention_mask"):
            batch[name] = torch.cat([single[name] for single in singles])
    batch["input_ids"], batch["attention_mask"] = padded([single["input_ids"][0] for single in singles], pad, left=True)
    return batch


def padded(rows: list[Tensor], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """Return ids [Q, T] and mask [Q, T] of ``rows``, padded with ``pad`` on the left or the right."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        columns = slice(length - len(row), length) if left else slice(0, len(row))
        ids[index, columns] = row
        mask[index, columns] = 1
    return ids, mask


def tail(processor: Any, text: str) -> Tensor:
    """Return the tokens of the prompt after the clip: the question and the opening of the answer."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    after = prompt.rpartition(processor.vision_eos_token)[2]
    return torch.tensor(processor.tokenizer(after, add_special_tokens=False)["input_ids"], dtype=torch.int64)


@contextmanager
def _merged_inputs(thinker: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect the inputs of the language model: merged embeddings [1, S, D] and rotary ids [3, 1, S]."""
    captured: list[tuple[Tensor, Tensor]] = []

    def capture(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        captured.append((kwargs["inputs_embeds"], kwargs["position_ids"][-3:]))

    handle = Qwen25OmniAdapter(thinker).parts.language_model.register_forward_pre_hook(capture, with_kwargs=True)
    try:
        yield captured
    finally:
        handle.remove()
