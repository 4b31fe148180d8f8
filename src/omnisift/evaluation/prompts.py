"""Many questions about one clip, at the cost of one look at it.

The clip is encoded once, by the model itself on an ordinary call. For each method the prompt up to the end of the clip
is then read once, through the model's own ``forward`` with the method attached, and all questions go on from its cache
as one batch. A test proves that logits and kept tokens equal those of ordinary calls, one whole prompt at a time.
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
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.pipeline.prompt import build_inputs


@dataclass(frozen=True)
class Prompts:
    """``Q`` questions about one clip: the ``P`` tokens that they share, and ``T`` of their own, padded on the right."""

    clip_ids: Tensor
    """[1, P] int64: everything up to the end of the clip."""
    clip_embeds: Tensor
    """[1, P, D]: words, pictures and sound, merged by the host."""
    clip_positions: Tensor
    """[3, 1, P] int64: rotary ids by the host's own rule."""
    ids: Tensor
    """[Q, T] int64: the questions and the openings of the answers."""
    mask: Tensor
    """[Q, T] int64: 0 on padding."""
    positions: Tensor
    """[3, Q, T] int64."""


@torch.inference_mode()
def prepare(thinker: Any, processor: Any, media: Media, texts: Sequence[str]) -> Prompts:
    """Encode the clip once and lay out its questions.

    Args:
        thinker: a Qwen2.5-Omni thinker with nothing attached.
        processor: its processor.
        media: a clip with picture and sound, read at the processor's size.
        texts: the questions.
    """
    inputs = build_inputs(processor, media, texts[0])
    with _merged(thinker) as seen:
        thinker(**inputs, use_cache=False)
    embeds, positions = seen[0]
    ids: Tensor = inputs["input_ids"]
    end = processor.tokenizer.convert_tokens_to_ids(processor.vision_eos_token)
    shared = int(torch.nonzero(ids[0] == end)[-1]) + 1
    tails, mask = padded([tail(processor, text) for text in texts], processor.tokenizer.pad_token_id, left=False)
    # Behind the clip there is only text, whose three rotary ids count on together.
    start = positions[..., shared - 1].max() + 1
    counted = (start + torch.arange(tails.shape[1])).expand(3, *tails.shape)
    return Prompts(ids[:, :shared], embeds[:, :shared], positions[:, :, :shared], tails, mask, counted)


@torch.inference_mode()
def answer(thinker: Any, prompts: Prompts, compressor: Compressor | None) -> tuple[Tensor, Compression | None]:
    """Logits of the first word of each answer [Q, vocabulary], and what was kept (None without a compressor)."""
    with attach(thinker, compressor) if compressor is not None else nullcontext() as attachment:
        cache = thinker(
            input_ids=prompts.clip_ids,
            inputs_embeds=prompts.clip_embeds,
            attention_mask=torch.ones_like(prompts.clip_ids),
            position_ids=prompts.clip_positions,
            use_cache=True,
        ).past_key_values
    # What follows is text behind a cache of known length, with positions of its own: nothing to compress or mend.
    read = prompts.mask.new_ones(len(prompts.ids), cache.get_seq_length())
    cache.batch_repeat_interleave(len(prompts.ids))
    logits = thinker(
        input_ids=prompts.ids,
        attention_mask=torch.cat([read, prompts.mask], dim=1),
        position_ids=prompts.positions,
        past_key_values=cache,
        use_cache=True,
    ).logits
    last = prompts.mask.sum(1) - 1
    return logits[torch.arange(len(last)), last], attachment.last if attachment is not None else None


@torch.inference_mode()
def write(
    thinker: Any, processor: Any, requests: Sequence[tuple[Media, str]], compressor: Compressor | None, longest: int
) -> list[str]:
    """What the model writes for each (clip, request), greedily, in one ordinary ``generate`` call."""
    inputs = _batch(
        [build_inputs(processor, media, text) for media, text in requests], processor.tokenizer.pad_token_id
    )
    options = {"max_new_tokens": longest, "do_sample": False}
    if compressor is None:
        output = thinker.generate(**inputs, **options)
    else:
        with attach(thinker, compressor):
            output = thinker.generate(**inputs, **options)
    written = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.tokenizer.batch_decode(written, skip_special_tokens=True)]


def _batch(singles: Sequence[Mapping[str, Any]], pad: int) -> dict[str, Any]:
    """Inputs of several prompts as one batch; text is padded on the left, the rest is joined."""
    batch = dict(singles[0])
    for name, value in singles[0].items():
        if isinstance(value, Tensor) and name not in ("input_ids", "attention_mask"):
            batch[name] = torch.cat([single[name] for single in singles])
    batch["input_ids"], batch["attention_mask"] = padded([single["input_ids"][0] for single in singles], pad, left=True)
    return batch


def padded(rows: list[Tensor], pad: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """([Q, T] ids, [Q, T] mask)."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(length - len(row), length) if left else slice(0, len(row))
        ids[index, place] = row
        mask[index, place] = 1
    return ids, mask


def tail(processor: Any, text: str) -> Tensor:
    """Tokens of the prompt behind the clip: the question and the opening of the answer."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    behind = prompt.rpartition(processor.vision_eos_token)[2]
    return torch.tensor(processor.tokenizer(behind, add_special_tokens=False)["input_ids"], dtype=torch.int64)


@contextmanager
def _merged(thinker: Any) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collects what reaches the language model: merged embeddings [1, S, D] and rotary ids [3, 1, S]."""
    seen: list[tuple[Tensor, Tensor]] = []

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append((kwargs["inputs_embeds"], kwargs["position_ids"][-3:]))

    handle = Qwen25OmniAdapter(thinker).parts.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
