"""The fast training path equals the host's processor and encoders."""

from itertools import groupby

import numpy as np
import pytest
import torch

from omnisift.lab.training.encoders import encode_audio, encode_frames, log_mel, patchify
from omnisift.lab.training.nano_model import core_of
from omnisift.pipeline.prompt import audio_in_video
from omnisift.world import make_scene, render_audio, render_images


@pytest.fixture(scope="module")
def clip():
    scene = make_scene(5, "train")
    return render_images(scene), render_audio(scene)


@pytest.fixture(scope="module")
def inputs(processor, clip):
    message = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "How many shapes?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    return processor(
        text=text,
        videos=[clip[0]],
        audio=[clip[1]],
        **audio_in_video(processor),
        videos_kwargs={"fps": 2.0},
        audio_kwargs={"sampling_rate": 16000},
        return_tensors="pt",
    )


def test_the_prompt_is_three_chunks_of_32_video_and_50_audio_tokens(processor, inputs):
    names = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    chunk = [("<|VIDEO|>", 32), ("<|AUDIO|>", 50)]
    before = ["<|im_start|>", "user", "<|vision_bos|>", "<|audio_bos|>"]
    after = ["<|audio_eos|>", "<|vision_eos|>", "how", "many", "shapes", "?", "<|im_end|>", "<|im_start|>", "assistant"]
    assert runs == [*((name, 1) for name in before), *chunk * 3, *((name, 1) for name in after)]


def test_the_training_layout_is_that_of_the_processor(layout, inputs, model):
    ids = inputs["input_ids"]
    assert torch.equal(ids[0, : len(layout.ids)], layout.ids)
    position, _ = core_of(model).get_rope_index(
        ids,
        video_grid_thw=inputs["video_grid_thw"],
        attention_mask=inputs["attention_mask"],
        use_audio_in_video=True,
        audio_seqlens=inputs["feature_attention_mask"].sum(-1),
        second_per_grids=torch.as_tensor(inputs["video_second_per_grid"]),
    )
    assert torch.equal(position[:, 0, : len(layout.ids)].long(), layout.position)
    assert int(position[0, 0, len(layout.ids)]) == layout.after


def test_patches_equal_the_hosts(clip, inputs):
    ours = patchify(clip[0][None]).flatten(0, 1)
    assert (ours - inputs["pixel_values_videos"]).abs().max() < 1e-5


def test_log_mel_equals_the_hosts(clip, inputs):
    ours = log_mel(torch.from_numpy(clip[1])[None])
    assert int(inputs["feature_attention_mask"].sum()) == 600
    assert (ours - inputs["input_features"][..., :600]).abs().max() < 1e-5


def test_encoders_give_the_hosts_features(model, inputs):
    with torch.no_grad():
        video = encode_frames(core_of(model).visual, inputs["pixel_values_videos"].view(6, 64, -1)).flatten(0, 1)
        host = core_of(model).get_video_features(inputs["pixel_values_videos"], inputs["video_grid_thw"]).pooler_output
        audio = encode_audio(core_of(model).audio_tower, inputs["input_features"][..., :600])[0]
        host_audio = (
            core_of(model)
            .get_audio_features(inputs["input_features"], feature_attention_mask=inputs["feature_attention_mask"])
            .last_hidden_state
        )
    host = torch.cat(list(host)) if isinstance(host, (tuple, list)) else host
    assert (video - host).abs().max() < 1e-4
    assert (audio - host_audio).abs().max() < 1e-4


def test_batches_of_clips_equal_single_clips(model):
    scenes = [make_scene(seed, "train") for seed in (1, 2)]
    images = np.stack([render_images(s) for s in scenes])
    with torch.no_grad():
        both = encode_frames(core_of(model).visual, patchify(images))
        one = encode_frames(core_of(model).visual, patchify(images[1:]))
    assert (both[6:] - one).abs().max() < 1e-5
