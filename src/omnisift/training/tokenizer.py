"""nano's tokenizer: one token per word, a few hundred words, and nothing that can fail.

Text is put in lower case and cut at spaces and punctuation; a hyphenated word stays one word (``top-left``), a number
is read digit by digit, and whatever is not in the list becomes ``<unk>``.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

MIN_PIXELS, MAX_PIXELS = 112 * 112, 224 * 224
"""A 112 x 112 clip stays as it is: 8 x 8 patches, 16 tokens a frame. Larger pictures are made smaller."""

PAD, UNKNOWN, TURN_START, TURN_END = "<pad>", "<unk>", "<|im_start|>", "<|im_end|>"

MEDIA_TOKENS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
"""The attribute names that `Qwen2_5OmniProcessor` asks its tokenizer for."""

_WORDS = """
a about after again all also am an and any anything appear appears are as ask at audio away be because been before
between both but by can clip color colors colour colours come comes could count describe did different do does
during each earlier else ever every exactly find first following for from give go goes had happen happened happens
has have hear heard here how i if in into is it item items its just kind know last later list listen long look made
make makes many may me more most much my name next no noise not number object objects occur of off on one only or
order other out over part picture place play played playing please recording same say scene second seconds see seen
shape shapes show shown shows so some someone something sound sounds soundtrack spot start starts still such tell
than thank thanks that the their them then there these they thing things this those time timeline to together total
track twice type up us very video visible was watch we were what when where which while who whose why will with
would write yes you your
"""
ENGLISH: tuple[str, ...] = tuple(_WORDS.split())
"""Common English words that a question may hold even where the world's own phrasings don't use them."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""Qwen's turns, without newlines (they are no tokens here) and without a system prompt."""


def word_list(world_words: Iterable[str]) -> list[str]:
    """Every token of nano in order: special ones, roles, digits, letters, punctuation, words."""
    special = [PAD, UNKNOWN, TURN_START, TURN_END, *MEDIA_TOKENS.values()]
    small = ["user", "assistant", "system", *"0123456789", *"abcdefghijklmnopqrstuvwxyz", *"?.,:;!'\"-()/"]
    words = sorted({*ENGLISH, *(word.lower() for word in world_words)} - {*special, *small})
    return special + small + words


def build_tokenizer(world_words: Iterable[str]) -> PreTrainedTokenizerFast:
    """The tokenizer, ready for ``save_pretrained``; ``world_words`` are those of questions, answers and captions."""
    tokens = word_list(world_words)
    backend = Tokenizer(WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{L}+(?:-\p{L}+)*|[^\s]"), behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        eos_token=TURN_END,
        extra_special_tokens={**MEDIA_TOKENS, "turn_start_token": TURN_START},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        # The host's processor class has a default picture size of its own that hides the saved video processor's;
        # the one saved setting that it lets win is the tokenizer's.
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
