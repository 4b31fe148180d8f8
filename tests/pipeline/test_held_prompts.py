"""Later questions about an encoded clip read their own tokens alone, and are answered as if they read all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from tests.helpers.family_folders import FACTORS, save_family
from tests.pipeline.test_ask import write_audio, write_silent_video

import omnisift
from omnisift import Pipeline
from omnisift.compressors import COMPRESSORS
from omnisift.compressors.registry import reads_clip_only
from omnisift.errors import UsageError
from omnisift.models import adapter_for
from omnisift.pipeline.held_prompt import settings_key
from omnisift.world import make_scene, write_clip

QUESTIONS = [
    "What colour is the circle?",
    "Which sound?",
    "What happens in the clip at the end of it, and what is heard?",
]
METHODS = [None, "v_cast", "tome", "evs"]
STATES = ["qwen3_5", "qwen3_5_moe"]
TOLERANCE = 1e-4
"""Of logits, whose own size is about 5 to 20: sums of other lengths are added in another order."""


@pytest.fixture(scope="module")
def pipe_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """A pipeline of each family without a compressor, made when it is asked for; nano is Qwen2.5-Omni."""
    root, made = tmp_path_factory.mktemp("families"), dict[str, Pipeline]()

    def pipe(name: str) -> Pipeline:
        if name not in made:
            model = "nano" if name == "nano" else save_family(name, root / name)
            made[name] = omnisift.load(model, compressor=None)
        return made[name]

    return pipe


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("clips")
    for seed in (3, 4):
        write_clip(make_scene(seed, split="test"), folder / f"{seed}.mp4")
    return [folder / "3.mp4", folder / "4.mp4"]


def size_of(name: str) -> dict[str, int]:
    return {"max_pixels": 16 * FACTORS.get(name, 28) ** 2}


@contextmanager
def watched(pipe: Pipeline) -> Iterator[tuple[list[torch.Tensor], list[int]]]:
    """The logits of every step, and the tokens that the language model is given."""
    logits, lengths = [], []
    language_model = adapter_for(pipe.host.thinker).parts.language_model
    hooks = [
        pipe.host.thinker.register_forward_hook(lambda _m, _a, output: logits.append(output.logits[:, -1].clone())),
        language_model.register_forward_hook(lambda _m, _a, output: lengths.append(output.last_hidden_state.shape[1])),
    ]
    yield logits, lengths
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_later_questions_equal_those_without_held_prompts(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], name: str, method: str | None
) -> None:
    pipe = pipe_of(name).with_compressor(method)
    plain = pipe.encode(clips[0], **size_of(name), hold_bytes=0)
    holding = pipe.encode(clips[0], **size_of(name))
    for number, question in enumerate([*QUESTIONS, QUESTIONS[0]]):
        with watched(pipe) as (expected, lengths):
            wanted = pipe.ask(plain, question, max_new_tokens=4)
        with watched(pipe) as (logits, own):
            answer = pipe.ask(holding, question, max_new_tokens=4)
        assert answer.text == wanted.text
        assert answer.report.tokens == wanted.report.tokens
        assert answer.report.notices == wanted.report.notices
        assert max(float((a - b).abs().max()) for a, b in zip(logits, expected, strict=True)) < TOLERANCE
        assert wanted.report.cached_tokens == 0
        cached = answer.report.cached_tokens
        assert (cached > 0) == (number > 0)
        assert answer.report.tokens.prompt_kept == lengths[0]
        if number:
            assert own[0] == lengths[0] - cached < 70
            assert answer.report.seconds.encode == 0


@pytest.mark.parametrize("method", [None, "v_cast"])
@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_rows_of_a_batch_equal_single_questions(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], name: str, method: str | None
) -> None:
    """Clips of unequal lengths, in one call where the layers have keys alone."""
    pipe = pipe_of(name).with_compressor(method)
    short = pipe.read(clips[1], **size_of(name), max_frames=6)
    sources = [pipe.read(clips[0], **size_of(name)), short]
    order = [(0, 0), (1, 1), (0, 2), (1, 0), (0, 1)]
    expected = [pipe.ask(sources[clip], QUESTIONS[text], max_new_tokens=5) for clip, text in order]
    encoded = [pipe.encode(source) for source in sources]
    answers = pipe.ask_batch([(encoded[clip], QUESTIONS[text]) for clip, text in order], max_new_tokens=5)
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert [answer.report.tokens for answer in answers] == [answer.report.tokens for answer in expected]
    held = [answer.report.cached_tokens > 0 for answer in answers]
    assert held == ([False] * 5 if name in STATES else [False, False, True, True, True])


def test_logits_of_a_batch_equal_those_of_single_questions(
    pipe_of: Callable[[str], Pipeline], clips: list[Path]
) -> None:
    pipe = pipe_of("nano").with_compressor("v_cast")
    encoded = [pipe.encode(clips[0]), pipe.encode(pipe.read(clips[1], max_frames=6))]
    prompts = [(encoded[clip], QUESTIONS[text]) for clip, text in ((0, 0), (1, 1), (0, 2))]
    for clip, _ in prompts[:2]:
        pipe.ask(clip, "Is a beep heard?", max_new_tokens=1)
    with watched(pipe) as (together, lengths):
        answers = pipe.ask_batch(prompts, max_new_tokens=6)
    for row, (clip, question) in enumerate(prompts):
        clip.held.clear()
        with watched(pipe) as (alone, _):
            pipe.ask(clip, question, max_new_tokens=6)
        for step, logits in enumerate(alone[: answers[row].report.tokens.generated]):
            assert torch.allclose(together[step][row], logits[0], atol=TOLERANCE, rtol=0)
    assert lengths[0] < 70


def test_windows_of_attention_are_copied(clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers with a window shorter than the prompt can't be cropped."""
    pipe = omnisift.load("nano", compressor="v_cast")
    text = adapter_for(pipe.host.thinker).parts.language_model
    kinds = ["sliding_attention" if index % 2 else "full_attention" for index in range(len(text.layers))]
    monkeypatch.setattr(text.config, "layer_types", kinds)
    monkeypatch.setattr(text.config, "sliding_window", 24)
    monkeypatch.setattr(text, "has_sliding_layers", True)
    for layer, kind in zip(text.layers, kinds, strict=True):
        layer.self_attn.sliding_window = 24 if kind == "sliding_attention" else None
    encoded, plain = pipe.encode(clips[0]), pipe.encode(clips[0], hold_bytes=0)
    for number, question in enumerate(QUESTIONS):
        with watched(pipe) as (expected, _):
            pipe.ask(plain, question, max_new_tokens=6)
        with watched(pipe) as (logits, own):
            answer = pipe.ask(encoded, question, max_new_tokens=6)
        assert (answer.report.cached_tokens > 24) == (number > 0)
        assert own[0] < 70
        assert max(float((a - b).abs().max()) for a, b in zip(logits, expected, strict=True)) < TOLERANCE


@pytest.mark.parametrize("compress_audio", [False, True])
@pytest.mark.parametrize("kind", ["silent", "sound"])
def test_clips_of_one_modality(tmp_path: Path, kind: str, compress_audio: bool) -> None:
    path = write_silent_video(tmp_path / "a.mp4") if kind == "silent" else write_audio(tmp_path / "a.wav")
    pipe = omnisift.load("nano", compressor="resift", retain=0.4, compress_audio=compress_audio)
    plain, encoded = pipe.encode(path, hold_bytes=0), pipe.encode(path)
    for number, question in enumerate(QUESTIONS):
        with watched(pipe) as (expected, _):
            wanted = pipe.ask(plain, question, max_new_tokens=4)
        with watched(pipe) as (logits, own):
            answer = pipe.ask(encoded, question, max_new_tokens=4)
        assert (answer.text, answer.report.tokens) == (wanted.text, wanted.report.tokens)
        assert max(float((a - b).abs().max()) for a, b in zip(logits, expected, strict=True)) < TOLERANCE
        assert (answer.report.cached_tokens > 0) == (number > 0) == (own[0] < answer.report.tokens.prompt_kept)


def test_a_template_that_puts_the_question_first_shares_nothing(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("qwen2_5_vl").with_compressor("v_cast")
    template = (
        "{% for turn in messages %}{% for part in turn['content'] %}{% if 'text' in part %}"
        "{{ part['text'] }}{% endif %}{% endfor %}<|vision_start|><|video_pad|><|vision_end|>{% endfor %}"
        "<|im_start|>assistant"
    )
    monkeypatch.setattr(pipe.host.processor, "chat_template", template)
    media = pipe.read(clips[0], **size_of("qwen2_5_vl"))
    encoded = pipe.encode(media)
    for question in QUESTIONS:
        answer = pipe.ask(encoded, question, max_new_tokens=4)
        assert answer.report.cached_tokens == 0
        assert answer.text == pipe.ask(media, question, max_new_tokens=4).text
    assert pipe.ask(encoded, QUESTIONS[0], max_new_tokens=4).report.cached_tokens > 0, "the same question again"


def held(pipe: Pipeline, clip: omnisift.EncodedClip) -> bool:
    return pipe.ask(clip, QUESTIONS[1], max_new_tokens=1).report.cached_tokens > 0


@pytest.fixture
def pipe() -> Pipeline:
    return omnisift.load("nano", compressor="omnisift", retain=0.25)


def test_other_settings_and_weights_read_the_prompt_again(pipe: Pipeline, clips: list[Path]) -> None:
    encoded = pipe.encode(clips[0])
    assert not held(pipe, encoded)
    assert held(pipe, encoded)
    others = [pipe.with_compressor("omnisift", retain=0.5), pipe.with_compressor("v_cast"), pipe.with_compressor(None)]
    others += [
        pipe.with_compressor(f"random:scope={scope}", seed=seed) for scope in ("frame", "clip") for seed in (0, 1)
    ]
    assert [held(other, encoded) for other in others] == [False] * len(others)
    assert [held(other, encoded) for other in others] == [True] * len(others)
    # Another system prompt stands before the clip.
    assert pipe.ask(encoded, "Why?", system="Be brief.", max_new_tokens=1).report.cached_tokens == 0
    assert pipe.ask(encoded, "Who?", system="Be brief.", max_new_tokens=1).report.cached_tokens > 0
    # Changes of the same objects.
    assert pipe.compressor is not None
    budget, pipe.compressor.budget = pipe.compressor.budget, omnisift.Budget(0.5)
    assert not held(pipe, encoded)
    pipe.compressor.budget = budget
    assert held(pipe, encoded)
    selector = next(pipe.compressor.parameters())
    with torch.no_grad():
        selector.mul_(1.0)
    assert not held(pipe, encoded)
    assert held(pipe, encoded)


def test_new_weights_in_the_place_of_freed_ones_have_another_key(pipe: Pipeline) -> None:
    method, keys = type("Promised", (Asked,), {"clip_only": True})(0.25).eval(), set()
    for number in range(20):
        method.weight = None
        method.weight = torch.nn.Parameter(torch.full((64,), float(number)))
        keys.add(settings_key(pipe.host, method))
    assert len(keys) == 20


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_of_training_drops_what_was_held(pipe: Pipeline, clips: list[Path], optimizer: type) -> None:
    encoded, thinker = pipe.encode(clips[0]), pipe.host.thinker
    held(pipe, encoded)
    weight = thinker.lm_head.weight
    weight.grad = torch.ones_like(weight)
    optimizer([weight], lr=1e-3).step()
    assert not held(pipe, encoded)
    assert len(encoded.held) == 1
    thinker.load_state_dict(thinker.state_dict())
    assert not held(pipe, encoded)
    thinker.train()
    assert not held(pipe, encoded)
    thinker.eval()
    assert held(pipe, encoded)
    with omnisift.attach(thinker, "v_cast", retain=0.5):
        pass  # attached and detached by somebody else
    assert held(pipe, encoded)


class Asked(omnisift.ScoredCompressor):
    """Keeps the tokens that are most like the last token of the prompt."""

    name = "asked"

    def score(self, stream: omnisift.TokenStream) -> torch.Tensor:
        return stream.embeds @ stream.embeds[stream.chunk < 0].mean(dim=0)


def test_a_method_that_may_read_the_question_decides_for_each(pipe: Pipeline, clips: list[Path]) -> None:
    reading = Pipeline(pipe.host, Asked(0.25))
    encoded = pipe.encode(clips[0])
    assert [held(reading, encoded) for _ in range(2)] == [False, False]
    promised = Pipeline(pipe.host, type("Promised", (Asked,), {"clip_only": True})(0.25))
    assert [held(promised, encoded) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_methods_of_the_library_read_the_clip_alone(pipe: Pipeline, clips: list[Path], name: str) -> None:
    """Two questions, and two makings of a method, give one decision, so that the page holds prompts as well."""
    options = ":rebounded=true" if name == "omnizip" else ""
    made = [pipe.with_compressor(f"{name}{options}", retain=0.5).compressor for _ in range(2)]
    encoded, decisions = pipe.encode(clips[0], hold_bytes=0), []
    for compressor, question in zip(made, QUESTIONS[1:], strict=True):
        assert compressor is not None
        hook = compressor.register_forward_hook(lambda _m, args, output: decisions.append((args[0], output)))
        Pipeline(pipe.host, compressor).ask(encoded, question, max_new_tokens=1)
        hook.remove()
    kept = [selection.keep[stream.clip >= 0] for stream, selection in decisions]
    assert torch.equal(*kept)
    assert reads_clip_only(made[0])
    keys = [settings_key(pipe.host, compressor) for compressor in made]
    assert (keys[0] == keys[1]) == (not list(made[0].parameters()))


def test_bytes_are_bounded_and_freed(pipe: Pipeline, clips: list[Path]) -> None:
    encoded = pipe.encode(clips[0])
    pipe.ask(encoded, QUESTIONS[0], max_new_tokens=1)
    size = encoded.held.nbytes
    layers = adapter_for(pipe.host.thinker).parts.language_model.config
    length = pipe.ask(encoded, QUESTIONS[1], max_new_tokens=1).report.cached_tokens
    heads = layers.num_key_value_heads * layers.hidden_size // layers.num_attention_heads
    assert size == 4 * 2 * layers.num_hidden_layers * length * heads
    # Two fit; the one used longest ago is dropped. All tokens don't fit.
    small = pipe.encode(clips[0], hold_bytes=2 * size + 100)
    pipes = [pipe, pipe.with_compressor("v_cast"), pipe.with_compressor("uniform")]
    for one in pipes:
        assert not held(one, small)
    assert small.held.nbytes <= 2 * size + 100
    assert held(pipes[2], small)
    assert held(pipes[1], small)
    assert not held(pipes[0], small)
    assert not held(pipe.with_compressor(None), small)
    assert not held(pipe.with_compressor(None), small)
    views = [ref(layer.keys) for prompt in encoded.held._prompts.values() for layer in prompt.cache.layers]
    encoded.held.clear()
    gc.collect()
    assert not any(view() is not None for view in views)
    for wrong in (-1, 1.5, True, "1"):
        with pytest.raises(UsageError, match="hold_bytes"):
            pipe.encode(clips[0], hold_bytes=wrong)


def test_without_memory_the_question_is_answered_without_what_is_held(
    pipe: Pipeline, clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, thinker = pipe.encode(clips[0]), pipe.host.thinker
    expected = pipe.ask(encoded, QUESTIONS[1]).text
    generate, failures = thinker.generate, [1]

    def fail(**arguments: Any) -> Any:
        if failures.pop():
            raise torch.OutOfMemoryError("no memory")
        return generate(**arguments)

    failures[:] = [0, 1]
    monkeypatch.setattr(thinker, "generate", fail)
    answer = pipe.ask(encoded, QUESTIONS[1])
    assert (answer.text, answer.report.cached_tokens) == (expected, 0)
    failures[:] = [1, 1]
    with pytest.raises(torch.OutOfMemoryError):
        pipe.ask(encoded, QUESTIONS[1])
    assert len(encoded.held) == 0


def test_other_caches_are_not_held(pipe: Pipeline, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, generation = pipe.encode(clips[0]), pipe.host.thinker.generation_config
    expected = pipe.ask(encoded, QUESTIONS[1]).text
    for name, value in (("use_cache", False), ("cache_implementation", "static")):
        monkeypatch.setattr(generation, name, value)
        answer = pipe.ask(encoded, QUESTIONS[1])
        assert (answer.text, answer.report.cached_tokens) == (expected, 0)
        monkeypatch.undo()
    assert held(pipe, encoded)
