"""Qwen3-Omni in the plugin against Transformers with `attach`: the same random weights, greedy, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.serving.asking import LENGTH, Prompt, Reference, Video, long_video
from tests.serving.engines import Engine, engine, sampling, stop
from tests.serving.over_http import QUESTION, data_url, serving, tokens
from tests.serving.qwen3_omni import save_qwen3_omni
from tests.serving.test_vllm import image_of
from tests.serving.test_vllm_together import Spy

from omnisift.budget import Budget
from omnisift.serving.clip_layout import ClipLayout
from omnisift.serving.vllm import fractions

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.usefixtures("_inside")]
QUARTER = Budget(retain=0.25)
BUDGETS: dict[str, tuple[dict[str, Any], Budget]] = {
    "all": ({"retain": 1.0}, Budget(retain=1.0)),
    "0.6": ({"retain": 0.6}, Budget(retain=0.6)),
    "0.25": ({"retain": 0.25}, QUARTER),
    "0.05": ({"retain": 0.05}, Budget(retain=0.05)),
    "separate": ({"retain_video": 0.2, "retain_audio": 0.5}, Budget(retain_video=0.2, retain_audio=0.5)),
    "tokens": ({"tokens": 60}, Budget(tokens=60)),
    "one": ({"tokens": 1}, Budget(tokens=1)),
}

CASES: dict[str, Callable[[list[Video]], Prompt]] = {
    "clip": lambda videos: Prompt(videos=(videos[0],)),
    "another clip": lambda videos: Prompt("how many shapes are there ?", videos=(videos[1],)),
    "two clips": lambda videos: Prompt(videos=(videos[0].first(8, 4.0), videos[3].first(10, 5.0))),
    "no audio": lambda videos: Prompt(videos=(videos[2].muted,)),
    "two without audio": lambda videos: Prompt(videos=(videos[0].muted.first(6), videos[1].muted.first(4))),
    "audio alone": lambda videos: Prompt(audios=(videos[2].audio,)),  # type: ignore[arg-type]
    "image and clip": lambda videos: Prompt(images=(image_of(videos[4]),), videos=(videos[0],)),
    "clip and audio": lambda videos: Prompt(videos=(videos[0].first(8, 4.0),), audios=(videos[3].audio,)),  # type: ignore[arg-type]
    "image, clip, audio": lambda videos: Prompt(
        images=(image_of(videos[4]),),
        videos=(videos[1].first(8, 4.0),),
        audios=(videos[3].audio,),  # type: ignore[arg-type]
    ),
    "image, clip without audio, audio": lambda videos: Prompt(
        images=(image_of(videos[4]),),
        videos=(videos[0].muted,),
        audios=(videos[3].audio,),  # type: ignore[arg-type]
    ),
    "one frame": lambda videos: Prompt(videos=(videos[5].first(2, 1.0),)),
    "odd images, audio of an odd length": lambda videos: Prompt(videos=(videos[5].first(5, 2.6123),)),
    "audio ends early": lambda videos: Prompt("shape ?", videos=(videos[5].first(12, 2.2),)),
    "audio ends late": lambda videos: Prompt(videos=(videos[5].first(4, 6.0),)),
    "a tenth of a second of audio": lambda videos: Prompt(videos=(videos[5].first(6, 0.1),)),
    "fractions": lambda videos: Prompt(videos=(replace(videos[2], fps=1.77),)),
    "two clips with fractions": lambda videos: Prompt(
        videos=(replace(videos[0].first(8, 4.0), fps=1.77), replace(videos[3].first(10, 5.0), fps=1.77))
    ),
    "fractions without audio": lambda videos: Prompt(videos=(replace(videos[1].muted, fps=0.9),)),
    "many frames a second": lambda videos: Prompt(videos=(replace(videos[1], fps=29.97),)),
    "144 seconds": lambda videos: Prompt(videos=(long_video(videos, seconds=144),)),
}
LONG = {"max_model_len": 16384, "max_num_batched_tokens": 16384}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_qwen3_omni(tmp_path_factory.mktemp("models") / "qwen3-omni")


@pytest.fixture(scope="module")
def reference(model: Path) -> Reference:
    return Reference(str(model), "resift")


@pytest.fixture(scope="module")
def cases(videos: list[Video]) -> dict[str, Prompt]:
    return {name: make(videos) for name, make in CASES.items()}


@pytest.fixture(scope="module")
def vllm(model: Path, reference: Reference, _inside: None) -> Iterator[Engine]:
    """The default method, `resift`, at a quarter; everything in one step, with prefix cache."""
    with engine(model, reference.processor, **LONG) as made:
        yield made


@pytest.fixture
def prompts(cases: dict[str, Prompt]) -> list[Prompt]:
    return [cases[name] for name in ("clip", "two clips", "no audio", "fractions")]


@pytest.mark.parametrize("name", CASES)
def test_compressed_tokens_are_those_of_attach(
    vllm: Engine, reference: Reference, cases: dict[str, Prompt], name: str
) -> None:
    """The answer differs from that of all tokens, so compression shows; audio alone is never compressed."""
    prompt = cases[name]
    assert vllm.tokens(prompt) == [reference.tokens(prompt)]
    full = reference.tokens(prompt, Budget(retain=1.0))
    assert vllm.tokens(prompt, retain=1.0) == [full]
    assert (full == reference.tokens(prompt)) == (name == "audio alone")


@pytest.mark.parametrize("name", BUDGETS)
def test_retention_of_a_request(vllm: Engine, reference: Reference, prompts: list[Prompt], name: str) -> None:
    arguments, budget = BUDGETS[name]
    assert vllm.tokens(*prompts, **arguments) == [reference.tokens(prompt, budget) for prompt in prompts]


@pytest.mark.parametrize("name", ["clip", "fractions", "two clips", "image, clip, audio", "audio alone"])
def test_uncompressed_is_transformers_alone(
    vllm: Engine, reference: Reference, cases: dict[str, Prompt], name: str
) -> None:
    """The reference at retain=1 goes through `attach`; here nothing is attached at all."""
    inputs = cases[name].for_transformers(reference.processor)
    with torch.no_grad():
        plain = reference.host.thinker.generate(**inputs, max_new_tokens=LENGTH, min_new_tokens=LENGTH, do_sample=False)
    length = inputs["input_ids"].shape[1]
    result = vllm.outputs(cases[name], retain=1.0)[0]
    assert list(result.outputs[0].token_ids) == plain[0, length:].tolist()
    assert len(result.prompt_token_ids) == length


def test_a_batch_equals_single_requests(vllm: Engine, reference: Reference, cases: dict[str, Prompt]) -> None:
    vllm.llm.reset_prefix_cache()
    short = [prompt for name, prompt in cases.items() if name != "144 seconds"]
    assert vllm.tokens(*short) == [reference.tokens(prompt) for prompt in short]


def test_clips_of_a_step_are_encoded_together(
    vllm: Engine, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five clips, four of them with audio, in one call of each encoder."""
    spy = Spy(vllm, monkeypatch)
    spy.forget()
    assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]
    assert [len(sizes) for sizes in spy.videos] == [5]
    assert spy.audio_calls == 1


def test_prefix_cache_hits_change_nothing(vllm: Engine, reference: Reference, cases: dict[str, Prompt]) -> None:
    for name in ("clip", "fractions"):
        vllm.llm.reset_prefix_cache()
        cold, warm = (vllm.outputs(cases[name], retain=0.6)[0] for _ in range(2))
        assert cold.num_cached_tokens == 0
        assert warm.num_cached_tokens > 32
        assert list(warm.outputs[0].token_ids) == reference.tokens(cases[name], Budget(retain=0.6))


def test_the_same_images_with_other_audio(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """The second request takes nothing of the first from a cache."""
    vllm.llm.reset_prefix_cache()
    pair = [Prompt(videos=(video,)) for video in (videos[1], replace(videos[1], audio=videos[2].audio))]
    first, second = vllm.outputs(pair[0])[0], vllm.outputs(pair[1])[0]
    assert second.num_cached_tokens == 0
    assert list(first.outputs[0].token_ids) == reference.tokens(pair[0])
    assert list(second.outputs[0].token_ids) == reference.tokens(pair[1])
    assert list(first.outputs[0].token_ids) != list(second.outputs[0].token_ids)


def test_a_clip_without_an_end_is_refused(vllm: Engine, reference: Reference, videos: list[Video]) -> None:
    """Twenty hours: its rotary ids would run into the space of the fractions."""
    video = replace(videos[0].muted, fps=1e-4)
    with pytest.raises(ValueError, match="last longer than the 524288 rotary ids"):
        vllm.tokens(Prompt(videos=(video,)))
    again = Prompt(videos=(videos[0],))
    assert vllm.tokens(again) == [reference.tokens(again)]


# --- The comparison can fail --------------------------------------------------------------------------------------


def wrong(vllm: Engine, prompts: list[Prompt]) -> list[list[int]]:
    """Answers with something broken, which leave no trace in the caches."""
    vllm.llm.llm_engine.reset_mm_cache()
    vllm.llm.llm_engine.engine_core.reset_encoder_cache()
    vllm.llm.reset_prefix_cache()
    return vllm.tokens(*prompts)


@pytest.fixture
def _clean(vllm: Engine) -> Iterator[None]:
    yield
    vllm.llm.llm_engine.engine_core.reset_encoder_cache()
    vllm.llm.reset_prefix_cache()


@pytest.mark.usefixtures("_clean")
def test_positions_not_written(
    vllm: Engine, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnisift.serving.vllm.model.write_kept_positions", lambda positions, *_: positions)
    assert all(got != reference.tokens(prompt) for got, prompt in zip(wrong(vllm, prompts), prompts, strict=True))


@pytest.mark.usefixtures("_clean")
def test_fractions_cut_off(
    vllm: Engine, reference: Reference, cases: dict[str, Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in vLLM's own model. Whole ids are not affected."""
    monkeypatch.setattr(
        "omnisift.serving.vllm.model.pack", lambda ids, parts: fractions.pack(ids // parts * parts, parts)
    )
    assert wrong(vllm, [cases["clip"]]) == [reference.tokens(cases["clip"])]
    for name in ("fractions", "two clips with fractions"):
        assert wrong(vllm, [cases[name]]) != [reference.tokens(cases[name])]


@pytest.mark.usefixtures("_clean")
def test_features_of_other_tokens(
    vllm: Engine, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The features for the first layers of the language model must be those of the kept tokens."""
    compress = vllm.llm.apply_model(lambda model: model.clip_compressor)[0]
    original, width = type(compress).__call__, 32

    def mixed(self: Any, video: torch.Tensor, audio: Any, layout: ClipLayout, budget: Budget) -> torch.Tensor:
        return original(self, torch.cat([video[:, :width], video[:, width:].roll(1, 0)], 1), audio, layout, budget)

    monkeypatch.setattr(type(compress), "__call__", mixed)
    assert all(got != reference.tokens(prompt) for got, prompt in zip(wrong(vllm, prompts), prompts, strict=True))


def test_other_tokens_kept(reference: Reference, prompts: list[Prompt]) -> None:
    """The same number of tokens, chosen at random, gives other answers in the reference itself."""
    assert all(reference.tokens(one) != reference.tokens(one, method="random") for one in prompts)


# --- Other engines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("caching", [False, True])
def test_prompts_read_in_chunks(model: Path, reference: Reference, prompts: list[Prompt], caching: bool) -> None:
    """With 32 tokens per step each clip is read in several parts, from several requests at once."""
    options = {"max_num_batched_tokens": 32, "max_num_seqs": 4, "enable_prefix_caching": caching}
    with engine(model, reference.processor, {"retain": 0.5}, **options) as vllm:
        expected = [reference.tokens(prompt, Budget(retain=0.5)) for prompt in prompts]
        assert vllm.tokens(*prompts) == expected
        again = vllm.outputs(*prompts)
        assert [list(output.outputs[0].token_ids) for output in again] == expected
        assert any(output.num_cached_tokens for output in again) == caching


@pytest.mark.parametrize("method", ["stvp", "random", "dycoke", "v_cast", "stvp+random", "none"])
def test_methods_without_a_selector(model: Path, reference: Reference, prompts: list[Prompt], method: str) -> None:
    with engine(model, reference.processor, {"compressor": method, "retain": 0.6}) as vllm:
        result = vllm.tokens(*prompts)
    budget = Budget(retain=1.0 if method == "none" else 0.6)
    expected = [reference.tokens(prompt, budget, "resift" if method == "none" else method) for prompt in prompts]
    if "random" in method:  # it samples by the clip's index in its prompt, which is 0 for every clip in the engine
        del result[1], expected[1]
    assert result == expected


def test_an_engine_in_a_separate_process(
    model: Path, reference: Reference, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    with engine(model, reference.processor) as vllm:
        assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_compiled(model: Path, reference: Reference, prompts: list[Prompt]) -> None:
    """With torch.compile, in chunks."""
    with engine(model, reference.processor, enforce_eager=False, max_num_batched_tokens=96, max_num_seqs=4) as vllm:
        assert vllm.tokens(*prompts) == [reference.tokens(prompt) for prompt in prompts]


def test_preempted_requests(model: Path, reference: Reference, prompts: list[Prompt]) -> None:
    """Twelve requests in a small cache: some are preempted and read again."""
    many = [prompts[index % 4] for index in range(12)]
    options = {"num_gpu_blocks_override": 48, "enable_prefix_caching": False, "max_model_len": 1024}
    with engine(model, reference.processor, {"retain": 0.1}, disable_log_stats=False, **options) as vllm:
        given = [prompt.for_vllm(vllm.processor) for prompt in many]
        result = vllm.llm.generate(given, sampling(max_tokens=200, min_tokens=200), use_tqdm=False)
        preempted = {metric.name: metric for metric in vllm.llm.get_metrics()}["vllm:num_preemptions"].value
    assert preempted > 0
    budget = Budget(retain=0.1)
    assert [list(output.outputs[0].token_ids)[:LENGTH] for output in result] == [
        reference.tokens(prompt, budget) for prompt in many
    ]


def test_served_over_http(
    model: Path, reference: Reference, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """Clients name no family: a video with sound, at the default and at a budget of the request."""
    video = Video.of_world(tmp_path, 1)
    with serving([], [], tmp_path / "log.txt", str(model)) as server:
        for more, budget in (({}, QUARTER), ({"mm_processor_kwargs": {"retain": 0.6}}, Budget(retain=0.6))):
            status, body = server.ask(data_url(tmp_path / "1.mp4"), **more)
            assert status == 200, body
            prompt = Prompt(QUESTION, videos=(video,))
            assert tokens(body) == reference.tokens(prompt, budget)


def test_run_with_vllm(model: Path, reference: Reference, tmp_path: Path) -> None:
    """The engine of `omnisift run --engine vllm`: the answer, and the numbers of tokens before and after."""
    from omnisift.pipeline.prompt import read_for
    from omnisift.serving.offline import OfflineEngine
    from omnisift.serving.vllm.settings import Settings

    Video.of_world(tmp_path, 1)
    media = read_for(reference.processor, tmp_path / "1.mp4")
    flags = ("--enforce-eager", "--block-size", "32", "--max-model-len", "4096")
    made = OfflineEngine(str(model), Settings(retain=0.5), dtype="float32", vllm_args=flags)
    try:
        answer = made.ask([(media, ["what shape is it ?"])], LENGTH)[0]
    finally:
        stop(made.llm)
    assert not isinstance(answer, Exception), answer
    count = answer[0].tokens
    assert 0 < count.video_kept < count.video
    assert 0 < count.audio_kept < count.audio
    layout = ClipLayout.of_patches(reference.host.thinker.config, *dimensions(reference, media))
    assert count.video + count.audio == len(layout)
    assert count.video_kept + count.audio_kept == len(layout.kept_labels(Budget(retain=0.5)))


def dimensions(reference: Reference, media: Any) -> tuple[list[int], float, int]:
    """Patches of the grid, seconds of a frame, and mel frames, from the host's processor."""
    video = Video(media.images, media.fps, media.waveform)
    inputs = Prompt(videos=(video,)).for_transformers(reference.processor)
    return inputs["video_grid_thw"][0].tolist(), 2 / media.fps, int(inputs["feature_attention_mask"].sum())
