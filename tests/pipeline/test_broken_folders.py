"""Every broken checkpoint folder is one line that names it, or loads and answers; weights that are NaN never answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.helpers.broken_folders import FOLDERS, copy_nano, edit_weights, replace, set_value
from tests.helpers.family_folders import save_family

import omnisift
from omnisift.errors import CheckpointError, ModelError, OmniSiftError
from omnisift.media import Media
from omnisift.models.compression import Compression
from omnisift.pipeline.chat_template import MAX_SECONDS, render_chat
from omnisift.pipeline.generation import unscored_notice
from omnisift.tokens import Modality
from omnisift.utils.assets import nano_path
from omnisift.utils.parsing import is_text
from omnisift.utils.safetensors_files import INDEX
from omnisift.vgas import VGAS, VGASConfig

QUESTION = "What colour is the circle?"
QUICK = [name for number, name in enumerate(FOLDERS) if number % 5 == 0 or "loops" in name or "alone" in name]
"""A fifth of the folders for every run of the tests; the slow test has all."""
ANSWERS = {
    "generation_config.json:missing", "generation_config.json:folder", "generation_config.json:object",
    "model.safetensors:integers", "model.safetensors:one-nan", "selector/model.safetensors:integers",
    "config.json:dtype=7", "config.json:architectures=3", "config.json:architectures=[null]",
    "processor_config.json:video_processor.image_mean=[1.0]", "tokenizer_config.json:chat_template=3",
    'tokenizer_config.json:tokenizer_class="NoSuchTokenizer"', f"{INDEX}:part",
}  # fmt: skip
"""Folders whose fault is in a value that nothing reads, or that still are a model."""


@pytest.fixture(scope="module")
def media(clip: Path) -> Media:
    return omnisift.load("nano", compressor=None).read(clip)


def check(name: str, media: Media, folder: Path) -> None:
    """The folder is refused in one line with its name, or answers."""
    copy_nano(folder)
    FOLDERS[name](folder)
    begin = time.thread_time()
    try:
        answer = omnisift.load(str(folder)).ask(media, QUESTION, max_new_tokens=4)
    except OmniSiftError as error:
        text = str(error)
        assert str(folder) in text
        assert "\n" not in text
        assert len(text) < 700
        assert is_text(text)
        assert name not in ANSWERS
    else:
        assert name in ANSWERS
        assert answer.text.strip()
    assert time.thread_time() - begin < 20


@pytest.mark.parametrize("name", QUICK)
def test_a_broken_folder(name: str, media: Media, tmp_path: Path) -> None:
    check(name, media, tmp_path / "model")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in QUICK])
def test_other_broken_folders(name: str, media: Media, tmp_path: Path) -> None:
    check(name, media, tmp_path / "model")


def test_there_are_many() -> None:
    assert len(FOLDERS) > 256
    assert set(FOLDERS) >= ANSWERS


@pytest.mark.parametrize("file", ["model.safetensors", "selector/model.safetensors"])
def test_half_a_download_and_a_pointer_name_the_file(file: str, tmp_path: Path) -> None:
    folder = copy_nano(tmp_path / "model")
    content = (folder / file).read_bytes()
    replace(folder / file, content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=rf"{file}.*download the checkpoint again"):
        omnisift.load(str(folder))
    replace(folder / file, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match=rf"{file} is a git-lfs pointer .* git lfs pull"):
        omnisift.load(str(folder))


def test_a_default_model_is_not_built_beside_small_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json with the type alone describes the 7B model: 11 billion numbers beside nano's 1.3 million."""
    folder = copy_nano(tmp_path / "model")
    replace(folder / "config.json", json.dumps({"model_type": "qwen2_5_omni_thinker"}))
    from transformers import Qwen2_5OmniThinkerForConditionalGeneration as Thinker

    monkeypatch.setattr(Thinker, "from_pretrained", lambda *_, **__: pytest.fail("the weights were read"))
    begin = time.thread_time()
    with pytest.raises(CheckpointError, match=r"config\.json describes a model of 11,.* but the weights hold 1,3"):
        omnisift.load(str(folder), compressor="uniform")
    assert time.thread_time() - begin < 10


@pytest.mark.parametrize("key", ["text_config.num_hidden_layers", "vision_config.depth", "audio_config.encoder_layers"])
def test_layers_that_the_configuration_leaves_out_are_not_dropped(key: str, tmp_path: Path) -> None:
    folder = copy_nano(tmp_path / "model")
    set_value(folder / "config.json", key, 1)
    if key.startswith("text"):
        set_value(folder / "config.json", "text_config.layer_types", ["full_attention"])
    with pytest.raises(CheckpointError, match=r"tensors of layers that config\.json does not describe"):
        omnisift.load(str(folder), compressor="uniform")


def test_features_that_the_configuration_leaves_out_are_not_dropped(tmp_path: Path) -> None:
    folder = save_family("qwen3_vl", tmp_path / "model")
    set_value(folder / "config.json", "vision_config.deepstack_visual_indexes", [])
    with pytest.raises(CheckpointError, match=r"tensors of layers that config\.json does not describe, .*deepstack"):
        omnisift.load(str(folder), compressor="uniform")


# --- chat templates that loop ----------------------------------------------------------------------------------------


def test_a_chat_template_that_loops_only_for_a_conversation_is_stopped() -> None:
    processor = omnisift.load("nano", compressor=None).host.processor
    loop = "{% for a in range(99999) %}" * 3 + "{% set x = a %}" + "{% endfor %}" * 3
    processor.chat_template = "{% if messages | length > 1 %}" + loop + "{% endif %}x"
    turn = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    assert render_chat(processor, [turn], add_generation_prompt=True) == "x"
    begin = time.thread_time()
    with pytest.raises(CheckpointError, match="takes more than 1 s"):
        render_chat(processor, [turn, turn], add_generation_prompt=True)
    assert time.thread_time() - begin < MAX_SECONDS + 5


def test_the_limit_leaves_a_debugger_as_it_was() -> None:
    import sys

    processor = omnisift.load("nano", compressor=None).host.processor
    turn = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    before = sys.gettrace()
    render_chat(processor, [turn], add_generation_prompt=True)
    assert sys.gettrace() is before


# --- weights that are not finite -------------------------------------------------------------------------------------


def fill(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: [tensor.fill_(value) for tensor in tensors.values()] and None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_selector_that_is_not_finite_is_refused(value: float, tmp_path: Path) -> None:
    folder = copy_nano(tmp_path / "model")
    edit_weights(folder / "selector" / "model.safetensors", fill(value))
    for load in (
        lambda: omnisift.load(str(folder)),
        lambda: omnisift.load("nano", selector=folder / "selector"),
        lambda: VGAS.from_pretrained(str(folder / "selector")),
    ):
        with pytest.raises(CheckpointError, match="NaN or infinite weights: v_proj"):
            load()


def test_one_nan_of_a_selector_is_enough(tmp_path: Path) -> None:
    folder = copy_nano(tmp_path / "model")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["score_head.2.bias"][0] = float("nan")

    edit_weights(folder / "selector" / "model.safetensors", edit)
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights: score_head\.2\.bias; train it again"):
        omnisift.load(str(folder))


def test_a_selector_inside_a_full_checkpoint_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    vgas = VGAS(VGASConfig(input_size=128))
    with torch.no_grad():
        vgas.a_proj.bias[3] = float("nan")
    folder = copy_nano(tmp_path / "model")
    named = {f"thinker.compressor.{name}": tensor for name, tensor in vgas.state_dict().items()}
    edit_weights(folder / "model.safetensors", lambda tensors: tensors.update(named))
    with pytest.raises(CheckpointError, match=r"NaN or infinite weights: a_proj\.bias"):
        VGAS.from_checkpoint(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("compressor", ["omnisift", "uniform", None])
def test_a_model_that_is_not_finite_never_answers(
    value: float, compressor: str | None, media: Media, tmp_path: Path
) -> None:
    folder = copy_nano(tmp_path / "model")
    edit_weights(folder / "model.safetensors", fill(value))
    pipeline = omnisift.load(str(folder), compressor=compressor)
    with pytest.raises(ModelError, match="NaN or infinity instead of logits"):
        pipeline.ask(media, QUESTION, max_new_tokens=4)
    with pytest.raises(ModelError, match="NaN or infinity instead of logits"):
        pipeline.ask_batch([(media, QUESTION), (media, QUESTION)], max_new_tokens=2)


def test_scores_that_overflow_are_a_notice(media: Media, tmp_path: Path) -> None:
    """Finite weights whose products are not: the choice is arbitrary, and the answer says so."""
    folder = copy_nano(tmp_path / "model")

    def edit(tensors: dict[str, torch.Tensor]) -> None:
        tensors["a_proj.weight"].fill_(3e38)

    edit_weights(folder / "selector" / "model.safetensors", edit)
    answer = omnisift.load(str(folder)).ask(media, QUESTION, max_new_tokens=4)
    assert "are NaN, so the choice is arbitrary" in answer.report.notices[0]
    tokens = answer.report.tokens
    assert tokens.audio_kept < tokens.audio


def test_right_scores_are_no_notice(media: Media) -> None:
    for method in ("omnisift", "uniform", "stvp", "stvp+random", "random+omnisift", "evs", "tome"):
        notices = omnisift.load("nano", compressor=method).ask(media, QUESTION, max_new_tokens=1).report.notices
        assert not any("NaN" in notice for notice in notices), method


def test_only_dropped_tokens_without_a_score_count() -> None:
    modality = torch.tensor([[int(Modality.TEXT), *[int(Modality.VIDEO)] * 3, int(Modality.AUDIO)]])
    keep = torch.tensor([[True, True, False, False, False]])
    nan = float("nan")
    scored = Compression(modality, keep, torch.tensor([[nan, 1.0, nan, 0.5, nan]]))
    assert unscored_notice(scored, None)[0].startswith("the compressor's scores of 1 dropped tokens are NaN")
    kept = Compression(modality, keep, torch.tensor([[nan, nan, 1.0, 0.5, nan]]))
    assert unscored_notice(kept, None) == ()
    assert unscored_notice(Compression(modality, keep), None) == ()


def test_nano_itself_is_not_refused(tmp_path: Path) -> None:
    assert omnisift.load(str(copy_nano(tmp_path / "model"))).host.hidden_size == 128
    assert omnisift.load(str(nano_path())).host.hidden_size == 128
