"""Fine-tuning on a small data set: what is trained, what is logged, what stops a run, and that a run resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from omnisift.errors import BudgetError, TrainingError, UsageError
from omnisift.estimators import ESTIMATORS
from omnisift.training.finetune import TrainRecipe, fine_tune, load_train_recipe
from omnisift.training.finetune.building import build
from omnisift.training.finetune.checkpoints import MARKER, is_complete, newest_checkpoint
from omnisift.training.finetune.guards import check_world
from omnisift.training.finetune.recipe import current_values, recipe_of
from omnisift.training.finetune.run_folder import save_recipe
from omnisift.training.finetune.trainer import entropy
from omnisift.world.dataset import write_dataset

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes" / "train").glob("*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=3, seed=0, questions_per_clip=2, step=lambda: None)
    return folder


def recipe(data: Path, out: Path, **changes: Any) -> TrainRecipe:
    values = {
        "selector": None,
        "train_selector": True,
        "estimator": "straight_through",
        "retain": 0.25,
        "max_steps": 3,
        "learning_rate": 1e-4,
    }
    return TrainRecipe(
        "nano", (str(data),), str(out), **{**values, "per_device_train_batch_size": 2, "save_steps": 2, **changes}
    )


def curve(out: Path) -> list[dict[str, Any]]:
    """The lines of the log, without what depends on the clock."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "runtime" not in name} for line in lines]


def parameters(module: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def changed(before: dict[str, torch.Tensor], module: Any) -> set[str]:
    return {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}


def test_full_fine_tuning_changes_language_model_and_selector_and_no_encoder(data: Path, tmp_path: Path) -> None:
    import omnisift

    before = omnisift.load("nano", compressor="omnisift")
    report = fine_tune(recipe(data, tmp_path / "run", selector_learning_rate=1e-3))
    assert report.finished
    assert report.steps == 3
    assert report.retained_ratio == pytest.approx(0.256, abs=0.01)
    after = omnisift.load(report.model)
    assert after.compressor.reason == "default: the checkpoint has an OmniSIFT selector"
    moved = changed(parameters(before.host.thinker), after.host.thinker)
    assert any("layers.0.self_attn" in name for name in moved)
    assert not any(".visual." in name or ".audio_tower." in name for name in moved)
    assert changed(parameters(before.compressor), after.compressor)
    line = curve(tmp_path / "run")[0]
    assert line["step"] == 1
    assert 0 < line["selector_entropy"] <= 1
    assert line["selector_grad_norm"] > 0
    assert line["retained_video"] == pytest.approx(0.25)
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_number_of_tokens(data: Path, tmp_path: Path) -> None:
    """Also one that no clip reaches, and one below the frames of a clip."""
    for tokens, ratio in ((60, 60 / 246), (1000, 1.0), (5, 5 / 246)):
        report = fine_tune(recipe(data, tmp_path / str(tokens), retain=None, tokens=tokens, max_steps=1))
        assert report.retained_ratio == pytest.approx(ratio)
    with pytest.raises(BudgetError, match="tokens was given with retain"):
        recipe(data, tmp_path / "both", tokens=5)


def test_lora_adapts_only_the_language_model_and_is_merged_at_the_end(data: Path, tmp_path: Path) -> None:
    import omnisift

    settings = recipe(data, tmp_path / "run", language="lora", train_selector=False, lora_rank=4)
    _, model = build(settings)
    learns = [name for name, p in model.named_parameters() if p.requires_grad]
    assert learns
    assert all("lora_" in name for name in learns)
    assert not any("visual" in name or "audio_tower" in name for name in learns)
    report = fine_tune(settings)
    host = omnisift.load(report.model).host
    assert not any("lora" in name for name in host.thinker.state_dict())
    assert changed(parameters(omnisift.load("nano").host.thinker), host.thinker)


def test_the_selector_of_a_pair_learns_and_is_saved(data: Path, tmp_path: Path) -> None:
    from omnisift.vgas import VGAS

    settings = recipe(data, tmp_path, compressor="v_cast+omnisift", language="frozen", max_steps=1, estimator="gumbel")
    _, model = build(settings)
    assert model.estimator is not None
    assert model.estimator.name == "gumbel"
    before = parameters(model.selector)
    fine_tune(settings)
    assert curve(tmp_path)[0]["selector_grad_norm"] > 0
    assert changed(before, VGAS.from_pretrained(str(tmp_path / "model" / "selector")))


QUICK = ("straight_through", "reinforce")
"""The paper's estimator and one that samples; the others are for the slow suite."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in ESTIMATORS]
)
def test_the_selector_alone_learns_by_every_estimator(name: str, data: Path, tmp_path: Path) -> None:
    settings = recipe(data, tmp_path / "run", language="frozen", estimator=name, selector="new", max_steps=1)
    fine_tune(settings)
    (line,) = curve(tmp_path / "run")
    assert line["selector_grad_norm"] > 0
    assert line["retained_video"] == pytest.approx(0.25)


def test_a_stopped_run_resumes_to_the_same_curve_and_weights(data: Path, tmp_path: Path) -> None:
    complete, parts = recipe(data, tmp_path / "whole", max_steps=4), recipe(data, tmp_path / "parts", max_steps=4)
    fine_tune(complete)
    stop_after(parts, steps=2)
    (tmp_path / "parts" / "checkpoint-2" / MARKER).with_name("model.part").write_text("torn")
    fine_tune(parts)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for name in ("model/model.safetensors", "model/selector/model.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def stop_after(settings: TrainRecipe, steps: int) -> None:
    """Run in this process until SIGTERM comes after ``steps`` steps."""
    from omnisift.training.finetune import trainer as module

    class Early(module.StopOnSigterm):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == steps:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.05)
            super().on_step_end(args, state, control, **kwargs)

    from omnisift.training.finetune import run

    before, run.StopOnSigterm = run.StopOnSigterm, Early  # type: ignore[misc]
    try:
        report = fine_tune(settings)
    finally:
        run.StopOnSigterm = before  # type: ignore[misc]
    assert not report.finished
    assert report.steps == steps


def test_an_incomplete_checkpoint_is_deleted(data: Path, tmp_path: Path) -> None:
    fine_tune(recipe(data, tmp_path))
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    weights = tmp_path / "checkpoint-3" / "language" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert not is_complete(tmp_path / "checkpoint-3")
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    assert not (tmp_path / "checkpoint-3").exists()
    (tmp_path / "checkpoint-2" / MARKER).unlink()
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.slow
def test_killed_at_random_moments_it_reaches_the_same_curve(data: Path, tmp_path: Path) -> None:
    settings = {"max_steps": 6, "save_steps": 1}
    fine_tune(recipe(data, tmp_path / "whole", **settings))
    out, kills = tmp_path / "killed", 0
    command = [sys.executable, "-m", "omnisift.cli", "train", str(ROOT / "recipes/train/nano.yaml"), "--out", str(out)]
    values = {
        "data": f"[{data}]",
        "learning_rate": 1e-4,
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "save_steps": 1,
        "train_selector": "true",
    }
    values |= {"estimator": "straight_through", "selector": "null"}
    for name, value in values.items():
        command += ["--set", f"{name}={value}"]
    for attempt in range(40):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            code = process.wait(timeout=6 + 1.7 * attempt % 9)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if attempt % 2 else signal.SIGTERM)
            process.wait()
            kills += 1
            continue
        if code == 0:
            break
        assert code == 143, code  # 143 is SIGTERM; anything else is a failure
    assert kills >= 2
    assert curve(out) == curve(tmp_path / "whole")
    model = "model/model.safetensors"
    assert (out / model).read_bytes() == (tmp_path / "whole" / model).read_bytes()


def test_a_run_without_compression_is_stopped(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnisift.training.finetune import run

    def detached(settings: TrainRecipe, _: Any) -> Any:
        host, model = build(settings)
        model.attachment.detach()
        return host, model

    monkeypatch.setattr(run, "build", detached)
    with pytest.raises(TrainingError, match=r"^training without compression: a prompt with video bypassed"):
        fine_tune(recipe(data, tmp_path))


def test_a_run_whose_compression_ends_midway_is_stopped(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from omnisift.training.finetune import trainer as module

    note = module.CompressedTrainer._record_selection

    def losing(self: Any) -> None:
        note(self)
        if self.state.global_step == 1:
            self.compressed.attachment.detach()

    monkeypatch.setattr(module.CompressedTrainer, "_record_selection", losing)
    with pytest.raises(TrainingError, match=r"^training without compression: a prompt with video bypassed"):
        fine_tune(recipe(data, tmp_path, max_steps=4))
    assert len(curve(tmp_path)) == 2


def test_a_selector_without_gradient_ends_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omnisift.estimators import Choice
    from omnisift.training.finetune import guards

    def deaf(self: Any, logits: torch.Tensor, count: torch.Tensor, valid: Any = None) -> Choice:
        return Choice(row_topk(logits, count, valid))

    from omnisift.estimators.straight_through import StraightThrough
    from omnisift.ops.topk import row_topk

    monkeypatch.setattr(StraightThrough, "choose", deaf)
    monkeypatch.setattr(guards.SelectorGuard.__init__, "__defaults__", (2,))
    with pytest.raises(
        TrainingError, match=r"^the selector got no gradient for 2 steps with audio under estimator 'straight_through'"
    ):
        fine_tune(recipe(data, tmp_path, max_steps=5))
    fine_tune(recipe(data, tmp_path / "kept", max_steps=3, train_selector=False))  # a frozen selector needs no gradient


def test_unconnected_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_world() == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="2 processes should train together, but 1 are connected"):
        check_world()


def test_bad_clips_and_rows_of_text_do_not_stop_a_run(data: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "blue"}]}]
    rows += [dict(rows[0], videos=[name]) for name in ("gone.mp4", str(data / "clip-000000.mp4"))]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = fine_tune(recipe(path, tmp_path / "run", per_device_train_batch_size=1, max_steps=6))
    assert list(report.skipped) == ["rows.jsonl:2"]
    assert report.finished
    assert all(line["loss"] == line["loss"] for line in curve(tmp_path / "run"))


def test_samples_skipped_in_worker_processes_are_counted(data: Path, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "blue"}]
    path = tmp_path / "rows.jsonl"
    names = ["gone.mp4", str(data / "clip-000000.mp4")]
    path.write_text("".join(json.dumps({"messages": talk, "videos": [name]}) + "\n" for name in names))
    report = fine_tune(
        recipe(path, tmp_path / "run", per_device_train_batch_size=1, max_steps=2, dataloader_num_workers=1)
    )
    assert list(report.skipped) == ["rows.jsonl:1"]


@pytest.mark.slow
def test_small_updates_are_not_lost_in_bfloat16(data: Path, tmp_path: Path) -> None:
    """At 1e-5 most bfloat16 weights would not change."""
    settings = recipe(
        data, tmp_path / "a", dtype="bfloat16", learning_rate=1e-5, warmup_ratio=0.0, max_steps=2, save_steps=1
    )
    _, model = build(settings)
    before = parameters(model)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert any(p.dtype == torch.bfloat16 for p in model.parameters())  # the encoders
    fine_tune(settings)
    _, after = build(settings)
    from omnisift.training.finetune.checkpoints import load_weights

    load_weights(after, tmp_path / "a" / "checkpoint-2")
    moved = [
        float((value != before[name]).float().mean()) for name, value in after.named_parameters() if "q_proj.w" in name
    ]
    assert max(moved) > 0.9
    stop_after(replace(settings, output_dir=str(tmp_path / "b")), steps=1)
    fine_tune(replace(settings, output_dir=str(tmp_path / "b")))
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    import omnisift

    assert omnisift.load(str(tmp_path / "a" / "model"), dtype="bfloat16").host.thinker.dtype == torch.bfloat16


def test_another_recipe_in_the_same_folder_is_refused(data: Path, tmp_path: Path) -> None:
    fine_tune(recipe(data, tmp_path, max_steps=1))
    with pytest.raises(UsageError, match=r"holds a run with another learning_rate \(0\.0001, now 0\.5\)"):
        fine_tune(recipe(data, tmp_path, max_steps=1, learning_rate=0.5))
    assert fine_tune(recipe(data, tmp_path, max_steps=2)).steps == 2  # more steps extend the run
    with pytest.raises(UsageError, match="holds a run of max_steps: 2, now 1: a resumed run can only get longer"):
        fine_tune(recipe(data, tmp_path, max_steps=1))
    with pytest.raises(UsageError, match="a resumed run can only get longer"):
        fine_tune(recipe(data, tmp_path, max_steps=None, num_train_epochs=3.0))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_load(path: Path) -> None:
    assert load_train_recipe(path).model


WRONG = {
    "model: nano": "'data' is missing; give it a value",
    "- 1": "must hold keys and values, got list",
    "model: [": "is not YAML",
    "{model: nano, data: x, output_dir: y, retian: 1}": "r.yaml: unknown key 'retian'; did you mean 'retain'?",
    "{model: nano, data: x, output_dir: y, learning_rate: 1e-5}": "YAML reads 1e-5 as text: write 1.0e-5",
    "{model: nano, data: x, output_dir: y, retain: 2.0}": "retain",
    "{model: nano, data: x, output_dir: y, retain: 0.5, max_steps: 1, num_train_epochs: 1}": "give max_steps or num",
    "{model: nano, data: x, output_dir: y, retain: 0.5, max_steps: 0}": "max_steps must be above 0, got 0",
    "{model: nano, data: x, output_dir: y, retain: 0.5, language: half}": "language must be one of full, lora, frozen",
    "{model: nano, data: x, output_dir: y, retain: 0.5, estimator: magic}": "no estimator named 'magic'",
    "{model: nano, data: 3, output_dir: y, retain: 0.5}": "data must be one or more paths, got 3",
    "{model: nano, data: x, output_dir: y, retain: 0.5, seed: '1'}": "seed must be an integer, got '1'",
    "{model: nano, data: x, output_dir: y, retain: 0.5, language: frozen, train_selector: false}": "nothing to train",
    "{model: nano, data: x, output_dir: y, retain: 0.5, selector: new}": "selector: new is random",
    "{model: nano, data: x, output_dir: y, retain: 0.5, dtype: float16}": "dtype must be one of float32, bfloat16, got",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_recipe_is_refused_in_one_line(text: str, tmp_path: Path) -> None:
    from omnisift.errors import OmniSiftError

    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OmniSiftError) as caught:
        load_train_recipe(path)
    assert WRONG[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pattern_that_hits_an_encoder_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^lora_target_modules match .* modules of the encoders, such as"):
        build(recipe(data, tmp_path, language="lora", lora_target_modules=r".*\.q_proj"))
    with pytest.raises(UsageError, match=r"^lora_target_modules match no module"):
        build(recipe(data, tmp_path, language="lora", lora_target_modules="nothing"))


def test_the_entropy_is_in_bits() -> None:
    scores, modality = torch.tensor([[0.5, 1.0, float("nan"), 0.1]]), torch.tensor([[2, 2, 2, 1]])
    assert entropy(scores, modality) == pytest.approx(0.5, abs=1e-6)
    assert entropy(None, modality) == 0.0


def test_accumulation_is_one_large_batch(data: Path, tmp_path: Path) -> None:
    """Four samples per step in four passes or in one: the same first loss, with answers of all lengths."""
    first = recipe(
        data,
        tmp_path / "a",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        max_steps=1,
        train_selector=False,
    )
    second = recipe(
        data,
        tmp_path / "b",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        max_steps=1,
        train_selector=False,
    )
    fine_tune(first)
    fine_tune(second)
    assert curve(tmp_path / "a")[0]["loss"] == pytest.approx(curve(tmp_path / "b")[0]["loss"], rel=1e-4)


def test_by_default_a_selector_is_distilled_once_and_kept(data: Path, tmp_path: Path) -> None:
    from omnisift.vgas import VGAS

    settings = TrainRecipe(
        "nano", (str(data),), str(tmp_path), retain=0.25, max_steps=1, distill_steps=5, learning_rate=1e-4
    )
    fine_tune(settings)
    first = (tmp_path / "selector" / "model.safetensors").read_bytes()
    kept = VGAS.from_pretrained(str(tmp_path / "model" / "selector")).state_dict()
    distilled = VGAS.from_pretrained(str(tmp_path / "selector")).state_dict()
    assert all(torch.equal(kept[name], value) for name, value in distilled.items())
    assert json.loads((tmp_path / "selector" / "report.json").read_text())["clips"] == {"taught": 2, "held out": 1}
    fine_tune(replace(settings, max_steps=2))
    assert (tmp_path / "selector" / "model.safetensors").read_bytes() == first


@pytest.mark.parametrize(
    "length", [{"max_steps": 2}, {"max_steps": None, "num_train_epochs": 0.5}], ids=["max_steps", "num_train_epochs"]
)
def test_a_run_killed_after_its_last_step_takes_no_further_step(length: Any, data: Path, tmp_path: Path) -> None:
    """Nine samples, two per step: half an epoch is three steps."""
    import shutil

    settings = recipe(data, tmp_path, save_steps=1, **length)
    steps = fine_tune(settings).steps
    assert steps == (2 if "num_train_epochs" not in length else 3)
    weights, before = tmp_path / "model" / "model.safetensors", curve(tmp_path)
    first = weights.read_bytes()
    shutil.rmtree(tmp_path / "model")
    again = fine_tune(settings)
    assert again.finished
    assert again.steps == steps
    assert curve(tmp_path) == before
    assert weights.read_bytes() == first


OLD = {
    "model": "nano", "data": ["x"], "out": "y", "retain": 0.5, "selector": "distil", "distil_steps": 7, "steps": 3,
    "batch_size": 2, "accumulation": 4, "rate": 1e-4, "selector_rate": 1e-3, "warmup": 0.1, "cycles": 0.5, "clip": 2.0,
    "estimator": "literal",
    "attn": "eager", "checkpointing": True, "log_steps": 5, "workers": 1, "lora_targets": "q_proj",
}  # fmt: skip


def test_former_keys_load_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(json.dumps(OLD))
    with pytest.warns(FutureWarning) as caught:
        result = load_train_recipe(path)
    (warning,) = caught
    assert "old.yaml: out is now output_dir, distil_steps is now distill_steps, " in str(warning.message)
    assert "selector: distil is now selector: distill, estimator: literal is now estimator: straight_through; " in str(
        warning.message
    )
    assert result == TrainRecipe(
        "nano", ("x",), "y", retain=0.5, selector="distill", estimator="straight_through", distill_steps=7, max_steps=3,
        per_device_train_batch_size=2, gradient_accumulation_steps=4, learning_rate=1e-4, selector_learning_rate=1e-3,
        warmup_ratio=0.1, num_cycles=0.5, max_grad_norm=2.0, attn_implementation="eager", gradient_checkpointing=True,
        logging_steps=5, dataloader_num_workers=1, lora_target_modules="q_proj",
    )  # fmt: skip


def test_a_key_and_its_former_name_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(json.dumps(OLD | {"learning_rate": 1e-3}))
    with pytest.raises(UsageError, match=r"both\.yaml: give learning_rate or rate, not both"):
        load_train_recipe(path)


def test_a_change_replaces_a_former_key_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(json.dumps(OLD))
    with pytest.warns(FutureWarning):
        assert load_train_recipe(path, {"learning_rate": 0.5}).learning_rate == 0.5


def test_a_saved_recipe_with_former_keys_resumes_silently(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(OLD | {"out": str(tmp_path)}))
    current, _ = current_values(OLD | {"out": str(tmp_path), "steps": 9}, "here")
    save_recipe(recipe_of(current, "here"), tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["max_steps"] == 9
    assert not recwarn.list


NANO = ROOT / "recipes" / "train" / "nano.yaml"


def test_errors_name_the_source_and_suggest_a_key(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--set: unknown key 'stpes'; did you mean 'max_steps'\?$"):
        load_train_recipe(NANO, {"stpes": 3})
    with pytest.raises(UsageError, match=r"^--set: unknown key 'zzz'; docs/fine-tuning.md lists all keys$"):
        load_train_recipe(NANO, {"zzz": 3})
    with pytest.raises(UsageError, match=r"^--set: max_steps must be an integer or null, got 'many'$"):
        load_train_recipe(NANO, {"max_steps": "many"})
    with pytest.raises(UsageError, match=r"^no recipe at nothere\.yaml; give the path of a YAML file"):
        load_train_recipe(Path("nothere.yaml"))
    with pytest.raises(UsageError, match=r"^can't read the recipe .*: is a directory$"):
        load_train_recipe(tmp_path)


def test_the_page_on_fine_tuning_lists_every_key() -> None:
    page = (ROOT / "docs" / "fine-tuning.md").read_text(encoding="utf-8")
    assert [field.name for field in fields(TrainRecipe) if f"`{field.name}`" not in page] == []


def test_progress_is_reported_for_every_stage(data: Path, tmp_path: Path) -> None:
    events: list[tuple[str, int, int]] = []
    settings = recipe(data, tmp_path, selector="distill", distill_steps=4, train_selector=False)
    fine_tune(settings, on_progress=lambda *event: events.append(event))
    assert events == [
        *(("recording attention", done, 3) for done in (1, 2, 3)),
        *(("training the selector", done, 4) for done in (1, 2, 3, 4)),
        *(("training", done, 3) for done in (1, 2, 3)),
    ]


def test_recipe_of_takes_one_path_as_well() -> None:
    assert recipe_of({"model": "nano", "data": "x", "output_dir": "y", "retain": 0.5}, "here").data == ("x",)
