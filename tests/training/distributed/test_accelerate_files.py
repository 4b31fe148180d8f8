"""accelerate reads the configurations for GPUs, and the classes that they name exist."""

from __future__ import annotations

from pathlib import Path

import yaml
from accelerate.commands.config.config_args import load_config_from_file

FOLDER = Path(__file__).parents[3] / "recipes" / "accelerate"
FILE = FOLDER / "fsdp2.yaml"


def test_the_fsdp2_file_is_read_by_accelerate() -> None:
    config = load_config_from_file(str(FILE))
    assert config.distributed_type == "FSDP"
    assert config.fsdp_config["fsdp_version"] == 2
    assert config.num_processes == 8
    assert "Not run on GPUs" in FILE.read_text(encoding="utf-8")


def test_the_zero2_file_is_read_by_accelerate() -> None:
    config = load_config_from_file(str(FOLDER / "zero2.yaml"))
    assert config.distributed_type == "DEEPSPEED"
    assert config.deepspeed_config == {"zero_stage": 2}
    assert config.num_processes == 8
    assert "Not run on GPUs" in (FOLDER / "zero2.yaml").read_text(encoding="utf-8")


def test_it_wraps_layers_that_the_host_has() -> None:
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as host

    named = yaml.safe_load(FILE.read_text(encoding="utf-8"))["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    for name in named.split(","):
        assert hasattr(host, name)
