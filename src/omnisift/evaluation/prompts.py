"""Many questions about one clip, at the cost of one look at it.

`Prompts` holds all questions of a clip as one left-padded batch. The clip is encoded once, by the model itself on an
ordinary call; the batch then goes through the model's own ``forward`` with whatever is attached to it, as embeddings
plus ``input_ids``. A test proves that logits and kept tokens equal those of the ordinary calls, one question at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
    """``Q`` questions about one clip, padded on the left to ``S`` tokens."""

    input_ids: Tensor
    """[Q, S] int64."""
    attention_mask: Tensor
    """[Q, S] int64: 0 on padding."""
    position_ids: Tensor
    """[3, Q, S] int64: rotary ids by the host's own rule."""
    inputs_embeds: Tensor
    """[Q, S, D]: words, pictures and sound, merged by the host."""

    def row(self, index: int) -> Prompts:
        """One question alone, still padded."""
        one = slice(index, index + 1)
        return replace(
            self,
            input_ids=self.input_ids[one],
            attention_mask=self.attention_mask[one],
            position_ids=self.position_ids[:, one],
            inputs_embeds=self.inputs_embeds[one],
        )


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
    ids = inputs["input_ids"][0]
    end = processor.tokenizer.convert_tokens_to_ids(processor.vision_eos_token)
    prefix = int(torch.nonzero(ids == end)[-1]) + 1
    tails = [_tail(processor, text) for text in texts]
    input_ids, mask = _left_padded(
        [torch.cat([ids[:prefix], tail]) for tail in tails], processor.tokenizer.pad_token_id
    )
    embeds = thinker.get_input_embeddings()(input_ids)
    length = input_ids.shape[1]
    for row, tail in enumerate(tails):
        start = length - len(tail) - prefix
        embeds[row, start : start + prefix] = seen[0][0, :prefix]
    return Prompts(input_ids, mask, _rotary(thinker, input_ids, mask, inputs), embeds)


@torch.inference_mode()
def answer(thinker: Any, prompts: Prompts, compressor: Compressor | None) -> tuple[Tensor, Compression | None]:
    """Logits of the first word of each answer [Q, vocabulary], and what was kept (None without a compressor)."""
    arguments = {
        "input_ids": prompts.input_ids,
        "inputs_embeds": prompts.inputs_embeds,
        "attention_mask": prompts.attention_mask,
        "position_ids": prompts.position_ids,
        "use_cache": False,
    }
    if compressor is None:
        return thinker(**arguments).logits[:, -1], None
    with attach(thinker, compressor) as attachment:
        logits = thinker(**arguments).logits[:, -1]
    return logits, attachment.last


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


def _batch(singles: list[dict[str, Any]], pad: int) -> dict[str, Any]:
    """Inputs of several prompts as one batch; text is padded on the left, the rest is joined."""
    batch = dict(singles[0])
    for name, value in singles[0].items():
        if isinstance(value, Tensor) and name not in ("input_ids", "attention_mask"):
            batch[name] = torch.cat([single[name] for single in singles])
    batch["input_ids"], batch["attention_mask"] = _left_padded([single["input_ids"][0] for single in singles], pad)
    return batch


def _left_padded(rows: list[Tensor], pad: int) -> tuple[Tensor, Tensor]:
    """([Q, S] ids, [Q, S] mask)."""
    length = max(len(row) for row in rows)
    ids = torch.full((len(rows), length), pad, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, length - len(row) :] = row
        mask[index, length - len(row) :] = 1
    return ids, mask


def _tail(processor: Any, text: str) -> Tensor:
    """Tokens of the prompt behind the clip: the question and the opening of the answer."""
    content = [{"type": "video", "video": "-"}, {"type": "text", "text": text}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    behind = prompt.rpartition(processor.vision_eos_token)[2]
    return torch.tensor(processor.tokenizer(behind, add_special_tokens=False)["input_ids"], dtype=torch.int64)


def _rotary(thinker: Any, ids: Tensor, mask: Tensor, inputs: dict[str, Any]) -> Tensor:
    """[3, Q, S] by the host's rule, with the clip repeated for every row."""
    rows = len(ids)
    names = ("video_grid_thw", "feature_attention_mask", "video_second_per_grid")
    repeated = {
        name: torch.cat([torch.as_tensor(inputs[name])] * rows) for name in names if inputs.get(name) is not None
    }
    repeated["use_audio_in_video"] = inputs["use_audio_in_video"]
    return Qwen25OmniAdapter(thinker).rotary(ids, mask.bool(), repeated)


@contextmanager
def _merged(thinker: Any) -> Iterator[list[Tensor]]:
    """Collects the merged embeddings [1, S, D] that reach the language model."""
    seen: list[Tensor] = []

    def look(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["inputs_embeds"])

    handle = Qwen25OmniAdapter(thinker).parts.language_model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()
