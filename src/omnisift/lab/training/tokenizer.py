"""nano's tokenizer: one token per word, a few hundred words.

Text is lower-cased and split at spaces and punctuation; a hyphenated word stays one token (``top-left``), numbers are
split into digits, and unknown words become ``<unk>``.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

MIN_PIXELS, MAX_PIXELS = 112 * 112, 224 * 224
"""A 112 x 112 clip keeps its size: 8 x 8 patches, 16 tokens per frame. Larger images are resized."""

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
"""Attribute names that `Qwen2_5OmniProcessor` reads from its tokenizer."""

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
"""Common English words that a question may contain, besides those of the world's own questions."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_bos|><|VIDEO|><|vision_eos|>"
    "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'image' %}<|vision_bos|><|IMAGE|><|vision_eos|>"
    "{% elif 'text' in part %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant{% endif %}"
)
"""Qwen's turns without line breaks, which are no tokens here, and without a system prompt."""


def word_list(world_words: Iterable[str]) -> list[str]:
    """All tokens of nano in order: special tokens, roles, digits, letters, punctuation, words."""
    special = [PAD, UNKNOWN, TURN_START, TURN_END, *MEDIA_TOKENS.values()]
    small = ["user", "assistant", "system", *"0123456789", *"abcdefghijklmnopqrstuvwxyz", *"?.,:;!'\"-()/"]
    words = sorted({*ENGLISH, *(word.lower() for word in world_words)} - {*special, *small})
    return special + small + words


def build_tokenizer(
    world_words: Iterable[str], max_pixels: int = MAX_PIXELS, min_pixels: int = MIN_PIXELS
) -> PreTrainedTokenizerFast:
    """The tokenizer, ready for ``save_pretrained``.

    Args:
        world_words: words of questions, answers and captions.
        max_pixels: largest image that is not resized.
        min_pixels: smallest image that is not resized.
    """
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
        # The host's processor class replaces the saved video processor's image size by its default, unless the
        # tokenizer has a size.
        size={"shortest_edge": min_pixels, "longest_edge": max_pixels},
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
