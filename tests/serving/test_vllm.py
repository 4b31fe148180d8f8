"""The plugin inside vLLM against Transformers with `attach`: the same weights, greedy, token by token.

``nox -s vllm`` runs this in an environment of its own (vLLM 0.32, Transformers 5.19).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serving.asking import LENGTH, Prompt, Reference, Video, long_video
from tests.serving.engines import Engine, engine, sampling

from omnisift.budget import Budget

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("_inside")]
QUARTER = Budget(retain=0.25)


@pytest.fixture(scope="module")
def vllm(model: Path, reference: Reference, _inside: None) -> Iterator[Engine]:
    """OmniSIFT at a quarter, everything in one step, with prefix cache."""
    with engine(model, reference.processor) as made:
        yield made


@pytest.fixture
def prompts(videos: list[Video]) -> list[Prompt]:
    questions = ["what shape is it ?", "what sound comes with the red shape ?", "how many shapes are there ?"]
    return [Prompt(question, videos=(video,)) for question, video in zip(questions, videos, strict=False)]


def test_compressed_tokens_are_those_of_attach(vllm: Engine, reference: Reference, prompts: list[Prompt]) -> None:
    for prompt in prompts:
        assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_a_batch_equals_single_requests(vllm: Engine, reference: Reference, prompts: list[Prompt]) -> None:
    vllm.llm.reset_prefix_cache()
    assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_prefix_cache_hits_change_nothing(vllm: Engine, reference: Reference, prompts: list[Prompt]) -> None:
    vllm.llm.reset_prefix_cache()
    cold, warm = vllm.outputs(prompts[0])[0], vllm.outputs(prompts[0])[0]
    assert cold.num_cached_tokens == 0
    assert warm.num_cached_tokens > 32
    assert list(warm.outputs[0].token_ids) == reference.tokens(prompts[0])


@pytest.mark.parametrize(
    ("request_kwargs", "budget"),
    [
        ({"retain": 1.0}, Budget(retain=1.0)),
        ({"retain": 0.6}, Budget(retain=0.6)),
        ({"tokens": 60}, Budget(tokens=60)),
        ({"retain_video": 0.2, "retain_audio": 0.5}, Budget(retain_video=0.2, retain_audio=0.5)),
    ],
)
def test_retention_of_a_request(
    vllm: Engine, reference: Reference, prompts: list[Prompt], request_kwargs: dict[str, float], budget: Budget
) -> None:
    """retain=1 is the uncompressed model."""
    outputs = vllm.outputs(*prompts, **request_kwargs)
    assert [list(output.outputs[0].token_ids) for output in outputs] == [
        reference.tokens(prompt, budget) for prompt in prompts
    ]


def test_uncompressed_is_transformers_alone(vllm: Engine, reference: Reference, prompts: list[Prompt]) -> None:
    """The reference at retain=1 goes through `attach`; here nothing is attached at all."""
    inputs = prompts[1].for_transformers(reference.processor)
    with torch.no_grad():
        plain = reference.host.thinker.generate(**inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
    length = inputs["input_ids"].shape[1]
    result = vllm.outputs(prompts[1], retain=1.0)[0]
    assert list(result.outputs[0].token_ids) == plain[0, length:].tolist()
    assert len(result.prompt_token_ids) == length


def test_two_videos_with_audio_in_one_prompt(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    prompt = Prompt(videos=(videos[0], videos[3]))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_the_same_images_with_other_audio(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """The second request takes nothing of the first from a cache."""
    vllm.llm.reset_prefix_cache()
    question = "what sound comes with the red shape ?"
    pair = [Prompt(question, videos=(video,)) for video in (videos[1], replace(videos[1], audio=videos[2].audio))]
    first, second = vllm.outputs(pair[0])[0], vllm.outputs(pair[1])[0]
    assert second.num_cached_tokens == 0
    assert list(first.outputs[0].token_ids) == reference.tokens(pair[0])
    assert list(second.outputs[0].token_ids) == reference.tokens(pair[1])
    assert list(first.outputs[0].token_ids) != list(second.outputs[0].token_ids)


def test_video_without_audio(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    prompt = Prompt(videos=(videos[2].muted,))
    result = vllm.outputs(prompt)[0]
    assert list(result.outputs[0].token_ids) == reference.tokens(prompt)
    assert list(result.outputs[0].token_ids) != reference.tokens(prompt, Budget(retain=1.0)), "compression shows"


def test_audio_without_video(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """Plain audio is never compressed."""
    assert videos[2].audio is not None
    prompt = Prompt(audios=(videos[2].audio,))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_image_and_video_with_audio(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    prompt = Prompt(images=(image_of(videos[4]),), videos=(videos[0],))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_image_muted_video_and_audio(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    assert videos[3].audio is not None
    prompt = Prompt(images=(image_of(videos[4]),), videos=(videos[0].muted,), audios=(videos[3].audio,))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


@pytest.mark.parametrize(("images", "seconds"), [(2, 1.0), (6, 3.0), (10, 4.3), (6, 6.0), (5, 2.6)])
def test_odd_frames_and_unequal_lengths(
    vllm: Engine, reference: Reference, videos: list[Video], images: int, seconds: float
) -> None:
    """One frame, odd frames, audio that ends before or after the video, an odd number of images."""
    prompt = Prompt(videos=(videos[5].first(images, seconds),))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_video_ids_beyond_those_of_the_text_after_it(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """Audio ends 0.8 s before the last frame and the question is one word: new tokens continue after the text."""
    prompt = Prompt("shape ?", videos=(videos[5].first(12, 4.2),))
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]


def test_longer_than_128_seconds(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """256 images at less than two per second: frames are more than a second apart."""
    video = long_video(videos, seconds=144)
    assert video.fps < 2
    prompt = Prompt(videos=(video,))
    result = vllm.outputs(prompt)[0]
    assert 1000 < len(result.prompt_token_ids) < 4096
    assert list(result.outputs[0].token_ids) == reference.tokens(prompt)


def test_twenty_unequal_requests_at_once(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    vllm.llm.reset_prefix_cache()
    prompts = [
        Prompt(
            "what shape is it ?" if index % 2 else "how many shapes are there ?",
            videos=(videos[index % 6].first(4 + 2 * (index % 4)), *((videos[0],) if index % 7 == 3 else ())),
        )
        for index in range(20)
    ]
    assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_a_cancelled_request_leaves_no_trace(vllm: Engine, reference: Reference, prompts: list[Prompt]) -> None:
    vllm.llm.reset_prefix_cache()
    core = vllm.llm.llm_engine
    for number, prompt in enumerate(prompts):
        core.add_request(f"cancelled-{number}", prompt.for_vllm(vllm.processor), sampling(max_tokens=500))
    for _ in range(4):
        core.step()
    core.abort_request(list(core.output_processor.request_states), internal=True)
    assert not core.has_unfinished_requests()
    assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_sampling_with_a_seed(vllm: Engine, prompts: list[Prompt]) -> None:
    """The sample depends on the seed and not on other requests."""

    def sample(seed: int, *requests: Prompt) -> list[int]:
        options = sampling(temperature=1.5, seed=seed)
        outputs = vllm.llm.generate([one.for_vllm(vllm.processor) for one in requests], options, use_tqdm=False)
        return list(outputs[0].outputs[0].token_ids)

    assert sample(1, prompts[0]) == sample(1, *prompts)
    assert sample(1, prompts[0]) != sample(2, prompts[0])


@pytest.mark.parametrize(
    ("request_kwargs", "message"),
    [
        ({"retain": 0}, "retain is the fraction kept"),
        ({"retain": 0.5, "retain_video": 0.5}, "retain was given with"),
        ({"tokens": 0}, "a whole number"),
        ({"tokens": 1.5}, "a whole number"),
        ({"size": {"shortest_edge": 1, "longest_edge": 10**9}}, "can't hold 'size'"),
    ],
)
def test_requests_that_are_refused(
    vllm: Engine, reference: Reference, prompts: list[Prompt], request_kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        vllm.outputs(prompts[0], **request_kwargs)
    assert "\n" not in str(refusal.value)
    assert vllm.tokens(prompts[0]) == [reference.tokens(prompts[0])]


@pytest.mark.parametrize("text", ["<|VIDEO|>", "<|AUDIO|> <|IMAGE|>", "<|vision_bos|><|VIDEO|><|VIDEO|><|vision_eos|>"])
def test_names_of_media_tokens_in_the_text(
    vllm: Engine, reference: Reference, prompts: list[Prompt], text: str
) -> None:
    """They would shift positions, or end the engine."""
    given = prompts[0].for_vllm(vllm.processor)
    for prompt in (given["prompt"] + text, text + given["prompt"]):
        with pytest.raises(ValueError, match="tokens that stand for media"):
            vllm.llm.generate([{**given, "prompt": prompt}], sampling(), use_tqdm=False)
    assert vllm.tokens(prompts[0]) == [reference.tokens(prompts[0])]


def test_videos_without_marks_around_them(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    given = Prompt(videos=(videos[0].muted, videos[1].muted)).for_vllm(vllm.processor)
    for prompt in ("<|VIDEO|><|VIDEO|> what ?", "<|VIDEO|> what ? <|VIDEO|>"):
        with pytest.raises(ValueError, match="must have a token before it"):
            vllm.llm.generate([{**given, "prompt": prompt}], sampling(), use_tqdm=False)
    again = Prompt(videos=(videos[0].muted, videos[1].muted))
    assert vllm.tokens(again) == [reference.tokens(again)], "no cache lacks the items of refused requests"


def test_a_request_can_leave_the_audio_out(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    with_audio = Prompt(videos=(videos[1],))
    expected = reference.tokens(Prompt(videos=(videos[1].muted,)))
    assert vllm.tokens(with_audio, use_audio_in_video=False) == [expected]
    assert expected != reference.tokens(with_audio)


def test_video_and_audio_as_separate_items(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """The form that plain vLLM and Transformers take."""
    prompt = Prompt(videos=(videos[1],))
    given = prompt.for_vllm(vllm.processor)
    given["multi_modal_data"] = {"video": videos[1].images, "audio": videos[1].audio}
    given["mm_processor_kwargs"] = {"use_audio_in_video": True, "fps": videos[1].fps}
    result = vllm.llm.generate([given], sampling(), use_tqdm=False)[0]
    assert list(result.outputs[0].token_ids) == reference.tokens(prompt)


def test_the_comparison_can_fail_positions_not_written(
    vllm: Engine, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnisift.serving.vllm.model.write_kept_positions", lambda positions, *_: positions)
    vllm.llm.reset_prefix_cache()
    wrong = vllm.tokens(*prompts)
    vllm.llm.reset_prefix_cache()
    assert all(got != reference.tokens(prompt) for got, prompt in zip(wrong, prompts, strict=True))


def test_the_comparison_can_fail_other_tokens_kept(reference: Reference, prompts: list[Prompt]) -> None:
    """The same number of tokens, chosen at random, gives other answers in the reference itself."""
    assert all(reference.tokens(one) != reference.tokens(one, method="random") for one in prompts)


def image_of(video: Video) -> Any:
    from PIL import Image

    return Image.fromarray(video.images[0])
