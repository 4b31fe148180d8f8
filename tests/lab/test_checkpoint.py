"""The bundled nano answers questions about clips it has never seen, offline, with and without compression."""

import numpy as np
import pytest
import torch

from omnisift.lab.training.evaluate import accuracies
from omnisift.lab.training.feature_cache import encode_features
from omnisift.lab.training.packed import Writer, clip_layout
from omnisift.lab.training.selections import omnisift_selection, random_selection
from omnisift.pipeline.prompt import audio_in_video
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS
from omnisift.world import caption, make_scene, render_audio, render_images, score_caption


@pytest.fixture(scope="module")
def nano():
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    return Thinker.from_pretrained(nano_path()).eval()


@pytest.fixture(scope="module")
def tools():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(nano_path())


@pytest.fixture(scope="module")
def clip_features(nano):
    return encode_features(nano, "test", 20, decoded_share=0.0, first=10_000)


@pytest.fixture(scope="module")
def ask(nano, tools, clip_features):
    layout, writer = clip_layout(nano, tools.tokenizer), Writer(tools.tokenizer)
    return lambda select=None: accuracies(nano, layout, writer, clip_features, select, clips=20)


def test_it_answers_every_type_with_all_tokens(ask):
    result = ask()
    assert result["mean"] > 0.9
    assert min(result.values()) > 0.8


def test_a_quarter_of_the_tokens_is_enough_with_the_selector_but_not_at_random(ask):
    vgas = VGAS.from_pretrained(str(nano_path() / "selector")).eval()
    chosen, drawn = ask(omnisift_selection(vgas, 0.25)), ask(random_selection(0.25))
    assert chosen["mean"] > 0.88
    assert chosen["mean"] > drawn["mean"] + 0.1


def test_it_writes_captions_through_the_hosts_own_generate(nano, tools):
    scene = make_scene(10_001, "test")
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Describe the clip."}]}]
    inputs = tools(
        text=tools.apply_chat_template(message, add_generation_prompt=True, tokenize=False),
        videos=[render_images(scene)],
        audio=[render_audio(scene)],
        **audio_in_video(tools),
        videos_kwargs={"fps": 2.0},
        audio_kwargs={"sampling_rate": 16000},
        return_tensors="pt",
    )
    with torch.no_grad():
        output = nano.generate(**inputs, use_audio_in_video=True)
    text = tools.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    score = score_caption(text, scene)
    assert score.recall > 0.5, (text, caption(scene))
    assert output[0, -1] == nano.generation_config.eos_token_id


@pytest.mark.parametrize("question", ["", "xylophone quux?", "WHERE IS THE RED SHAPE", "?" * 50, "please " * 40])
def test_odd_questions_get_some_answer(nano, tools, question):
    ids = tools.tokenizer(f"<|im_start|>user {question}<|im_end|><|im_start|>assistant", return_tensors="pt")
    with torch.no_grad():
        output = nano.generate(**ids, max_new_tokens=4)
    assert np.isfinite(output.numpy()).all()
