import numpy as np
import pytest

from omnisift.lab.training.tokenizer import MEDIA_TOKENS, word_list
from omnisift.world import CAPTION_REQUESTS, caption, make_scene, questions, vocabulary


def words(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)


def test_a_question_is_its_words(tokenizer):
    assert words(tokenizer, "What COLOUR is the Circle?") == ["what", "colour", "is", "the", "circle", "?"]


def test_hyphenated_answers_are_one_token(tokenizer):
    assert words(tokenizer, "top-left, not bottom-right.") == ["top-left", ",", "not", "bottom-right", "."]


def test_numbers_are_read_digit_by_digit(tokenizer):
    assert words(tokenizer, "at 42 s") == ["at", "4", "2", "s"]


@pytest.mark.parametrize(
    "text", ["xylophone", "Größe", "日本語", "\x00", "🙂🙂", "don't", "", "   ", "a\tb\nc", "-", "top-"]
)
def test_nothing_fails(tokenizer, text):
    ids = tokenizer(text).input_ids
    assert all(0 <= i < len(tokenizer) for i in ids)


def test_an_unknown_word_is_unknown_and_the_rest_stays(tokenizer):
    assert words(tokenizer, "is the xylophone red?") == ["is", "the", "<unk>", "red", "?"]


def test_markers_keep_their_case_and_are_found_without_spaces(tokenizer):
    text = "<|im_start|>user <|vision_bos|><|VIDEO|><|VIDEO|><|vision_eos|>who?<|im_end|>"
    expected = ["<|im_start|>", "user", "<|vision_bos|>", "<|VIDEO|>", "<|VIDEO|>", "<|vision_eos|>", "who", "?"]
    assert words(tokenizer, text) == [*expected, "<|im_end|>"]


def test_the_host_finds_its_media_tokens(processor):
    for name, token in MEDIA_TOKENS.items():
        assert getattr(processor.tokenizer, name) == token
        assert getattr(processor.tokenizer, f"{name}_id") == processor.tokenizer.convert_tokens_to_ids(token)


def test_the_world_knows_no_word_that_nano_lacks(tokenizer):
    rng = np.random.default_rng(0)
    texts = list(CAPTION_REQUESTS)
    for seed in range(40):
        scene = make_scene(seed, "test")
        texts += [caption(scene), *(text for q in questions(scene, rng, n=16) for text in (q.text, q.answer))]
    unknown = {text for text in texts if tokenizer.unk_token_id in tokenizer(text).input_ids}
    assert not unknown


def test_answers_are_single_tokens(tokenizer):
    from omnisift.world import ANSWERS

    assert all(len(tokenizer(word).input_ids) == 1 for answers in ANSWERS.values() for word in answers)


def test_decoding_gives_the_words_back(tokenizer):
    text = "at 1 red circle with beep , at 3 blue cross with hum ."
    assert tokenizer.decode([*tokenizer(text).input_ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_a_few_hundred_words_without_repeats():
    tokens = word_list(vocabulary())
    assert len(tokens) == len(set(tokens))
    assert 200 < len(tokens) < 600


def test_saved_and_loaded_it_is_the_same(processor, tokenizer):
    text = "<|im_start|>user Where is the Red shape, please?<|im_end|>"
    assert processor.tokenizer(text).input_ids == tokenizer(text).input_ids
    assert processor.tokenizer.eos_token == "<|im_end|>"
    assert processor.tokenizer.padding_side == "left"
