"""Packed prompts: many questions after one clip, each answered as in a prompt of its own.

A question is a segment that attends to the full clip and to itself and starts at the position that it would have alone;
a block mask separates segments. Tests compare packed and single logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from omnisift.lab.training.feature_cache import FeatureCache
from omnisift.lab.training.nano_model import core_of
from omnisift.lab.training.tokenizer import MEDIA_TOKENS, TURN_END, TURN_START, UNKNOWN
from omnisift.models import adapter_for
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.world import CAPTION_REQUESTS, WIDE_TYPES, Question, caption, questions

CAPTION, END = len(WIDE_TYPES), len(WIDE_TYPES) + 1
"""Kinds of label besides the question types: words of a caption, and the end of a turn."""

TYPE_WEIGHTS: Mapping[str, float] = {
    "color_of_shape": 0.14,
    "shape_of_color": 0.08,
    "place": 0.10,
    "heard": 0.14,
    "sound_with": 0.22,
    "color_with_sound": 0.16,
    "count": 0.07,
    "order": 0.09,
}
"""How often each question type is drawn in training; binding sounds to video takes longest to learn."""

WIDE_WEIGHTS: Mapping[str, float] = {**TYPE_WEIGHTS, "written": 0.10, "said": 0.12, "before": 0.12}
"""The same for the wide family; weights are relative."""

_FILLERS = (
    "please",
    "tell me",
    "can you tell me",
    "in this clip",
    "in the video",
    "listen",
    "watch",
    "now",
    "so",
    "hi",
)
_TAILS = ("please", "in the clip", "in this video", "here", "thanks")


@dataclass(frozen=True)
class PromptLayout:
    """Where the tokens of a clip are in the prompt. ``P`` is the prefix: everything before the question."""

    ids: Tensor
    """[P] int64."""
    position: Tensor
    """[3, P] int64: the host's rotary ids."""
    video: Tensor
    """[96] int64: positions of the video tokens."""
    audio: Tensor
    """[150] int64: positions of the audio tokens."""
    other: Tensor
    """[6] int64: positions of all other tokens."""
    after: int
    """Position id of the first token after the prefix."""


def clip_layout(
    model: Any, tokenizer: PreTrainedTokenizerFast, seconds: int = 6, sound: bool = True, side: int = 4
) -> PromptLayout:
    """The layout of a clip's prompt, as the host's processor makes it.

    Args:
        model: a thinker, for its rotary positions.
        tokenizer: nano's.
        seconds: length of the clip. Video and audio take turns: of two seconds in Qwen2.5-Omni, with 32 video tokens (4
            x 4 a frame) and 50 audio tokens; of one second in Qwen3-Omni, with 13 audio tokens.
        sound: whether the clip has audio.
        side: tokens along one side of a frame.
    """
    turn, rate = getattr(model.config, "seconds_per_chunk", 1), adapter_for(model).audio_tokens(100)
    video_tokens = MEDIA_TOKENS["video_token"] * (turn * side * side)
    audio_tokens = MEDIA_TOKENS["audio_token"] * (turn * rate) if sound else ""
    begin, end = ("<|audio_bos|>", "<|audio_eos|>") if sound else ("", "")
    clip = (video_tokens + audio_tokens) * (seconds // turn)
    text = f"{TURN_START}user <|vision_bos|>{begin}{clip}{end}<|vision_eos|>"
    ids = torch.tensor([[*tokenizer(text).input_ids, tokenizer.unk_token_id]])
    position, _ = core_of(model).get_rope_index(
        ids,
        video_grid_thw=torch.tensor([[seconds, 2 * side, 2 * side]]),
        attention_mask=torch.ones_like(ids),
        use_audio_in_video=sound,
        audio_seqlens=torch.tensor([seconds * 100]) if sound else None,
        second_per_grids=torch.tensor([1.0]),
    )
    ids, position = ids[0], position[:, 0].long()
    video, audio = ids == tokenizer.video_token_id, ids == tokenizer.audio_token_id
    media = video | audio
    media[-1] = True
    return PromptLayout(
        ids[:-1],
        position[:, :-1],
        torch.nonzero(video).flatten(),
        torch.nonzero(audio).flatten(),
        torch.nonzero(~media).flatten(),
        int(position[0, -1]),
    )


@dataclass(frozen=True)
class Segment:
    """One turn after the clip."""

    prompt: list[int]
    """Token ids of the question."""
    answer: list[int]
    """Token ids of the answer."""
    kind: int
    """Index of the question type, or `CAPTION`."""
    argument: int = IGNORE_INDEX
    """Token of the word that the question is about."""
    video: tuple[int, ...] = ()
    """Indices of the video tokens that show the answer, for the pointer loss."""
    audio: tuple[int, ...] = ()
    """Indices of the audio tokens that hold the answer."""


class Writer:
    """Turns questions and captions into segments of token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.close: list[int] = tokenizer(f"{TURN_END}{TURN_START}assistant").input_ids
        self.end, self.unknown = (tokenizer(token).input_ids[0] for token in (TURN_END, UNKNOWN))
        self.encode = lru_cache(maxsize=20_000)(lambda text: tuple(tokenizer(text).input_ids))

    def question(
        self, question: Question, features: FeatureCache, clip: int, rng: np.random.Generator | None
    ) -> Segment:
        """A question; with ``rng`` its wording is perturbed, as users write."""
        words = list(self.encode(question.text))
        if rng is not None:
            words = self.perturb(words, rng)
        truth = features.truths[clip]
        video: tuple[int, ...] = ()
        audio: tuple[int, ...] = ()
        if question.type == "heard" or question.sounds:
            audio = tuple(int(i) for s in question.sounds for i in truth.sound_tokens[s])
        elif question.type in ("color_of_shape", "shape_of_color", "place", "written", "before"):
            video = tuple(int(i) for i in truth.flat_video(question.shapes[0]))
        argument = self.encode(question.argument)[0] if question.argument else IGNORE_INDEX
        answer = [self.encode(question.answer)[0], self.end]
        return Segment(words + self.close, answer, WIDE_TYPES.index(question.type), argument, video, audio)

    def caption(self, features: FeatureCache, clip: int, rng: np.random.Generator) -> Segment:
        """A request for a caption, and the true caption."""
        request = CAPTION_REQUESTS[int(rng.integers(len(CAPTION_REQUESTS)))]
        return Segment(
            [*self.encode(request), *self.close], [*self.encode(caption(features.scenes[clip])), self.end], CAPTION
        )

    def perturb(self, words: list[int], rng: np.random.Generator) -> list[int]:
        """The ids of a question as users write it: sometimes with a polite word or an unknown word, or without its
        question mark."""
        if rng.random() < 0.1:
            words = words[:-1]
        if rng.random() < 0.12:
            words = [*self.encode(_FILLERS[int(rng.integers(len(_FILLERS)))]), *words]
        if rng.random() < 0.06:
            words = [*words, *self.encode(_TAILS[int(rng.integers(len(_TAILS)))])]
        if rng.random() < 0.05:
            words.insert(int(rng.integers(len(words) + 1)), self.unknown)
        return words


def make_batch(
    features: FeatureCache,
    clips: Sequence[int],
    writer: Writer,
    count: int,
    rng: np.random.Generator,
    *,
    types: Mapping[str, float] | Sequence[str] | None = None,
    captions: float = 0.0,
    perturb: bool = False,
) -> dict[str, Tensor]:
    """Features, tokens and labels of ``B`` clips with ``count`` questions each.

    Args:
        features: where the clips are from.
        clips: indices of the clips.
        writer: makes token ids.
        count: questions per clip.
        rng: draws questions and wordings.
        types: weights of the question types, or a list of types; None draws evenly.
        captions: probability of a caption per clip.
        perturb: perturb the wording of questions.

    Returns:
        ``video`` [B, 96, D], ``audio`` [B, 150, D]; with ``T`` the length of the longest tail: ``tail`` [B, T] ids,
        ``segment`` [B, T] from 1, 0 is padding; ``offset`` [B, T] position inside the segment; ``labels`` [B, T] next
        token or -100; ``kind`` [B, T] of the label; ``argument`` [B, T] argument token where an answer begins, or -100;
        ``pointer`` [B, T, 246] bool, tokens that hold the answer; ``side``, and the token labels of ``features``.
    """
    rows = []
    for clip in clips:
        clip_questions = questions(features.scenes[clip], rng, types, count)
        row = [writer.question(q, features, clip, rng if perturb else None) for q in clip_questions]
        if rng.random() < captions:
            row.append(writer.caption(features, clip, rng))
        rows.append(row)
    pick = torch.as_tensor(np.asarray(clips))
    return {
        "video": features.video[pick].float(),
        "audio": features.audio[pick].float(),
        "video_class": features.video_class[pick],
        "audio_class": features.audio_class[pick],
        "audio_owner": features.audio_owner[pick],
        "visible": features.visible[pick],
        "side": torch.tensor(features.side),
        **packed_tails(rows, features.video.shape[1], features.audio.shape[1]),
    }


def packed_tails(rows: list[list[Segment]], videos: int, sounds: int) -> dict[str, Tensor]:
    """The segments of each row one after the other, from ``tail`` to ``pointer`` of `make_batch`.

    Args:
        rows: segments of each row.
        videos: video tokens of a clip, for the pointer.
        sounds: audio tokens of a clip.
    """
    length = max(sum(len(s.prompt) + len(s.answer) - 1 for s in row) for row in rows)
    size = (len(rows), length)
    tail, segment, offset = (torch.zeros(size, dtype=torch.long) for _ in range(3))
    labels, kind, argument = (torch.full(size, IGNORE_INDEX, dtype=torch.long) for _ in range(3))
    pointer = torch.zeros(*size, videos + sounds, dtype=torch.bool)
    for b, row in enumerate(rows):
        at = 0
        for number, part in enumerate(row, start=1):
            tokens = part.prompt + part.answer[:-1]  # the last token of the answer is a label only
            segment_slice = slice(at, at + len(tokens))
            tail[b, segment_slice], segment[b, segment_slice] = torch.tensor(tokens), number
            offset[b, segment_slice] = torch.arange(len(tokens))
            due = at + len(part.prompt) - 1
            labels[b, due : at + len(tokens)] = torch.tensor(part.answer)
            kind[b, due : at + len(tokens)] = part.kind
            kind[b, at + len(tokens) - 1] = END
            argument[b, due] = part.argument
            pointer[b, due, list(part.video)] = True
            pointer[b, due, [videos + i for i in part.audio]] = True
            at += len(tokens)
    return {
        "tail": tail, "segment": segment, "offset": offset, "labels": labels,
        "kind": kind, "argument": argument, "pointer": pointer,
    }  # fmt: skip
