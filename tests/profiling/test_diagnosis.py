"""`omnisift doctor --model`: what it says of every family, of broken folders and of released dimensions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.broken_folders import FOLDERS
from tests.helpers.families import FAMILIES
from tests.helpers.family_folders import FACTORS, save_family
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.compressors import COMPRESSORS
from omnisift.errors import CheckpointError, OmniSiftError, UnsupportedModel, UsageError
from omnisift.models import adapter_class
from omnisift.pipeline import model_source
from omnisift.profiling import diagnosis
from omnisift.profiling.diagnosis import device_memory, diagnose
from omnisift.profiling.shape import prompt_shape
from omnisift.profiling.sizes import host_config


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("families")
    return lambda name: root / name if (root / name).exists() else save_family(name, root / name)


@pytest.fixture
def config_alone(folder_of: Callable[[str], Path], tmp_path: Path) -> Callable[..., Path]:
    """A folder with nothing but the config.json of a family, with changed values."""

    def make(name: str, **values: Any) -> Path:
        content = json.loads((folder_of(name) / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(content | values))
        return tmp_path

    return make


@pytest.mark.parametrize("name", FACTORS)
def test_every_family(folder_of: Callable[[str], Path], name: str) -> None:
    found, model = diagnose(str(folder_of(name))), FAMILIES[name].model()
    assert found.model_class == type(model).__name__
    assert found.context == 4096
    assert found.hears == ("omni" in name)
    assert (found.weights_here, found.selector_here) == (True, False)
    # The vocabulary of the folder is that of its tokenizer.
    config = host_config(str(folder_of(name)))
    assert found.parameters == sum(p.numel() for p in type(model)(config).parameters())
    assert {*found.methods, *found.with_selector, *found.refused} == set(COMPRESSORS)
    assert "omnisift" in found.with_selector
    assert found.refused == {}
    assert [(need.dtype, need.retain) for need in found.needs] == [
        ("bfloat16", "full"), ("bfloat16", "0.25"), ("float32", "full"), ("float32", "0.25"),
    ]  # fmt: skip
    full, cut, exact, _ = found.needs
    assert full.prompt == prompt_shape(60, config=config).prompt
    assert cut.prompt < full.prompt / 3
    assert exact.weights == 2 * full.weights == 4 * found.parameters
    assert not full.in_context
    assert full.fits


@pytest.mark.parametrize("name", FACTORS)
def test_what_works_works(folder_of: Callable[[str], Path], name: str) -> None:
    found = diagnose(str(folder_of(name)))
    host = omnisift.load(folder_of(name), compressor=None).host
    for method in found.methods:
        with omnisift.attach(host.thinker, method, retain=0.25):
            pass


def test_what_is_refused_is_refused(folder_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a family whose adapter has no attention of encoders."""
    monkeypatch.setattr(adapter_class("qwen3_vl"), "supplies", frozenset())
    found = diagnose(str(folder_of("qwen3_vl")))
    assert found.refused["omnizip"] == ["audio_attention"]
    screen = CliRunner().invoke(app, ["doctor", "--model", str(folder_of("qwen3_vl"))], env={"COLUMNS": "120"})
    assert "omnizip" in screen.stdout
    host = omnisift.load(folder_of("qwen3_vl"), compressor=None).host
    for method in found.refused:
        with pytest.raises(OmniSiftError, match=f"{method}.*needs"), omnisift.attach(host.thinker, method, retain=0.25):
            pass


def test_the_screen_and_its_json(folder_of: Callable[[str], Path]) -> None:
    screen = CliRunner().invoke(app, ["doctor", "--model", str(folder_of("qwen3_vl"))], env={"COLUMNS": "120"})
    assert screen.exit_code == 0, screen.output
    assert max(map(len, screen.stdout.splitlines())) <= 120
    for words in ("Qwen3VLForConditionalGeneration", "audio of a clip is left out", "beyond the context", "distill",
                  "this folder has none", "bfloat16", "25%"):  # fmt: skip
        assert words in " ".join(screen.stdout.split())
    found = json.loads(CliRunner().invoke(app, ["doctor", "--model", str(folder_of("qwen3_vl")), "--json"]).stdout)
    need = found["needs"][0]
    assert need["total"] == need["weights"] + need["cache"] + need["logits"]
    assert found["refused"] == {}


def test_nano_has_all_methods_and_commands() -> None:
    found = diagnose("nano")
    assert found.refused == {}
    assert found.selector_here
    assert found.other_commands == []
    assert set(model_source.OMNI_ONLY) <= set(found.commands)


def test_a_hub_id_needs_its_configuration_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dimensions of Qwen3-VL-8B: it fits in 24 GB in bfloat16, and not in float32."""
    content = host_config("qwen3-vl-8b").to_dict()
    content["text_config"]["max_position_embeddings"] = 262144
    monkeypatch.setattr(model_source, "is_hub_reachable", lambda: True)
    monkeypatch.setattr(model_source, "_read_config", lambda source, local_files_only: content)
    monkeypatch.setattr(diagnosis, "device_memory", lambda device: 24 * 10**9)
    found = diagnose("Qwen/Qwen3-VL-8B-Instruct")
    assert round(found.parameters / 1e9, 2) == 8.77
    assert found.weights_here is None
    assert [need.fits for need in found.needs] == [True, True, False, False]
    assert all(need.in_context for need in found.needs)
    monkeypatch.setattr(diagnosis, "device_memory", lambda device: None)
    unknown = diagnose("Qwen/Qwen3-VL-8B-Instruct")
    assert {need.fits for need in unknown.needs} == {None}
    shown = CliRunner().invoke(app, ["doctor", "--model", "Qwen/Qwen3-VL-8B-Instruct"], env={"COLUMNS": "120"})
    assert "unknown" in shown.stdout


def test_packed_weights_are_named(config_alone: Callable[..., Path]) -> None:
    folder = config_alone("qwen2_5_vl", quantization_config={"quant_method": "gptq", "bits": 4})
    found = diagnose(str(folder))
    assert (found.quantization, found.weights_here) == ("gptq", False)
    shown = " ".join(CliRunner().invoke(app, ["doctor", "--model", str(folder)], env={"COLUMNS": "200"}).stdout.split())
    assert "packed by gptq" in shown
    assert "none in this folder" in shown


def test_a_class_that_transformers_lacks(monkeypatch: pytest.MonkeyPatch, folder_of: Callable[[str], Path]) -> None:
    adapter = adapter_class("qwen3_5")
    folder = folder_of("qwen3_5")
    monkeypatch.setattr(adapter, "model_class", "Qwen9")
    monkeypatch.setattr(adapter, "release", "9.1")
    with pytest.raises(UnsupportedModel, match=r"needs Qwen9, which .* lacks; install Transformers 9\.1 or newer"):
        diagnose(str(folder))


def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(diagnosis, "_CGROUP", limit)
    machine = device_memory(torch.device("cpu"))
    assert machine is not None
    limit.write_text("max\n")
    assert device_memory(torch.device("cpu")) == machine
    limit.write_text("1000000\n")
    assert device_memory(torch.device("cpu")) == 1_000_000
    monkeypatch.delattr("os.sysconf")
    assert device_memory(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        ("{", CheckpointError, "is not JSON"),
        ("[]", CheckpointError, "must hold a JSON object"),
        ('{"model_type": "llava"}', UnsupportedModel, "no adapter for model_type 'llava'"),
        ("{}", UnsupportedModel, "no adapter for model_type None"),
        ('{"model_type": "qwen3_vl", "vision_config": {"patch_size": 0}}', CheckpointError, "can't load"),
        ('{"model_type": "qwen3_vl", "text_config": {"num_hidden_layers": 100000}}', CheckpointError, "at most 1000"),
        ('{"model_type": "qwen3_5", "text_config": {"hidden_size": "wide"}}', CheckpointError, "can't load"),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path: Path, content: str, kind: type[OmniSiftError], says: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(kind, match=says) as error:
        diagnose(str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_folder_of_other_things(omnisift_exit: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no config\.json"):
        diagnose(str(tmp_path))
    code, err = omnisift_exit("doctor", "--model", str(tmp_path))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert err.startswith("error (UsageError): ")
    code, err = omnisift_exit("doctor", "--model", "no/such/folder/here")
    assert (code, len(err.splitlines())) == (2, 1)


@pytest.fixture
def omnisift_exit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Call the command; returns exit code and stderr."""

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["omnisift", *arguments])
        with pytest.raises(SystemExit) as stop:
            omnisift.cli.main()
        return int(stop.value.code or 0), capsys.readouterr().err

    return call


def test_weights_of_another_model(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(folder_of("qwen3_vl"), tmp_path / "mixed")
    large = FAMILIES["qwen3_vl"].config()
    large.text_config.hidden_size = large.vision_config.out_hidden_size = 1 << 16
    large.save_pretrained(tmp_path / "mixed")
    with pytest.raises(CheckpointError, match="but the weights hold"):
        diagnose(str(tmp_path / "mixed"))


@pytest.mark.parametrize("name", [name for name in FOLDERS if name.startswith("config.json")])
def test_broken_configurations_of_nano(tmp_path: Path, name: str) -> None:
    """A typed error of one line, or an answer where the value does not matter."""
    from tests.helpers.broken_folders import copy_nano

    FOLDERS[name](copy_nano(tmp_path / "nano"))
    result = CliRunner().invoke(app, ["doctor", "--model", str(tmp_path / "nano"), "--json"])
    assert result.exception is None or isinstance(result.exception, OmniSiftError), result.exception
    assert "\n" not in str(result.exception)
