"""One call of ``generate`` for a batch of prompts: its arguments, its stop tokens, and the tokens of each prompt."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.compressors import Compressor
from omnisift.compressors.omnisift import trainable_part
from omnisift.errors import ModelError
from omnisift.models import Compression, adapter_for, attach
from omnisift.models.attachment import check_unattached
from omnisift.models.last_logits import last_logits
from omnisift.models.short_prompt import short_prompt
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline.clip_format import frame_seconds
from omnisift.pipeline.encoded_clip import PromptRow, needs_encoders, prepare_call
from omnisift.pipeline.holding import EveryToken, Holding
from omnisift.pipeline.loading import Host
from omnisift.pipeline.report import Tokens
from omnisift.pipeline.stopwatch import Stopwatch, peak_memory, reset_peak_memory
from omnisift.tokens import Modality

GREEDY: dict[str, Any] = {
    "do_sample": False, "num_beams": 1, "num_return_sequences": 1, "return_dict_in_generate": False,
    "output_scores": False, "output_logits": False, "output_attentions": False, "output_hidden_states": False,
    "is_assistant": False,
}  # fmt: skip
"""What a model's own generation_config.json may not change: one greedy answer per prompt, as token ids."""

_THINK, _THINK_END = "<think>", "</think>"


def greedy_arguments(thinker: Any) -> dict[str, Any]:
    """`GREEDY`, without the router logits of a mixture of experts, with which Transformers can't decode a prompt."""
    routes = getattr(thinker.config.get_text_config(), "output_router_logits", False)
    return GREEDY | ({"output_router_logits": False} if routes else {})


@dataclass(frozen=True)
class Generated:
    """The answer to one prompt."""

    text: str
    thinking: str
    tokens: Tokens
    seconds: dict[str, float]
    """Stage -> seconds, an equal share of the call: ``process`` (joining the batch) and those of `Stopwatch`."""
    peak_memory_bytes: int | None
    """Peak of the whole call; see `peak_memory`."""
    cached_tokens: int
    """Tokens of the prompt whose keys and values the clip held."""
    notices: tuple[str, ...] = ()
    """What is wrong with the compressor's scores."""


def generate_releasing(
    host: Host, compressor: Compressor | None, rows: Sequence[PromptRow], **options: Any
) -> list[Generated]:
    """Call `generate`; where memory runs out, once more without the prompts that the clips hold."""
    try:
        return generate(host, compressor, rows, **options)
    except torch.OutOfMemoryError:
        held = [row.clip.held for row in rows if row.clip is not None and len(row.clip.held)]
        for prompts in held:
            prompts.clear()
        # A text that was shown in part must not begin again.
        if not held or options.get("on_text") is not None:
            raise
    return generate(host, compressor, rows, **options)


@torch.no_grad()
def generate(
    host: Host,
    compressor: Compressor | None,
    rows: Sequence[PromptRow],
    *,
    max_new_tokens: int,
    on_stage: Callable[[str], None],
    on_text: Callable[[str], None] | None = None,
) -> list[Generated]:
    """Answer prompts in one call, with greedy decoding.

    Args:
        host: the model.
        compressor: the method that compresses each prompt; None keeps every token.
        rows: prompts of one call, as `split_calls` divides them.
        max_new_tokens: maximum number of generated tokens per answer.
        on_stage: called with the name of each stage when it begins.
        on_text: called with each piece of the answer as it is generated; for a single prompt only.

    Returns:
        One answer per prompt, in their order.

    Raises:
        ModelError: the model computed NaN or infinity instead of logits.
    """
    thinker, tokenizer, stop_tokens = host.thinker, host.processor.tokenizer, host.stop_tokens
    begin = time.perf_counter()
    short = rows[0].short  # if there is one, the clip was compressed before
    lines = [row.lines for row in rows]
    attached = None if short is not None else compressor or (EveryToken() if any(lines) else None)
    if attached is None:
        check_unattached(adapter_for(thinker).parts.language_model, type(thinker).__name__)
    holding = Holding(host, attached, rows)
    method = holding.compressor
    with prepare_call(host, rows, method) as inputs:
        process_seconds = time.perf_counter() - begin
        on_stage("prefill")
        reset_peak_memory(host.device)
        encodes = needs_encoders(rows, method)
        attaching = attach(thinker, method) if method is not None else nullcontext(None)
        logits = FiniteLogits()
        thoughts = Thoughts.of(tokenizer, inputs["input_ids"][0])
        watching = Stopwatch(thinker, method, on_stage, encodes)
        given = last_logits(thinker), batched_windows(thinker) if short is None else short_prompt(thinker, short)
        with attaching as attachment, given[0], given[1], holding.hooks(attachment), watching as watch:
            if attachment is not None:
                attachment.frame_seconds = frame_seconds(host.processor, [row.media for row in rows])
                attachment.lines = lines
            output = thinker.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                **greedy_arguments(thinker),
                logits_processor=[logits],
                streamer=None if on_text is None else _text_streamer(tokenizer, on_text, thoughts),
                **stop_tokens,
            )
    logits.check(host.source)
    # Split the result by prompt.
    answers = [until_stop(row, stop_tokens["eos_token_id"]) for row in output[:, inputs["input_ids"].shape[1] :]]
    modality = adapter_for(thinker).modality(inputs["input_ids"].cpu(), inputs)
    compression = attachment.last if attachment is not None else None
    if short is not None:
        compression, modality = short.compression, short.compression.modality
    lengths = inputs["attention_mask"].sum(dim=1).tolist() if short is None else [modality.shape[1]]
    counts = count_rows(modality, lengths, [int(row.shape[0]) for row in answers], compression)
    seconds = {stage: spent / len(rows) for stage, spent in {"process": process_seconds, **watch.spent}.items()}
    memory = peak_memory(host.device)
    notices = () if compression is None else unscored_notice(compression, compressor)
    made: dict[str, Any] = {"seconds": seconds, "peak_memory_bytes": memory, "notices": notices}
    return [
        _generated(tokenizer, row.tolist(), thoughts, tokens=tokens, cached_tokens=cached, **made)
        for row, tokens, cached in zip(answers, counts, holding.cached, strict=True)
    ]


def _generated(
    tokenizer: Any, answer: list[int], thoughts: Thoughts | None, notices: tuple[str, ...], **made: Any
) -> Generated:
    """The texts of one answer; a notice where the model only thought."""
    parts = ([], answer) if thoughts is None else thoughts.split(answer)
    thinking, text = (tokenizer.decode(part, skip_special_tokens=True).strip() for part in parts)
    if thinking and not text:
        notice = f"the model was still thinking after {len(answer)} tokens, so there is no answer: allow more"
        notices = (*notices, notice)
    return Generated(text=text, thinking=thinking, notices=notices, **made)


@dataclass(frozen=True)
class Thoughts:
    """The tokens around what a model thinks before its answer."""

    begin: int
    end: int
    is_open: bool
    """Whether the prompt ends within a thought."""

    @classmethod
    def of(cls, tokenizer: Any, prompt: Tensor) -> Thoughts | None:
        """Read them from a tokenizer and a prompt [S]; None if the tokenizer has no such tokens."""
        added = tokenizer.get_added_vocab()
        if _THINK not in added or _THINK_END not in added:
            return None
        begin, end = added[_THINK], added[_THINK_END]
        marks = [token for token in prompt.tolist() if token in (begin, end)]
        return cls(begin, end, marks[-1:] == [begin])

    def split(self, answer: list[int]) -> tuple[list[int], list[int]]:
        """Divide generated tokens into a thought, without the tokens around it, and what follows."""
        has_begin = answer[:1] == [self.begin]
        if not (has_begin or self.is_open):
            return [], answer
        end = answer.index(self.end) if self.end in answer else len(answer)
        return answer[int(has_begin) : end], answer[end + 1 :]


class FiniteLogits:
    """A logits processor that changes nothing, and finds NaN and infinity without a transfer at each token."""

    def __init__(self) -> None:
        self._finite: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002
        """Look at the logits [B, V] of one token; of a row, -inf everywhere is wrong, -inf for some tokens is not."""
        finite = torch.isfinite(scores.amax(dim=-1)).all()
        self._finite = finite if self._finite is None else self._finite & finite
        return scores

    def check(self, source: str) -> None:
        """Raise `ModelError` if a token was chosen by logits that are not finite: the answer would mean nothing."""
        if self._finite is not None and not bool(self._finite):
            raise ModelError(
                f"{source}: the model computed NaN or infinity instead of logits; its weights are damaged (download "
                "them again), or float16 is too narrow for it (try --dtype float32 or bfloat16)"
            )


def unscored_notice(compression: Compression, compressor: Compressor | None) -> tuple[str, ...]:
    """A sentence for a prompt in which tokens were dropped although their scores are NaN; () for others."""
    scores = compression.scores
    if scores is None:
        return ()
    count = 0
    for kind in (Modality.VIDEO, Modality.AUDIO):
        tokens = compression.modality == kind
        # A method that scores neither modality or one of them leaves NaN on all tokens of the other.
        has_scores = bool((tokens & ~scores.isnan()).any())
        if has_scores or (kind == Modality.AUDIO and compressor is not None and trainable_part(compressor) is not None):
            count += int((tokens & ~compression.keep & scores.isnan()).sum())
    if not count:
        return ()
    return (
        f"the compressor's scores of {count} dropped tokens are NaN, so the choice is arbitrary: "
        "check the weights of model and selector, or use another --dtype",
    )


def count_rows(
    modality: Tensor, prompt: Sequence[int], generated: Sequence[int], compression: Compression | None
) -> list[Tokens]:
    """Token counts of each prompt of a batch; padding is not counted.

    Args:
        modality: [B, S] int8: `Modality` of each token.
        prompt: number of tokens of each row, before compression.
        generated: number of generated tokens of each row.
        compression: what was kept; None if every token was.
    """
    video, audio = ((modality == kind).sum(dim=1).tolist() for kind in (Modality.VIDEO, Modality.AUDIO))
    counts = []
    for row, length in enumerate(generated):
        kept_video, kept_audio, text, kept_text = video[row], audio[row], 0, 0
        if compression is not None:
            kept_video = compression.kept_video_rows[row]
            # Audio outside a video, unless it is compressed, counts as text there.
            kept_audio += compression.kept_audio_rows[row] - compression.n_audio_rows[row]
            text, kept_text = compression.n_text_rows[row], compression.kept_text_rows[row]
        counts.append(Tokens(video[row], kept_video, audio[row], kept_audio, prompt[row], length, text, kept_text))
    return counts


def until_stop(row: Tensor, eos: int | list[int]) -> Tensor:
    """The tokens up to and including the first end token; the rest is padding."""
    stops = torch.tensor(eos if isinstance(eos, list) else [eos], device=row.device)
    indices = torch.isin(row, stops).nonzero()
    return row[: int(indices[0]) + 1] if len(indices) else row


def _text_streamer(tokenizer: Any, on_text: Callable[[str], None], thoughts: Thoughts | None) -> Any:
    """A streamer of Transformers whose pieces, joined, are the answer apart from white space at both ends."""
    from transformers import TextStreamer

    class CallbackStreamer(TextStreamer):
        """Calls ``on_text`` where the base class prints. A thought before the answer is left out."""

        def __init__(self) -> None:
            super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
            self.generated = list[int]()

        def put(self, value: Tensor) -> None:
            """Take the prompt, then one token at a time."""
            base: Any = super()
            if self.next_tokens_are_prompt or thoughts is None:
                base.put(value)
                return
            # What follows the thought after this token, and did not before it, is a token of the answer.
            before = len(thoughts.split(self.generated)[1])
            self.generated = [*self.generated, *value.flatten().tolist()]
            if len(thoughts.split(self.generated)[1]) > before:
                base.put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            if text:
                on_text(text)

    return CallbackStreamer()
