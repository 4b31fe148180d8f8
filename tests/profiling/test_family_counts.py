"""Operations, prompts and caches of every family: by formula, by torch's counter and by the family's own processor."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers.families import FAMILIES, Family
from tests.helpers.family_folders import FACTORS, save_family
from transformers import AutoProcessor, DynamicCache
from typer.testing import CliRunner

import omnisift
from omnisift.budget import Budget
from omnisift.cli.app import app
from omnisift.media import Media
from omnisift.media.image import smart_size
from omnisift.media.sampling import by_time
from omnisift.models import adapter_class, adapter_for, model_class
from omnisift.pipeline import load
from omnisift.profiling import flops
from omnisift.profiling.analytic import cache_bytes, count, weight_bytes
from omnisift.profiling.gauges import FlopGauge, torch_counter
from omnisift.profiling.shape import PromptShape, prompt_shape
from omnisift.profiling.sizes import NAMES, host_config

QWEN_WORDS = re.compile(r"[^\r\n\w]?[^\W\d_]+|\d| ?[^\s\w]+")
"""How Qwen's tokenizer splits such a text, of whose parts each is one token: words with the space before them, single
digits, and punctuation."""
EVERY = pytest.mark.parametrize("family", FAMILIES.values(), ids=str)


@pytest.fixture(scope="module")
def host_of() -> Callable[[Family], Any]:
    """The tiny host of a family, made once."""
    hosts: dict[str, Any] = {}
    return lambda family: hosts.setdefault(family.model_type, family.model())


def read(model: Any, new: int, cached: int = 0, *, keep: bool = False) -> int:
    """What torch counts when the language model reads ``new`` tokens behind ``cached`` ones."""
    parts, text = adapter_for(model).parts, model.config.get_text_config()
    language_model: Any = parts.language_model
    cache = DynamicCache(config=text) if cached or keep else None

    def step(tokens: int, start: int) -> Any:
        embeds = torch.zeros(1, tokens, text.hidden_size)
        positions = torch.arange(start, start + tokens).expand(3, 1, tokens)
        options = {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
        return language_model(inputs_embeds=embeds, position_ids=positions, **options).last_hidden_state

    with torch.inference_mode():
        if cached:
            step(cached, 0)
        with torch_counter() as counter:
            parts.head.lm_head(step(new, cached))
    return counter.get_total_flops()


def padding(text: Any, places: int) -> int:
    """What torch counts for the convolution of the two layers with a state on so many places that are no new token:
    3 places of padding, behind earlier tokens 4 of these as well, and 1 in a step of one token."""
    channels = 2 * text.linear_num_key_heads * text.linear_key_head_dim
    channels += text.linear_num_value_heads * text.linear_value_head_dim
    return 2 * 2 * text.linear_conv_kernel_dim * channels * places


@EVERY
@pytest.mark.parametrize(("new", "cached"), [(1, 0), (37, 0), (64, 0), (130, 0), (1, 40), (5, 40)])
def test_the_language_model(host_of: Callable[[Family], Any], family: Family, new: int, cached: int) -> None:
    model = host_of(family)
    text = model.config.get_text_config()
    extra = 0
    if family.stateful:
        extra = padding(text, (1 if new == 1 else 7) if cached else 3)
    assert read(model, new, cached) == flops.language_model(text, new, cached).total + extra


@EVERY
@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 2, 3), (2, 5, 9)])
def test_the_vision_encoder(host_of: Callable[[Family], Any], family: Family, grid: tuple[int, int, int]) -> None:
    model = host_of(family)
    encoder: Any = adapter_for(model).parts.vision_encoder
    config = model.config.vision_config
    frames, height, width = grid
    pixels = torch.zeros(frames * 4 * height * width, 3 * 2 * config.patch_size**2)
    with torch.inference_mode(), torch_counter() as counter:
        encoder(pixels, grid_thw=torch.tensor([[frames, 2 * height, 2 * width]]))
    assert flops.vision_encoder(config, *grid).total == counter.get_total_flops()


@pytest.mark.parametrize("mel", [1, 4, 99, 100, 101, 108, 200, 437, 800, 900, 1250])
def test_the_audio_encoder_of_qwen3_omni(host_of: Callable[[Family], Any], mel: int) -> None:
    model = host_of(FAMILIES["qwen3_omni_moe_thinker"])
    adapter, config = adapter_for(model), model.config.audio_config
    encoder: Any = adapter.parts.audio_encoder
    with torch.inference_mode(), torch_counter() as counter:
        output = encoder(torch.zeros(config.num_mel_bins, mel), feature_lens=torch.tensor([mel]))
    assert flops.audio_encoder(config, mel).total == counter.get_total_flops()
    assert adapter.audio_tokens(mel) == len(output.last_hidden_state)


def test_dense_layers_among_experts() -> None:
    family = FAMILIES["qwen3_vl_moe"]
    config = family.config()
    config.text_config.mlp_only_layers, config.text_config.decoder_sparse_step = [1], 2
    model = model_class(family.model_type)(config).eval()
    assert flops.language_model(config.text_config, 19).total == read(model, 19)


@EVERY
def test_bytes_are_those_of_the_real_tensors(host_of: Callable[[Family], Any], family: Family) -> None:
    model = host_of(family)
    text = model.config.get_text_config()
    cache = DynamicCache(config=text)
    with torch.inference_mode():
        output = model(input_ids=torch.randint(20, 50, (1, 17)), past_key_values=cache, use_cache=True)
    stored = 0
    for layer in (output.get("past_key_values") or output.get("cache")).layers:
        tensors = [getattr(layer, name, None) for name in ("keys", "values")]
        for states in ("conv_states", "recurrent_states"):
            tensors += list(getattr(layer, states, {}).values())
        stored += sum(tensor.numel() * 4 for tensor in tensors if tensor is not None)
    assert cache_bytes(text, 17, 4) == stored
    assert weight_bytes(model.config) == 2 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2-vl-2b", 2.21), ("qwen2-vl-7b", 8.29), ("qwen2.5-vl-3b", 3.75), ("qwen2.5-vl-7b", 8.29),
        ("qwen3-vl-2b", 2.13), ("qwen3-vl-4b", 4.44), ("qwen3-vl-8b", 8.77), ("qwen3-vl-30b-a3b", 31.07),
        ("qwen3-vl-32b", 33.36), ("qwen3-omni-30b-a3b", 31.72), ("qwen3.5-0.8b", 0.85), ("qwen3.5-2b", 2.21),
        ("qwen3.5-4b", 4.54), ("qwen3.5-9b", 9.41), ("qwen3.5-27b", 27.36), ("qwen3.5-35b-a3b", 35.11),
    ],
)  # fmt: skip
def test_the_size_of_released_models(name: str, billions: float) -> None:
    """Without the layer of Qwen3.5 that predicts two tokens at once, which Transformers does not load."""
    assert weight_bytes(host_config(name)) / 2e9 == pytest.approx(billions, abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_counted(name: str) -> None:
    config = host_config(name)
    counts = count(config, prompt_shape(20, config=config), [Budget(0.25)])
    assert counts[1].total.total < counts[0].total.total
    assert counts[1].prompt < counts[0].prompt / 2
    assert (counts[0].audio > 0) == ("omni" in name or name in ("7b", "3b"))


def test_a_long_prompt_of_a_released_model_on_the_meta_device() -> None:
    """Every shape of the real language model of Qwen3-VL-4B, without a byte of it."""
    config = host_config("qwen3-vl-4b")
    with torch.device("meta"):
        model = model_class(config.model_type)._from_config(config, attn_implementation="sdpa")
        text = model.config.text_config
        with torch_counter() as counter:
            output = model.model.language_model(
                inputs_embeds=torch.zeros(1, 2000, text.hidden_size), position_ids=torch.zeros(3, 1, 2000).long()
            )
            model.lm_head(output.last_hidden_state)
    assert counter.get_total_flops() == flops.language_model(text, 2000).total


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save_family(name, root / name)


def media(name: str, seconds: float, fps: float) -> Media:
    """A clip of so many seconds, as the reader returns it for a family."""
    plan = by_time(seconds, fps, 256)
    times = np.array(plan.moments)
    side = FACTORS[name]
    return Media(
        path=Path("clip"), images=np.zeros((len(times), 3 * side, 4 * side, 3), np.uint8), times=times,
        indices=np.arange(len(times)), fps=plan.fps, waveform=np.zeros(int(16000 * seconds), np.float32),
        seconds=seconds, video_seconds=seconds, capped=False, bad_packets=0, warnings=(),
    )  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize(("seconds", "fps"), [(6.0, 2.0), (13.0, 1.5), (112.0, 0.5)])
def test_the_shape_is_what_the_processor_makes(
    folder_of: Callable[[str], Path], name: str, seconds: float, fps: float
) -> None:
    processor = AutoProcessor.from_pretrained(folder_of(name))
    config = host_config(str(folder_of(name)))
    inputs: Any = omnisift.inputs(processor, media(name, seconds, fps), "What happens?")
    ids, side = inputs["input_ids"][0], FACTORS[name]
    shape = prompt_shape(seconds, 3 * side, 4 * side, config=config, fps=fps, max_pixels=12 * side**2, min_pixels=1)
    assert shape.grid == tuple((inputs["video_grid_thw"][0] // torch.tensor([1, 2, 2])).tolist())
    assert shape.video == int((ids == config.video_token_id).sum())
    assert shape.audio == (int((ids == config.audio_token_id).sum()) if "omni" in name else 0)
    if not adapter_class(config.model_type).times_in_words:
        assert shape.times == 0
        return
    times = processor._calculate_timestamps(list(range(2 * shape.frames)), 2 / shape.seconds_per_frame)
    words = [part for time in times for part in QWEN_WORDS.findall(f"<{time:.1f} seconds>")]
    assert shape.times == len(words) + 2 * len(times)


def test_a_long_clip_of_qwen3_vl_is_limited_as_a_whole() -> None:
    """As the reader limits it by the size in the processor's settings; a size that is given is kept."""
    config = host_config("qwen3-vl-8b")
    assert prompt_shape(20, config=config).grid == (20, 13, 23)
    for seconds, images in ((60, 120), (240, 256), (3000, 256)):
        shape = prompt_shape(seconds, config=config)
        rows, columns = smart_size(1080, 1920, factor=32, min_pixels=1024, max_pixels=25_165_824 // images)
        assert shape.grid == (images // 2, rows // 32, columns // 32)
        assert 2 * shape.video <= 24_576 < 2.4 * shape.video
    assert prompt_shape(240, config=config, max_pixels=320 * 1024).grid == (128, 13, 23)
    assert prompt_shape(240, config=host_config("qwen2.5-vl-7b")).grid == (128, 13, 23)


@pytest.mark.parametrize("name", FACTORS)
def test_kept_counts_are_those_of_the_pipeline(folder_of: Callable[[str], Path], clip: Path, name: str) -> None:
    pipe = load(str(folder_of(name)), compressor="v_cast", retain=0.25, device="cpu")
    report = pipe.ask(clip, "What?", max_pixels=16 * FACTORS[name] ** 2, max_new_tokens=2).report
    config = pipe.host.thinker.config
    shape = prompt_shape(6.0, 112, 112, config=config, max_pixels=16 * FACTORS[name] ** 2)
    tokens = report.tokens
    shape = PromptShape(
        *shape.grid, shape.mel, tokens.prompt - shape.prompt + shape.text, shape.seconds_per_frame, config
    )
    full, cut = count(config, shape, [Budget(0.25)])
    assert (full.video, full.audio, full.prompt) == (tokens.video, tokens.audio, tokens.prompt)
    assert (cut.video, cut.audio, cut.prompt) == (tokens.video_kept, tokens.audio_kept, tokens.prompt_kept)


@pytest.mark.parametrize("name", FACTORS)
def test_every_stage_is_measured_as_it_is_counted(folder_of: Callable[[str], Path], clip: Path, name: str) -> None:
    """While a question is answered with a cut prompt: encoders, the first pass and the decoding."""
    pipe = load(str(folder_of(name)), compressor="v_cast", retain=0.25, device="cpu")
    with FlopGauge() as gauge:
        answer = pipe.ask(clip, "What?", max_pixels=16 * FACTORS[name] ** 2, max_new_tokens=4, on_stage=gauge.stage)
    config, kept = pipe.host.thinker.config, answer.report.tokens.prompt_kept
    text = config.get_text_config()
    shape = prompt_shape(6.0, 112, 112, config=config, max_pixels=16 * FACTORS[name] ** 2)
    stateful = hasattr(text, "linear_num_value_heads")
    assert gauge.flops["encode_video"] == flops.encoders(config, shape.grid, 0).total
    assert gauge.flops["encode_audio"] == flops.encoders(config, (0, 0, 0), shape.mel).total
    first = flops.language_model(text, kept, logits=1).total
    counted = flops.prompt(config, shape.grid, shape.mel, kept).total
    assert counted == gauge.flops["encode_video"] + gauge.flops["encode_audio"] + first
    assert gauge.flops["prefill"] == first + (padding(text, 3) if stateful else 0)
    steps = [flops.language_model(text, 1, kept + step).total for step in range(answer.report.tokens.generated - 1)]
    assert gauge.flops["decode"] == sum(steps) + (padding(text, len(steps)) if stateful else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_omni_moe_thinker", "qwen3_5_moe"])
def test_the_command_measures_a_checkpoint_and_counts_its_folder(
    folder_of: Callable[[str], Path], clip: Path, name: str
) -> None:
    limits = ["--max-pixels", str(16 * FACTORS[name] ** 2), "--json"]
    measured = ["profile", str(clip), "--model", str(folder_of(name)), "--compressor", "v_cast", "--repeats", "1"]
    counted = ["profile", "--config", str(folder_of(name)), "--clip-seconds", "6"]
    results = []
    for given in (measured, counted):
        result = CliRunner().invoke(app, [*given, "--retain", "0.25", *limits])
        assert result.exit_code == 0, result.output
        results.append(json.loads(result.stdout))
    first, second = results
    assert first["runs"][0]["flops"]["encode_video"] > 0
    assert [run["retain"] for run in second["runs"]] == ["full", "0.25"]
    assert second["clip"]["times"] == (6 * 8 if "qwen3_5" in name else 0)
