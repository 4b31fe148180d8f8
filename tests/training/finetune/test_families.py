"""Fine-tuning of every family: a tiny random checkpoint with its own processor, and generated clips."""

from __future__ import annotations

import json
import shutil
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers.family_folders import FACTORS, save_family
from tests.training.data.test_thinking import ONLY, TEMPLATES
from transformers import AutoProcessor
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CompressorError, OmniSiftError, UsageError
from omnisift.estimators import ESTIMATORS
from omnisift.models import adapter_class, adapter_for
from omnisift.pipeline import Pipeline
from omnisift.training.data import Turn
from omnisift.training.finetune import TrainRecipe, fine_tune, plan_run
from omnisift.training.finetune.building import build
from omnisift.training.finetune.run import make_collator, read_data
from omnisift.world.dataset import write_dataset

FAST = ["qwen3_omni_moe_thinker", "qwen3_vl"]
ALL = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FACTORS]
OMNI = "qwen3_omni_moe_thinker"
ONE_FAST = [OMNI, *(pytest.param(name, marks=pytest.mark.slow) for name in FACTORS if name != OMNI)]
QUESTION = "What colour is the circle?"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder, clips=2, seed=0, questions_per_clip=2, step=lambda: None)
    return folder


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's checkpoint, made when it is asked for."""
    root = tmp_path_factory.mktemp("families")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_family(name, root / name)

    return folder


def recipe(name: str, model: Path, data: Path, out: Path, **changes: Any) -> TrainRecipe:
    values: dict[str, Any] = {"compressor": "v_cast", "retain": 0.25, "max_steps": 2, "learning_rate": 1e-2}
    values |= {"per_device_train_batch_size": 2, "max_pixels": 16 * FACTORS[name] ** 2, "fps": 1.0, "warmup_ratio": 0.0}
    return TrainRecipe(str(model), (str(data),), str(out), **{**values, **changes})


def curve(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if "runtime" not in name} for line in lines]


MODES: dict[str, dict[str, Any]] = {
    "full": {"gradient_checkpointing": True},
    "lora": {"language": "lora", "lora_rank": 4, "compressor": "stvp"},
    "frozen": {"language": "frozen", "compressor": "omnisift", "selector": "new", "train_selector": True,
               "estimator": "straight_through"},
}  # fmt: skip


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ALL)
def test_a_trained_model_answers_as_it_did_in_memory(
    name: str, mode: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(name, folder_of(name), data, tmp_path / "run", **MODES[mode])
    check_answers(settings, data, monkeypatch)
    moved = changed(folder_of(name), tmp_path / "run" / "model")
    assert any("language_model.layers" in parameter for parameter in moved)
    assert not any("visual" in parameter or "audio_tower" in parameter for parameter in moved)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORS)
def test_self_distillation_from_a_copy_and_without_adapters(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    """Both teachers are the model before training, so that the first losses are equal; both runs learn."""
    changes = {"loss": "self_distillation", "retain_start": 0.9, "compressor": "v_cast"}
    losses = []
    for mode, more in (("full", {}), ("lora", {"lora_dropout": 0.0})):
        fine_tune(recipe(name, folder_of(name), data, tmp_path / mode, **MODES[mode] | changes | more))
        losses.append([line["loss"] for line in curve(tmp_path / mode)])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-3)
    assert min(map(min, losses)) > 0


def test_the_selector_of_qwen3_omni_learns_alone(
    folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(OMNI, folder_of(OMNI), data, tmp_path / "run", **MODES["frozen"])
    check_answers(settings, data, monkeypatch)
    assert not changed(folder_of(OMNI), tmp_path / "run" / "model")
    assert all(line["selector_grad_norm"] > 0 for line in curve(tmp_path / "run"))
    model = tmp_path / "run" / "model"
    command = ["ask", str(data / "clip-000000.mp4"), QUESTION, "--model", str(model), "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, [*command, "--max-pixels", str(settings.max_pixels)])
    assert result.exit_code == 0, result.output


def check_answers(settings: TrainRecipe, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train, and compare answers and logits of the model in memory with those of the saved one."""
    from omnisift.training.finetune import run

    built = list[Any]()
    monkeypatch.setattr(run, "build", lambda *args: built.append(build(*args)) or built[-1])
    report = fine_tune(settings)
    assert report.finished
    assert not report.skipped
    assert report.retained_ratio < 0.4
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in curve(Path(settings.output_dir)))
    host, model = built[0]
    model.attachment.detach()
    options = {"max_pixels": settings.max_pixels, "fps": settings.fps, "max_new_tokens": 6}
    in_memory = Pipeline(replace(host, thinker=host.thinker.eval()), model.compressor)
    loaded = omnisift.load(report.model, compressor=settings.compressor, retain=settings.retain)
    for clip in sorted(data.glob("*.mp4")):
        expected, found = (pipe.ask(clip, QUESTION, **options) for pipe in (in_memory, loaded))
        assert found.text == expected.text
        assert found.report.tokens == expected.report.tokens
    states = (pipe.host.thinker.state_dict() for pipe in (in_memory, loaded))
    first, second = ({name.replace(".base_layer", ""): value for name, value in state.items()} for state in states)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], value) for name, value in second.items())


def changed(before: Path, after: Path) -> set[str]:
    old, new = (omnisift.load(folder, compressor=None).host.thinker.state_dict() for folder in (before, after))
    return {name for name, value in old.items() if not torch.equal(value, new[name])}


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", ONE_FAST)
def test_a_stopped_run_resumes_to_the_same_curve(
    name: str, mode: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    changes = MODES[mode] | {"max_steps": 2, "save_steps": 1}
    settings = recipe(name, folder_of(name), data, tmp_path / "whole", **changes)
    fine_tune(settings)
    parts = replace(settings, output_dir=str(tmp_path / "parts"))
    # The schedule of a run that is stopped knows the full length; a copy of its first checkpoint is what it leaves.
    fine_tune(parts)
    for path in (tmp_path / "parts" / "checkpoint-2", tmp_path / "parts" / "model"):
        shutil.rmtree(path)
    fine_tune(parts)
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    weights = "model/model.safetensors"
    assert (tmp_path / "parts" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


@pytest.mark.parametrize("name", ONE_FAST)
def test_answers_are_generated_for_validation(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    """Clips, and rows of text beside them."""
    more = {"max_steps": 1, "eval_data": (str(data),), "per_device_eval_batch_size": 3}
    report = fine_tune(recipe(name, folder_of(name), data, tmp_path / "run", **more))
    assert report.eval_loss is not None
    assert report.eval_accuracy is not None


@pytest.mark.parametrize("name", ALL)
def test_labels_are_the_answers(name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder_of(name))
    collator = make_collator(recipe(name, folder_of(name), data, tmp_path / "run"), processor)
    samples = read_data(recipe(name, folder_of(name), data, tmp_path / "run"))[0].samples
    turns = Turn("user", "red"), Turn("assistant", "blue"), *samples[0].turns, Turn("user", "red")
    later = replace(samples[0], id="later", turns=turns, clip_at=(2, 0))
    words = replace(samples[0], id="words", media=None)
    rows = [samples[0], later, words]
    batch = collator(rows)
    assert not batch["skipped"]
    assert len(batch["frame_seconds"]) == 2
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    for sample, labels in zip(rows, batch["labels"], strict=True):
        answers = "".join(turn.text for turn in sample.turns if turn.role == "assistant").replace(" ", "")
        learned = labels[labels != -100]
        assert processor.tokenizer.decode(learned, skip_special_tokens=True).replace(" ", "") == answers
        assert int((learned == end).sum()) == sum(turn.role == "assistant" for turn in sample.turns)
    assert ("mm_token_type_ids" in batch) == (name != OMNI)
    assert ("use_audio_in_video" in batch) == (name == OMNI)


def rows_of(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


TALK = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "blue"}]}


@pytest.fixture(scope="module")
def odd(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clips with both, video alone and sound alone."""
    folder = tmp_path_factory.mktemp("odd")
    clip = data / "clip-000000.mp4"
    images = [Image.fromarray(np.full((96, 96, 3), 40 * shade, np.uint8)) for shade in range(4)]
    images[0].save(folder / "silent.gif", save_all=True, append_images=images[1:], duration=500)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(b"\0\x10" * 32_000)
    return {"both": clip, "silent": folder / "silent.gif", "sound": folder / "tone.wav"}


@pytest.mark.parametrize("name", ALL)
def test_batches_of_all_kinds_of_rows(
    name: str, folder_of: Callable[[str], Path], odd: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Video without sound, sound without video, and words, in one batch and alone."""
    videos = [dict(TALK, videos=[str(odd[kind])]) for kind in ("both", "silent")]
    data = rows_of(tmp_path / "rows.jsonl", *videos, dict(TALK, audios=[str(odd["sound"])]), TALK)
    for size in (4, 1):
        settings = recipe(name, folder_of(name), data, tmp_path / str(size), per_device_train_batch_size=size)
        report = fine_tune(replace(settings, max_steps=4 // size))
        assert all(line["loss"] == line["loss"] for line in curve(tmp_path / str(size)))
        # As in asking: without the sound of a clip, and not without all of it.
        if name == OMNI:
            assert not report.skipped
        else:
            assert list(report.skipped) == ["rows.jsonl:3"]
            assert "audio alone" in report.skipped["rows.jsonl:3"]
    assert ("the audio of the clips is left out" in caplog.text) == (name != OMNI)


def test_sound_without_video_is_compressed_when_asked(
    folder_of: Callable[[str], Path], odd: dict[str, Path], tmp_path: Path
) -> None:
    """Rows with sound alone, with a video and with words, in one batch: the loop checks that they were compressed."""
    row = dict(TALK, audios=[str(odd["sound"])])
    data = rows_of(tmp_path / "rows.jsonl", row, dict(TALK, videos=[str(odd["both"])]), TALK, row)
    changes = {"compressor": "resift", "compress_audio": True, "per_device_train_batch_size": 4, "max_steps": 1}
    report = fine_tune(recipe(OMNI, folder_of(OMNI), data, tmp_path / "run", **changes))
    assert not report.skipped
    assert all(line["loss"] == line["loss"] for line in curve(tmp_path / "run"))


def test_a_clip_named_as_audio_is_no_video_to_a_model_without_audio(
    folder_of: Callable[[str], Path], odd: dict[str, Path], tmp_path: Path
) -> None:
    heard = dict(TALK, audios=[str(odd["both"])])
    data = rows_of(tmp_path / "rows.jsonl", heard, TALK)
    settings = recipe("qwen3_vl", folder_of("qwen3_vl"), data, tmp_path / "run", max_steps=1)
    assert "named as audio, which this model does not take" in fine_tune(settings).skipped["rows.jsonl:1"]
    rows_of(data, heard, heard)
    with pytest.raises(UsageError, match="all rows name their clip as audio"):
        fine_tune(replace(settings, output_dir=str(tmp_path / "other")))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl", OMNI])
def test_the_compressor_is_told_when_frames_are(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    settings = recipe(name, folder_of(name), data, tmp_path / "run", fps=0.5)
    host, model = build(settings)
    batch = make_collator(settings, host.processor)(read_data(settings)[0].samples[:2])
    batch.pop("skipped")
    times: list[torch.Tensor] = []
    model.compressor.register_forward_pre_hook(lambda _, args: times.append(args[0].time))
    model(**batch)
    assert batch["frame_seconds"] == [4.0, 4.0]
    frames = times[0].unique()
    assert set((4.0 * torch.arange(2)).tolist()) <= set(frames.tolist())


@pytest.mark.parametrize("name", [each for each in ONE_FAST if "moe" in str(each)])
def test_the_load_balancing_loss_is_trained_where_the_model_asks_for_it(name: str, data: Path, tmp_path: Path) -> None:
    folder = save_family(name, tmp_path / name)
    plain = recipe(name, folder, data, tmp_path / "plain", max_steps=1, eval_data=(str(data),))
    fine_tune(plain)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"output_router_logits": True, "router_aux_loss_coef": 1.0}
    (folder / "config.json").write_text(json.dumps(config))
    report = fine_tune(replace(plain, output_dir=str(tmp_path / "run")))
    more = curve(tmp_path / "run")[0]["loss"] - curve(tmp_path / "plain")[0]["loss"]
    assert 1 <= more < 4  # 1 is a perfect balance, and 4 the number of experts
    # The cross-entropy of the evaluation does not count it, and Transformers can't generate with it.
    assert report.eval_accuracy is not None
    answer = omnisift.load(report.model, compressor="v_cast").ask(
        data / "clip-000000.mp4", QUESTION, max_pixels=plain.max_pixels, max_new_tokens=2
    )
    assert answer.text


def test_a_model_that_thinks_learns_to_answer_without(data: Path, tmp_path: Path) -> None:
    folder = save_family("qwen3_5", tmp_path / "qwen3_5")
    (folder / "chat_template.jinja").write_text(TEMPLATES["opens a block"])
    report = fine_tune(recipe("qwen3_5", folder, data, tmp_path / "run", max_steps=1))
    assert not report.skipped
    (folder / "chat_template.jinja").write_text(ONLY)
    for act in (fine_tune, plan_run):
        with pytest.raises(UsageError, match="lets every answer begin with <think>"):
            act(recipe("qwen3_5", folder, data, tmp_path / "only"))
    assert not (tmp_path / "only").exists()


WRONG: dict[str, tuple[str, dict[str, Any], type[OmniSiftError], str]] = {
    "no audio to learn by": ("qwen3_vl", {**MODES["frozen"]}, UsageError, "takes no audio, by which a selector learns"),
    "no weights": ("qwen2_vl", {"compressor": "omnisift", "selector": None}, CompressorError, "no selector weights"),
    "adapters in encoders": (OMNI, {"language": "lora", "lora_target_modules": r".*\.[qkv]_proj"}, UsageError,
                             "match .* modules of the encoders"),
    "adapters in vision": ("qwen3_vl", {"language": "lora", "lora_target_modules": r".*\.qkv"}, UsageError,
                           "match .* modules of the encoders"),
    "no such module": (OMNI, {"language": "lora", "lora_target_modules": r".*mlp\.up_proj"}, UsageError,
                       "match no module of this model"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_can_not_be_trained_is_named_before_anything_is_written(
    case: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    name, changes, kind, words = WRONG[case]
    settings = recipe(name, folder_of(name), data, tmp_path / "run", **changes)
    for act in (fine_tune, plan_run):
        with pytest.raises(kind, match=words) as caught:
            act(settings)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_adapters_in_other_places_than_the_recipe_says_are_refused(
    folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As PEFT would place them in mixtures of experts, where it changes patterns."""
    from omnisift.training.finetune import building

    found = building.check_lora_modules
    monkeypatch.setattr(building, "check_lora_modules", lambda *given: found(*given)[1:])
    with pytest.raises(UsageError, match=r"PEFT adapts model\..*layers\.0\.self_attn\.q_proj as well"):
        build(recipe("qwen2_vl", folder_of("qwen2_vl"), data, tmp_path, language="lora"))


@pytest.mark.parametrize("name", ONE_FAST)
def test_adapters_are_where_the_recipe_says(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    _, model = build(recipe(name, folder_of(name), data, tmp_path, language="lora"))
    adapted = {key.rpartition(".lora_A")[0] for key, _ in model.named_parameters() if "lora_A" in key}
    layers = adapter_for(model.thinker).config.get_text_config().num_hidden_layers
    assert all(f"language_model.layers.{layer}." in " ".join(adapted) for layer in range(layers))
    assert not any("visual" in key or "audio_tower" in key for key in adapted)
    assert any("linear_attn" in key for key in adapted) == name.startswith("qwen3_5")


@pytest.mark.slow
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_teaches_the_selector_of_qwen3_omni(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path
) -> None:
    changes = {**MODES["frozen"], "estimator": name, "max_steps": 1}
    fine_tune(recipe(OMNI, folder_of(OMNI), data, tmp_path, **changes))
    assert curve(tmp_path)[0]["selector_grad_norm"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORS)
def test_bfloat16_and_the_command(name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    settings = recipe(name, folder_of(name), data, tmp_path / "run", dtype="bfloat16", language="lora", max_steps=1)
    path.write_text(json.dumps({key: value for key, value in vars(settings).items() if value is not None}))
    for more in (["--dry-run"], []):
        result = CliRunner().invoke(app, ["train", str(path), *more])
        assert result.exit_code == 0, result.output
    clip = str(data / "clip-000000.mp4")
    command = ["ask", clip, QUESTION, "--model", str(tmp_path / "run" / "model"), "--compressor", "v_cast"]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "2", "--max-pixels", str(settings.max_pixels)])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", ALL)
def test_a_selector_is_distilled_first(
    name: str, folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of audio, or of video for a model without audio; the trained model is saved with it."""
    changes = {"compressor": "omnisift", "distill_steps": 3, "language": "lora"}
    settings = recipe(name, folder_of(name), data, tmp_path / "run", **changes)
    check_answers(settings, data, monkeypatch)
    parts = json.loads((tmp_path / "run" / "selector" / "report.json").read_text())["parts"]
    assert parts == (["audio"] if name == OMNI else ["video"])
    command = ["export", str(tmp_path / "run" / "model"), "--out", str(tmp_path / "alone")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    card = (tmp_path / "alone" / "README.md").read_text()
    assert f"of the class `{adapter_class(name).model_class}` with embeddings" in card
    assert f"chooses the {parts[0]} tokens" in card


def test_a_full_qwen3_omni_is_trained_as_its_thinker(
    folder_of: Callable[[str], Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Released checkpoints hold the thinker beside a talker; the trained model is the thinker alone."""
    folder = tmp_path / "full"
    shutil.copytree(folder_of(OMNI), folder)
    config = json.loads((folder / "config.json").read_text())
    full = {"model_type": "qwen3_omni_moe", "architectures": ["Qwen3OmniMoeForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps({**full, "thinker_config": config}))
    tensors = {f"thinker.{name}": value for name, value in load_file(folder / "model.safetensors").items()}
    save_file({**tensors, "talker.layers.0.weight": torch.zeros(2)}, folder / "model.safetensors", {"format": "pt"})
    settings = recipe(OMNI, folder, data, tmp_path / "run", language="lora")
    check_answers(settings, data, monkeypatch)
    assert plan_run(replace(settings, output_dir=str(tmp_path / "plan"))).trained > 0
