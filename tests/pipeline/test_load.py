"""`load` of a full-size layout: the whole Qwen2.5-Omni class, tiny and random, saved to disk with its processor."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    Qwen2_5OmniConfig,
    Qwen2_5OmniForConditionalGeneration,
    Qwen2_5OmniThinkerConfig,
)

from omnisift import load
from omnisift.errors import CheckpointError, CompressorError, UnsupportedModel, UsageError
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig

QUESTION = "What colour is the circle?"
TALKER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
}
TOKEN2WAV = {
    "dit_config": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
        "ff_mult": 1,
        "emb_dim": 8,
        "enc_emb_dim": 8,
        "enc_dim": 8,
        "enc_channels": [8, 8, 8, 8, 24],
        "enc_attention_channels": 8,
        "enc_se_channels": 8,
        "mel_dim": 8,
        "num_embeds": 64,
    },
    "bigvgan_config": {"mel_dim": 8, "upsample_initial_channel": 64},
}


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder as the hub has it: thinker, talker, vocoder and processor, no selector."""
    folder = tmp_path_factory.mktemp("full")
    thinker = Qwen2_5OmniThinkerConfig.from_pretrained(nano_path()).to_dict()
    width = thinker["text_config"]["hidden_size"]
    config = Qwen2_5OmniConfig(
        thinker_config=thinker, talker_config=TALKER | {"embedding_size": width}, token2wav_config=TOKEN2WAV
    )
    torch.manual_seed(0)
    Qwen2_5OmniForConditionalGeneration(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(nano_path()).save_pretrained(folder)
    return folder


@pytest.fixture
def copy(full_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(full_folder, tmp_path / "copy"))


def selector(folder: Path) -> VGAS:
    width = json.loads((folder / "config.json").read_text())["thinker_config"]["text_config"]["hidden_size"]
    torch.manual_seed(1)
    return VGAS(VGASConfig(input_size=width)).eval()


def edit(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_checkpoint_answers_with_a_training_free_compressor(full_folder: Path, clip: Path) -> None:
    pipeline = load(str(full_folder), compressor="uniform", retain=0.25)
    answer = pipeline.ask(clip, QUESTION, max_new_tokens=4)
    assert answer.report.tokens.video_kept == answer.report.tokens.video // 4
    assert answer.report.tokens.generated <= 4
    assert pipeline.host.thinker.config.model_type == "qwen2_5_omni_thinker"


def test_no_selector_is_an_error_that_names_the_remedies(full_folder: Path) -> None:
    with pytest.raises(CompressorError, match=r"--selector FOLDER.*training-free"):
        load(str(full_folder), compressor="omnisift")


def test_a_selector_inside_the_checkpoint_is_found(copy: Path, clip: Path) -> None:
    vgas = selector(copy)
    named = {f"thinker.compressor.{name}": tensor for name, tensor in vgas.state_dict().items()}
    edit(copy, lambda tensors: tensors.update(named))
    loaded = load(str(copy))
    assert loaded.compressor.reason == "default: the checkpoint has an OmniSIFT selector"
    for name, tensor in loaded.compressor.selector.state_dict().items():
        assert torch.equal(tensor, vgas.state_dict()[name]), name
    assert loaded.ask(clip, QUESTION, max_new_tokens=2).report.retained_ratio == pytest.approx(63 / 246)


def test_a_selector_folder_is_found_and_given(full_folder: Path, copy: Path, clip: Path) -> None:
    vgas = selector(copy)
    vgas.save_pretrained(copy / "selector")
    beside = load(str(copy)).ask(clip, QUESTION, max_new_tokens=2)
    given = load(str(full_folder), selector=copy / "selector").ask(clip, QUESTION, max_new_tokens=2)
    assert beside.text == given.text


def test_a_selector_of_another_width_is_refused(full_folder: Path, tmp_path: Path) -> None:
    VGAS(VGASConfig(input_size=64, hidden_size=32, num_attention_heads=4)).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match="width 64"):
        load(str(full_folder), selector=tmp_path / "other")


def test_half_a_selector_is_an_error_never_random_weights(copy: Path) -> None:
    named = {f"thinker.compressor.{name}": tensor for name, tensor in selector(copy).state_dict().items()}
    named.pop("thinker.compressor.v_proj.weight")
    edit(copy, lambda tensors: tensors.update(named))
    with pytest.raises(CheckpointError, match=r"v_proj\.weight"):
        load(str(copy))


def test_a_missing_tensor_of_the_thinker_is_an_error(copy: Path) -> None:
    victim = "thinker.model.language_model.layers.0.mlp.up_proj.weight"
    edit(copy, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.endswith(victim[-30:])])
    with pytest.raises(CheckpointError, match=r"lacks .* tensors"):
        load(str(copy), compressor="uniform")


def test_pickled_weights_are_not_opened(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"not to be opened")
    with pytest.raises(CheckpointError, match=r"no file named model\.safetensors"):
        load(str(copy), compressor="uniform")


def test_remote_code_is_never_run(copy: Path, clip: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "evil.Model", "AutoConfig": "evil.Config", "AutoProcessor": "evil.P"}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text("raise SystemExit('remote code ran')\n")
    assert load(str(copy), compressor="uniform").ask(clip, QUESTION, max_new_tokens=1)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(UnsupportedModel, match="'llava'"):
        load(str(tmp_path))


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"model": "no/such-model"}, CheckpointError, "can't load a model named 'no/such-model'"),
        ({"device": "cuda:99"}, UsageError, "device 'cuda:99' is not available"),
        ({"dtype": "int8"}, UsageError, "unknown dtype 'int8'"),
        ({"selector": "no/such/folder"}, UsageError, "no selector folder at no/such/folder"),
        ({"compressor": "magic"}, CompressorError, "no compressor named 'magic'"),
    ],
)
def test_wrong_arguments_are_typed_errors(options: dict[str, str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"^{says}"):
        load(**options)


def test_none_is_a_name_for_no_compressor(clip: Path) -> None:
    pipeline = load("nano", compressor="none")
    assert pipeline.compressor is None


def test_loading_and_asking_print_nothing(clip: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    load("nano").ask(clip, QUESTION, max_new_tokens=2)
    assert capfd.readouterr() == ("", "")
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


def test_nano_needs_no_network(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load("nano", compressor="uniform").ask(clip, QUESTION).text is not None


def test_half_precision_runs_on_the_cpu(clip: Path) -> None:
    pipeline = load("nano", compressor="uniform", dtype="bfloat16")
    assert next(pipeline.host.thinker.parameters()).dtype == torch.bfloat16
    assert pipeline.ask(clip, QUESTION).report.retained_ratio == pytest.approx(63 / 246)
