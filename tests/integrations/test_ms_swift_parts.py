"""The parts of the ms-swift plugin that work without ms-swift: settings, selector, trainer hook, checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers.models import AUDIO, VIDEO, WIDTH, Video, full_model, prompt

from omnisift.errors import BudgetError, CheckpointError, CompressorError, TrainingError, UsageError
from omnisift.integrations.ms_swift import plugin_path
from omnisift.integrations.ms_swift.selectors import add_selector, find_selector
from omnisift.integrations.ms_swift.settings import SwiftSettings, check_audio
from omnisift.integrations.ms_swift.trainer_hook import TrainerHook, check_processes, refuse_uncompressed
from omnisift.models.selector import ADAPTER_PREFIX
from omnisift.pipeline.loading import read_selector
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS, VGASConfig

CLIP = [3, Video(frames=4, height=3, width=4, audio=100), 6]
NEW = SwiftSettings(selector="new")


def learner(settings: SwiftSettings = NEW) -> Any:
    """A tiny full model as ms-swift makes it: LoRA, and the selector in ``modules_to_save``."""
    from peft import LoraConfig, get_peft_model

    model = full_model()
    add_selector(model, "nowhere", settings)
    targets = r"^thinker\.model\..*layers\.\d+\.self_attn\.(q|v)_proj"
    return get_peft_model(model, LoraConfig(r=2, target_modules=targets, modules_to_save=["compressor"])).train()


def merged(model: Any, *rows: Any) -> dict[str, Any]:
    """A batch as ms-swift passes it to the model: embeddings with media merged, and the ids."""
    inputs = prompt(*rows, pad="right")
    ids, thinker = inputs["input_ids"], model.get_base_model().thinker
    embeds = thinker.get_input_embeddings()(ids).detach()
    media = (ids == VIDEO) | (ids == AUDIO)
    embeds[media] = torch.randn(int(media.sum()), WIDTH, generator=torch.Generator().manual_seed(0))
    core = thinker if hasattr(thinker, "get_rope_index") else thinker.model
    positions = core.get_rope_index(
        ids,
        video_grid_thw=inputs.get("video_grid_thw"),
        attention_mask=inputs["attention_mask"],
        use_audio_in_video=True,
        audio_seqlens=None if "feature_attention_mask" not in inputs else inputs["feature_attention_mask"].sum(dim=1),
        second_per_grids=inputs.get("video_second_per_grid"),
    )[0]
    labels = ids.masked_fill((inputs["attention_mask"] == 0) | (ids <= 8), -100)
    return {
        "input_ids": ids,
        "inputs_embeds": embeds,
        "attention_mask": inputs["attention_mask"],
        "position_ids": positions,
        "labels": labels,
    }


def forward(model: Any, batch: dict[str, Any]) -> Any:
    """PEFT calls ``forward`` without the hooks of the full model; ms-swift lets it call the thinker."""
    full = model.get_base_model()
    full.forward = full.thinker.forward  # the full model has none of its own
    return model(**batch)


def test_settings_come_from_the_environment() -> None:
    environment = {
        "OMNISIFT_RETAIN_VIDEO": "0.2",
        "OMNISIFT_RETAIN_AUDIO": "0.4",
        "OMNISIFT_COMPRESSOR": "stvp",
        "HOME": "x",
    }
    settings = SwiftSettings.from_environment(environment)
    assert settings == SwiftSettings(compressor="stvp", retain_video=0.2, retain_audio=0.4)
    assert SwiftSettings.from_environment({}).budget.retain == 0.25
    assert SwiftSettings.from_environment({"OMNISIFT_COMPRESS_AUDIO": "true"}).budget.compress_audio
    with pytest.raises(UsageError, match="OMNISIFT_COMPRESS_AUDIO must be true or false, got '1'"):
        SwiftSettings.from_environment({"OMNISIFT_COMPRESS_AUDIO": "1"})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"OMNISIFT_RETIAN": "0.2"}, UsageError, "OMNISIFT_RETIAN is not a setting; there are: OMNISIFT_COMPRESSOR"),
        ({"OMNISIFT_RETAIN": "much"}, UsageError, "OMNISIFT_RETAIN must be a number, got 'much'"),
        ({"OMNISIFT_RETAIN": "0"}, BudgetError, "retain is the fraction kept"),
        ({"OMNISIFT_RETAIN_VIDEO": "0.2"}, BudgetError, "a budget needs retain, or both"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SwiftSettings.from_environment(given)


def test_audio_must_be_read_or_left_out_explicitly() -> None:
    silent = SwiftSettings(compressor="stvp")
    check_audio(enabled=True, explicit=True, settings=NEW)
    check_audio(enabled=False, explicit=True, settings=silent)
    for explicit, settings, word in ((False, NEW, "not set"), (True, NEW, "false"), (False, silent, "not set")):
        with pytest.raises(TrainingError, match=f"^training without audio: USE_AUDIO_IN_VIDEO is {word}"):
            check_audio(enabled=False, explicit=explicit, settings=settings)


def test_the_selector_is_where_the_released_code_has_it() -> None:
    model = full_model().to(torch.bfloat16)
    random = torch.get_rng_state()
    add_selector(model, "nowhere", NEW)
    assert torch.equal(torch.get_rng_state(), random)
    selector = find_selector(model)
    assert selector is model.thinker.compressor
    assert selector.dtype == torch.float32
    assert "thinker.compressor.v_proj.weight" in model.state_dict()


def test_a_training_free_compressor_brings_no_selector() -> None:
    model = full_model()
    add_selector(model, "nowhere", SwiftSettings(compressor="stvp"))
    assert find_selector(model) is None


def test_a_checkpoint_without_a_selector_is_refused_with_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(CompressorError, match=r"no selector weights; set OMNISIFT_SELECTOR to a folder .* to new"):
        add_selector(full_model(), str(tmp_path), SwiftSettings())


def test_a_selector_of_another_width_is_refused() -> None:
    settings = SwiftSettings(selector=str(nano_path() / "selector"))
    with pytest.raises(CheckpointError, match="has width 128, the model 32"):
        add_selector(full_model(), "nowhere", settings)


def test_a_step_is_cut_and_trains_the_selector_that_is_saved() -> None:
    model = learner()
    selector = find_selector(model.get_base_model())
    assert selector is model.get_base_model().thinker.compressor.modules_to_save["default"]
    batch = merged(model, CLIP, [20])
    with TrainerHook(model, NEW) as hook:
        hook.before_step(0.5)
        output = forward(model, batch)
        labels, last = hook.after_step(batch["input_ids"], batch["labels"])
    assert last is not None
    assert last.retained_ratio == pytest.approx(0.25, abs=0.03)
    assert output.logits.shape[:2] == labels.shape
    assert labels.shape[1] < batch["labels"].shape[1]
    assert int((labels != -100).sum()) == int((batch["labels"] != -100).sum())
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert torch.allclose(output.loss, expected)
    output.loss.backward()
    assert selector.score_head[0].weight.grad.abs().max() > 0


def test_text_alone_gives_the_selector_a_gradient_of_zero() -> None:
    model = learner()
    batch = merged(model, [12], [9])
    with TrainerHook(model, NEW) as hook:
        hook.before_step(0.0)
        output = forward(model, batch)
        labels, last = hook.after_step(batch["input_ids"], batch["labels"])
    output.loss.backward()
    assert last is None
    assert torch.equal(labels, batch["labels"])
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in gradients)
    assert all(not p.grad.any() for p in find_selector(model.get_base_model()).parameters())


def test_detached_nothing_is_left() -> None:
    model = learner()
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    TrainerHook(model, NEW).detach()
    assert {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()} == hooks


def test_an_uncompressed_prompt_is_refused() -> None:
    model = learner()
    refuse_uncompressed(model.get_base_model())
    batch = merged(model, CLIP)
    with TrainerHook(model, NEW):
        forward(model, batch)
    with pytest.raises(TrainingError, match=r"^training without compression: the model was called"):
        forward(model, batch)


def test_random_weights_that_would_not_be_trained_are_refused() -> None:
    model = learner()
    model.requires_grad_(False)
    with pytest.raises(TrainingError, match="would not be trained; add --modules_to_save compressor"):
        TrainerHook(model, NEW)


def test_an_estimator_that_needs_several_passes_is_refused() -> None:
    settings = SwiftSettings(compressor="omnisift:estimator=reinforce", selector="new")
    with pytest.raises(TrainingError, match="'reinforce' needs several forward passes"):
        TrainerHook(learner(settings), settings)


def test_processes_that_did_not_join_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_processes(joined=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(joined=True)
    with pytest.raises(TrainingError, match=r"^2 processes should train together, but each"):
        check_processes(joined=False)


def test_the_selector_of_an_adapter_is_read(tmp_path: Path) -> None:
    torch.manual_seed(5)
    made = VGAS(VGASConfig(input_size=WIDTH, hidden_size=16, num_attention_heads=8, time_embedding=True))
    tensors = {ADAPTER_PREFIX + name: value for name, value in made.state_dict().items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    read = read_selector("model", "model", tmp_path, WIDTH)
    assert read.config.time_embedding
    assert all(torch.equal(read.state_dict()[name], value) for name, value in made.state_dict().items())


def test_the_plugin_is_alone_in_its_folder_and_found_without_ms_swift() -> None:
    """ms-swift puts its folder first on the path, where a file called vllm.py would hide vLLM."""
    path = plugin_path()
    assert [file.name for file in path.parent.iterdir() if file.suffix == ".py"] == ["omnisift_ms_swift.py"]
    code = "import sys, omnisift.cli as cli; sys.argv = ['omnisift', 'plugin-path']\ntry:\n    cli.main()\n"
    code += "finally:\n    print(sorted({'swift', 'torch'} & set(sys.modules)))\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == [str(path), "[]"]
