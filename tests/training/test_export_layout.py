"""The layout of the released 7B checkpoint at its real width: two layers per part with values, all names on meta."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.helpers import models as tiny
from transformers import Qwen2_5OmniForConditionalGeneration as Model
from transformers import Qwen2_5OmniThinkerConfig

from omnisift.training.export import export_merged, parse_storage, selector_of
from omnisift.vgas import RELEASED_PREFIX, VGAS, VGASConfig


def config(layers: int | None) -> Qwen2_5OmniThinkerConfig:
    """Transformers' defaults are the 7B model's; with ``layers``, that many per part and a small vocabulary."""
    thinker = Qwen2_5OmniThinkerConfig()
    thinker.vision_config.out_hidden_size = thinker.audio_config.output_dim = 3584
    if layers is not None:
        thinker.text_config.num_hidden_layers = thinker.vision_config.depth = layers
        thinker.audio_config.encoder_layers = layers
        thinker.text_config.layer_types = thinker.text_config.layer_types[:layers]
        thinker.text_config.vocab_size = 1024
        thinker.text_config.pad_token_id = 0
    return thinker


def model(layers: int | None) -> Model:
    complete = tiny.full_config()
    complete.thinker_config = config(layers)
    complete.talker_config.embedding_size = 3584
    return Model._from_config(complete, dtype=torch.bfloat16)


def kinds(names: list[str]) -> set[str]:
    """Names without the number of the layer."""
    return {re.sub(r"\.\d+\.", ".N.", name) for name in names if name.startswith("thinker.")}


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    result = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            result |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return result


def test_names_of_the_full_depth_equal_those_of_two_layers() -> None:
    with torch.device("meta"):
        full, short = model(None).state_dict(), model(2).state_dict()
    assert kinds(list(full)) == kinds(list(short))
    assert not [name for name in full if "compressor" in name]
    for part, depth in (("language|thinker.model.layers", 28), ("visual.blocks", 32), ("audio_tower.layers", 32)):
        numbers = {
            int(result[1]) for name in full if name.startswith("thinker.") and re.search(part, name)
            and (result := re.search(r"(?:layers|blocks)\.(\d+)\.", name))
        }  # fmt: skip
        assert numbers == set(range(depth)), part
    for name in short:  # two layers have the shapes that all have, the vocabulary aside
        if "embed_tokens" not in name and "lm_head" not in name:
            assert short[name].shape == full[name].shape, name


@pytest.mark.slow
def test_two_layers_at_full_width_round_trip(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    torch.manual_seed(0)
    model(2).save_pretrained(source, max_shard_size="500MB")
    selector = VGAS(VGASConfig()).to(torch.bfloat16).eval()
    before = shapes(source)
    export_merged(source, selector, out, parse_storage(None, "400MB"))
    after = shapes(out)
    own = {name: shape for name, shape in after.items() if name.startswith(RELEASED_PREFIX)}
    assert own == {RELEASED_PREFIX + name: tuple(value.shape) for name, value in selector.state_dict().items()}
    assert {name: shape for name, shape in after.items() if name not in own} == before
    assert set(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"]) == set(after)
    video, audio = torch.randn(3, 40, 3584, dtype=torch.bfloat16), torch.randn(3, 50, 3584, dtype=torch.bfloat16)
    with torch.no_grad():
        want = selector(video, audio)
        assert torch.equal(selector_of(out, None)(video, audio), want)
