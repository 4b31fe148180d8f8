"""`omnisift train` in two gloo processes learns what it learns in one: plain copies, FSDP2, DeepSpeed ZeRO-2.

accelerate reads both files of `recipes/accelerate`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.training.distributed.command import (
    ROOT,
    arguments,
    check_curve,
    check_learned,
    check_same,
    forget,
    launch,
    log_of,
    run_alone,
    torchrun,
    write_world,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    return folder


@pytest.fixture(scope="module")
def alone(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    run_alone(world, out)
    assert len({line["loss"] for line in log_of(out)}) == 3  # a curve, not a constant
    check_learned(out)
    return out


def two(world: Path, out: Path) -> list[str]:
    return ["train", *arguments(world), "--set", "processes=2", "--out", str(out)]


@pytest.mark.slow
def test_plain_copies(world: Path, alone: Path, tmp_path: Path) -> None:
    output = launch(torchrun("-m", "omnisift.cli", *two(world, tmp_path / "run")))
    assert output.count("omnisift ask") == 1  # the first process speaks for all
    check_same(tmp_path / "run", alone)


def fsdp2(world: Path, run: Path) -> list[str]:
    return torchrun(str(Path(__file__).parent / "fsdp_on_a_cpu.py"), *two(world, run))


@pytest.mark.slow
def test_fsdp2(world: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(fsdp2(world, run))
    assert len(list((run / "checkpoint-3/optimizer_0").glob("*.distcp"))) == 2  # each process wrote its shards
    check_same(run, alone)


@pytest.mark.slow
def test_fsdp2_interrupted(world: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launch(fsdp2(world, run))
    check_interrupted(fsdp2(world, run), run, alone, {})


@pytest.mark.slow
@pytest.mark.deepspeed
def test_zero2(world: Path, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [str(Path(sys.executable).with_name("accelerate")), "launch", "--num_processes", "2"]
    command += ["--config_file", str(ROOT / "recipes/accelerate/zero2.yaml"), "--mixed_precision", "no"]
    command += ["-m", "omnisift.cli", *two(world, run)]
    launch(command, {"DS_ACCELERATOR": "cpu"})
    parts = sorted((run / "checkpoint-3/global_step3").glob("zero_pp_rank_*_optim_states.pt"))
    assert len(parts) == 2  # the optimiser is shared out
    full = (alone / "checkpoint-3/optimizer.pt").stat().st_size
    assert all(part.stat().st_size < 0.8 * full for part in parts)
    check_same(run, alone)
    check_interrupted(command, run, alone, {"DS_ACCELERATOR": "cpu"})


def check_interrupted(command: list[str], run: Path, alone: Path, environment: dict[str, str]) -> None:
    """As if killed after a checkpoint, and after the last step before the model was written."""
    for lost in (("model", "checkpoint-3"), ("model",)):
        forget(run, *lost)
        launch(command, environment)
        check_same(run, alone)


def test_sharding_that_was_asked_for_and_is_not_there_is_an_error(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """accelerate trains plain copies on a CPU where FSDP was asked for."""
    from omnisift.cli import main

    command = ["train", *arguments(world), "--out", str(tmp_path / "run")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_FSDP", "true")
        patch.setattr(sys, "argv", ["omnisift", *command])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 2
    assert "error (TrainingError): the launcher requested FSDP" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_a_signal_to_one_process_is_known_to_all(tmp_path: Path) -> None:
    from torch.multiprocessing import spawn

    spawn(_ask, (str(tmp_path),), nprocs=2)
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == ["False True"] * 2


def _ask(rank: int, folder: str) -> None:
    """Write what this process is told when no process, and when the second one, got a signal."""
    import torch.distributed as dist

    from omnisift.training.finetune.trainer import any_process

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    told = [any_process(False), any_process(rank == 1)]
    (Path(folder) / str(rank)).write_text(" ".join(map(str, told)))
    dist.destroy_process_group()


def distilled(world: Path, out: Path, *changes: str) -> list[str]:
    """Own answers of all samples, of which each process makes a part, and a fraction kept that falls."""
    given = ["train", *arguments(world), "--out", str(out)]
    for pair in ("train_selector=false", "loss=self_distillation", "answers_from=model", "retain_start=0.6", *changes):
        given += ["--set", pair]
    return given


@pytest.mark.slow
@pytest.mark.parametrize("way", ["plain copies", "fsdp2"])
@pytest.mark.parametrize("language", [["language=full"], ["language=lora", "lora_dropout=0.0"]], ids=["full", "lora"])
def test_self_distillation(language: list[str], way: str, world: Path, tmp_path: Path) -> None:
    one, run = tmp_path / "one", tmp_path / "run"
    command = ["-m", "omnisift.cli"]
    launch([sys.executable, *command, *distilled(world, one, *language, "gradient_accumulation_steps=2")])
    script = command if way == "plain copies" else [str(Path(__file__).parent / "fsdp_on_a_cpu.py")]
    launch(torchrun(*script, *distilled(world, run, *language, "processes=2")))
    check_curve(run, one)
    answers = [sorted((folder / "answers.jsonl").read_text().splitlines()) for folder in (run, one)]
    assert answers[0] == answers[1]
    assert all(line["loss"] > 0 for line in log_of(run))
