"""Everything that can be known about a run before its model is loaded, one line each, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from omnisift.errors import OmniSiftError, UsageError
from omnisift.training.finetune import TrainRecipe, building, fine_tune, load_train_recipe, plan_run
from omnisift.training.finetune.building import build
from omnisift.training.finetune.checks import check_trackers
from omnisift.training.finetune.recipe import FORMER_LORA_TARGET_MODULES
from omnisift.training.finetune.run_folder import LOCK, run_lock, save_recipe

ROW = {"messages": [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "blue"}]}
OMNISIFT = {"compressor": "omnisift", "selector": None}
EVAL = {"eval_data": ["data.jsonl"]}

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "method": ({"compressor": "v_kast"}, "no compressor named 'v_kast'; did you mean 'v_cast'?"),
    "method-full": ({"compressor": "full"}, "'full' compresses nothing"),
    "method-option": ({"compressor": "v_cast:foo=1"}, "has no option 'foo'"),
    "no-selector-to-train": ({"train_selector": True}, "'v_cast' has no selector"),
    "selector-missing": (OMNISIFT | {"selector": "gone"}, "no selector folder at gone"),
    "selector-of-a-file": (OMNISIFT | {"selector": "data.jsonl"}, "no selector folder at data.jsonl"),
    "distill-without-clips": (OMNISIFT | {"selector": "distill"}, "needs at least 2 clips, and data has 0"),
    "device": ({"device": "tpu"}, "unknown device 'tpu'"),
    "no-such-device": ({"device": "cuda"}, "'cuda' is not available"),
    "attention": ({"attn_implementation": "sdpaa"}, "unknown attention implementation 'sdpaa'"),
    "model": ({"model": "./gone"}, "gone"),
    "data": ({"data": ["gone.jsonl"]}, "no data at gone.jsonl"),
    "eval-data": ({"eval_data": ["gone.jsonl"]}, "no data at gone.jsonl"),
    "data-empty": ({"data": ["empty.jsonl"]}, "empty.jsonl has no rows"),
    "out-file": ({"output_dir": "data.jsonl"}, "data.jsonl is a file"),
    "out-below-a-file": ({"output_dir": "data.jsonl/x"}, "data.jsonl/x can't be written (not a directory)"),
    "out-proc": ({"output_dir": "/proc/omnisift"}, "/proc/omnisift can't be written"),
    "cache-file": ({"cache": "data.jsonl"}, "cache data.jsonl can't be written"),
    "processes": ({"processes": 8}, "8 processes should train together, but 1 are connected"),
    "lora-nothing": (
        {"language": "lora", "lora_target_modules": "nothing"},
        "match no module of this model: 'nothing'",
    ),
    "lora-encoder": ({"language": "lora", "lora_target_modules": ".*visual.*proj"}, "modules of the encoders"),
    "quantization": (
        {"language": "lora", "quantization": "quanto-int4"},
        "quantization must be one of bitsandbytes-int8, bitsandbytes-nf4, got 'quanto-int4'",
    ),
    "quantization-full": ({"quantization": "bitsandbytes-nf4"}, "language full, which trains the weights themselves"),
    "lora-off": ({"lora_rank": 8}, "lora_rank is given, but language is full"),
    "selector-rate-off": ({"selector_learning_rate": 1e-3}, "train_selector is false"),
    "tracker": ({"report_to": "wandbb"}, "no tracker named 'wandbb'; did you mean 'wandb'?"),
    "tracker-all": ({"report_to": ["all"]}, "no tracker named 'all'"),
    "tracker-package": ({"report_to": ["wandb"]}, "wandb can't be used"),
    "hub-no-selector": ({"hub_model_id": "me/x"}, "uploads the selector, and 'v_cast' has none"),
    "hub-name": (OMNISIFT | {"hub_model_id": "me/x/y"}, "'me/x/y' is no name of a repository"),
    "hub-offline": (OMNISIFT | {"hub_model_id": "me/x"}, "HF_HUB_OFFLINE is set"),
    "eval-strategy": ({"eval_strategy": "step"} | EVAL, "got 'step'; did you mean 'steps'?"),
    "eval-without-data": ({"eval_strategy": "steps"}, "eval_strategy is given and eval_data is not"),
    "eval-steps-without-data": ({"eval_steps": 5}, "eval_steps is given and eval_data is not"),
    "eval-steps-by-epoch": (
        {"eval_strategy": "epoch", "eval_steps": 5} | EVAL,
        "eval_steps needs eval_strategy: steps",
    ),
    "best-without-data": ({"load_best_model_at_end": True}, "load_best_model_at_end needs eval_data"),
    "best-by-epoch": ({"load_best_model_at_end": True, "eval_strategy": "epoch"} | EVAL, "needs eval_data and"),
    "best-unsaved": ({"load_best_model_at_end": True, "eval_steps": 3} | EVAL, "eval_steps is 3 and save_steps 100"),
    "best-metric": ({"metric_for_best_model": "acuracy"} | EVAL, "did you mean 'accuracy'?"),
    "key": ({"lerning_rate": 1e-3}, "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
    "language": ({"language": "Lora"}, "did you mean 'lora'?"),
    "eval-type": ({"eval_data": 3}, "eval_data must be one or more paths, got 3"),
    "tracker-type": ({"report_to": [1]}, "report_to must be one or more trackers, got [1]"),
}


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text((json.dumps(ROW) + "\n") * 3)
    Path("empty.jsonl").write_text("")
    return {
        "model": "nano", "data": ["data.jsonl"], "output_dir": "out", "retain": 0.25, "max_steps": 2,
        "selector": None, "compressor": "v_cast",
    }  # fmt: skip


def written(values: dict[str, Any]) -> Path:
    Path("recipe.yaml").write_text(json.dumps(values))
    return Path("recipe.yaml")


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_run_is_refused_before_the_model_is_loaded(
    name: str, good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "load_host", lambda *_: pytest.fail("the model was loaded"))
    changes, message = WRONG[name]
    before = sorted(Path().rglob("*"))
    with pytest.raises(OmniSiftError) as caught:
        fine_tune(load_train_recipe(written(good | changes)))
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert sorted(Path().rglob("*")) == sorted([*before, Path("recipe.yaml")])  # nothing half-written
    if name in ("device", "no-such-device", "processes", "cache-file", "out-below-a-file", "out-proc"):
        return  # of the machine that runs it
    with pytest.raises(OmniSiftError):
        plan_run(load_train_recipe(Path("recipe.yaml")))


def test_yaml_reads_no_as_false(good: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text(json.dumps(good)[:-1] + ', "eval_data": data.jsonl, "eval_strategy": no}')
    assert load_train_recipe(Path("recipe.yaml")).evaluates == "no"


def test_none_is_no_tracker(good: dict[str, Any]) -> None:
    path = Path("recipe.yaml")
    path.write_text(json.dumps(good | {"report_to": "none"}), encoding="utf-8")
    assert load_train_recipe(path).report_to is None


def test_the_name_of_a_device_is_checked_without_the_device(good: dict[str, Any]) -> None:
    path = Path("recipe.yaml")
    path.write_text(json.dumps(good | {"device": "cudaa"}), encoding="utf-8")
    with pytest.raises(UsageError, match="unknown device 'cudaa'"):
        plan_run(load_train_recipe(path))


def test_a_key_given_twice_is_refused(good: dict[str, Any]) -> None:
    Path("recipe.yaml").write_text("retain: 0.5\n" + "\n".join(f"{k}: {json.dumps(v)}" for k, v in good.items()))
    with pytest.raises(UsageError, match="the key 'retain' is given twice"):
        load_train_recipe(Path("recipe.yaml"))


def test_values_that_an_earlier_version_ignored_do_not_end_a_run(good: dict[str, Any]) -> None:
    fine_tune(load_train_recipe(written(good | {"max_steps": 1})))
    stored = Path("out/recipe.json")
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"lora_rank": 8}))
    assert fine_tune(load_train_recipe(written(good | {"lora_rank": 8}))).steps == 2


def test_accuracy_chooses_no_model_where_it_is_not_measured(
    good: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "eval_data": ["data.jsonl"]}
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match="not measured under FSDP; use loss"):
        fine_tune(load_train_recipe(written(good | best)))


def test_two_runs_in_one_folder(good: dict[str, Any]) -> None:
    with run_lock(Path("out")), pytest.raises(UsageError, match="another run is training in out; wait for it"):
        fine_tune(load_train_recipe(written(good)))
    assert [path.name for path in Path("out").iterdir()] == [LOCK]
    assert fine_tune(load_train_recipe(written(good))).finished


@pytest.mark.slow
def test_a_killed_run_leaves_no_lock(good: dict[str, Any]) -> None:
    code = (
        "import os, sys; from pathlib import Path; from omnisift.training.finetune.run_folder import run_lock\n"
        "with run_lock(Path('out')): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert fine_tune(load_train_recipe(written(good))).finished


def test_a_tracker_gets_the_log(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    seen: list[dict[str, Any]] = []

    class Tracker(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append({"run": args.run_name, **logs})

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mine", Tracker)
    changes = {"report_to": ["mine", "tensorboard"], "run_name": "a run", "eval_data": ["data.jsonl"]}
    fine_tune(load_train_recipe(written(good | changes)))
    assert {line["run"] for line in seen} == {"a run"}
    assert sum("loss" in line for line in seen) == 2
    assert sum("eval_loss" in line for line in seen) == 1
    assert len(list(Path("out/tensorboard").iterdir())) == 1  # once, although it is named


def test_no_tracker_by_default(good: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import integration_utils

    for name in list(integration_utils.INTEGRATION_TO_CALLBACK):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, name, lambda name=name: pytest.fail(name))
    assert fine_tune(load_train_recipe(written(good))).finished
    with pytest.raises(UsageError, match=r"^report_to: no tracker named 'mine'; known: azure_ml, "):
        check_trackers(["mine"])


def test_a_frozen_selector_is_not_sampled(tmp_path: Path) -> None:
    """REINFORCE, the default estimator, reads a batch four times and adds its reward to the loss."""
    from omnisift.training.finetune import TrainRecipe

    frozen = TrainRecipe("nano", ("x",), str(tmp_path), selector=None, retain=0.25)
    _, model = build(frozen)
    assert model.estimator is not None
    assert model.estimator.samples == 1
    trained = TrainRecipe("nano", ("x",), str(tmp_path), selector=None, retain=0.25, train_selector=True)
    _, model = build(trained)
    assert model.estimator is not None
    assert model.estimator.samples == 4


@pytest.mark.parametrize("language", ["full", "lora"])
def test_checkpointing_keeps_no_activations_of_the_frozen_encoders(language: str, tmp_path: Path) -> None:
    import torch

    from omnisift.training.data import load_samples
    from omnisift.training.finetune import TrainRecipe
    from omnisift.training.finetune.run import make_collator
    from omnisift.world.dataset import write_dataset

    write_dataset(tmp_path / "world", clips=1, seed=0, questions_per_clip=1, step=lambda: None)
    gradients: list[dict[str, torch.Tensor]] = []
    for checkpointing in (False, True):
        settings = TrainRecipe(
            "nano", (str(tmp_path / "world"),), "x", selector=None, retain=0.25, language=language,
            lora_dropout=0.0, gradient_checkpointing=checkpointing,
        )  # fmt: skip
        host, model = build(settings)
        outputs: list[bool] = []
        parts = model.attachment.adapter.parts
        for encoder in (parts.vision_encoder, parts.audio_encoder):
            assert encoder is not None
            for module in encoder.modules():
                module.register_forward_hook(
                    lambda _module, _inputs, output, seen=outputs: seen.append(getattr(output, "requires_grad", False))
                )
        batch = make_collator(settings, host.processor)(load_samples(Path(settings.data[0]))[:1])
        batch.pop("skipped")
        model.train()
        model(**batch).loss.backward()
        assert outputs
        assert not any(outputs)
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


@pytest.mark.parametrize("option", [["--tflops", "3"], ["--public"]])
def test_an_option_without_the_one_that_it_belongs_to(option: list[str], good: dict[str, Any]) -> None:
    from typer.testing import CliRunner

    from omnisift.cli.app import app

    result = CliRunner().invoke(app, ["train", str(written(good)), *option])
    assert isinstance(result.exception, UsageError)
    assert f"{option[0]} goes with --" in str(result.exception)
    assert not Path("out").exists()


def test_a_run_with_the_former_adapters_by_default_resumes(tmp_path: Path) -> None:
    now = TrainRecipe("nano", ("x",), str(tmp_path), retain=0.5, language="lora")
    save_recipe(replace(now, lora_target_modules=FORMER_LORA_TARGET_MODULES), tmp_path)
    save_recipe(now, tmp_path)
    with pytest.raises(UsageError, match="another lora_target_modules"):
        save_recipe(replace(now, lora_target_modules="q_proj"), tmp_path)
