"""A model is found and checked by its configuration: what is wrong is said before weights are read, and at once."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import omnisift
from omnisift import load
from omnisift.errors import BudgetError, CheckpointError, CompressorError, UnsupportedModel, UsageError
from omnisift.pipeline import loading
from omnisift.pipeline.model_source import find_model
from omnisift.utils.assets import nano_path


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading a model's weights fails the test."""

    def refuse(*_: object) -> None:
        pytest.fail("weights were read before the arguments were checked")

    monkeypatch.setattr(loading, "_load_thinker", refuse)


@pytest.fixture
def without_selector(tmp_path: Path) -> Path:
    """A checkpoint folder without a selector; its weights cannot be read."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(nano_path() / "config.json", folder)
    return folder


def test_nano() -> None:
    source = find_model("nano")
    assert (source.name, source.source, source.local_files_only) == ("nano", str(nano_path()), True)
    assert source.hidden_size == load("nano", compressor=None).host.hidden_size


def test_a_width_that_equals_the_default_is_not_in_the_file(tmp_path: Path) -> None:
    from transformers import Qwen2_5OmniConfig

    config = Qwen2_5OmniConfig()
    config.save_pretrained(tmp_path)
    text = json.loads((tmp_path / "config.json").read_text())["thinker_config"].get("text_config", {})
    source = find_model(str(tmp_path))
    assert source.hidden_size == config.thinker_config.text_config.hidden_size == 3584
    assert text.get("hidden_size", 3584) == 3584


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"compressor": "omnisfit"}, CompressorError, "no compressor named 'omnisfit'; did you mean 'omnisift'"),
        ({"compressor": "stvp:no_option=1"}, CompressorError, "compressor 'stvp' has no option 'no_option'"),
        ({"selector": "missing/folder"}, UsageError, "no selector folder at missing/folder"),
        ({"retain": 25}, BudgetError, "retain is the fraction kept"),
        ({"device": "gpu"}, UsageError, "unknown device 'gpu'"),
        ({"dtype": "int8"}, UsageError, "unknown dtype 'int8'"),
    ],
)
@pytest.mark.usefixtures("no_weights")
def test_wrong_arguments_are_found_at_once(options: dict[str, object], error: type[Exception], says: str) -> None:
    begin = time.perf_counter()
    with pytest.raises(error, match=f"^{says}") as caught:
        load("nano", **options)
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - begin < 5  # a fraction of a second on a quiet machine


@pytest.mark.usefixtures("no_weights")
def test_a_missing_selector_is_found_before_the_weights_are_read(without_selector: Path) -> None:
    with pytest.raises(CompressorError, match=r"--selector FOLDER.*training-free"):
        load(str(without_selector), compressor="omnisift")


@pytest.mark.usefixtures("no_weights")
def test_wrong_folders_are_found_before_the_weights_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        load(str(tmp_path))
    for missing in (str(tmp_path / "missing"), "./missing", "a/b/c", "~/model"):
        with pytest.raises(CheckpointError, match="no folder"):
            load(missing)
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(UnsupportedModel, match="'llava'"):
        load(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    with pytest.raises(CompressorError, match="no selector weights"):
        load(str(tmp_path), compressor="omnisift")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is not JSON"):
        load(str(tmp_path))


def test_a_name_without_owner_is_no_hub_id() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean Qwen/Qwen2\.5-Omni-7B, or is the folder missing\?"):
        load("Qwen2.5-Omni-7B")


def test_without_a_network_a_hub_id_fails_in_one_line_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound but not listening: a connection is refused
        closed.bind(("127.0.0.1", 0))
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{closed.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "0",
            "TRANSFORMERS_OFFLINE": "0",
            "PYTHONPATH": str(Path(omnisift.__file__).parents[1]),
        }
        code = (
            "import time, transformers, omnisift\n"
            "from omnisift.pipeline import ask\n"
            "begin = time.perf_counter()\n"
            "try:\n"
            "    omnisift.load('Qwen/Qwen2.5-Omni-7B', compressor='uniform')\n"
            "except omnisift.OmniSiftError as error:\n"
            "    print(error)\n"
            "print(time.perf_counter() - begin)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    message, seconds = done.stdout.strip().splitlines()
    assert message.startswith("can't load a model named 'Qwen/Qwen2.5-Omni-7B': no network, and not in the cache")
    assert float(seconds) < 5


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from omnisift.pipeline import model_source

    with socket.socket() as silent:  # accepts and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(model_source, "_HUB_SECONDS", 0.2)
        with pytest.raises(CheckpointError, match="no network, and not in the cache"):
            load("owner/model")
