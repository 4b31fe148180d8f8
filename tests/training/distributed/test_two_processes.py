"""Two gloo processes on a CPU train as one does: DDP through accelerate, and FSDP2 through torch's `fully_shard`.

In every step at least one rank gets a ragged prompt: unequal clips, a video without audio, or text only. The loss over
the global batch must equal that of one process within `TOLERANCE` (float32).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

TOLERANCE = 1e-5
STEPS = 4


def steps() -> list[list[list[Any]]]:
    """Of each step, the prompt of each of two ranks."""
    from tests.helpers.models import Video

    heard, other = Video(frames=4, audio=90), Video(frames=2, height=3, audio=40)
    return [
        [[5, heard, 7], [9, other, 4]],
        [[3, other, 11], [6, Video(frames=3), 5]],  # the second rank has a video without sound
        [[30], [4, heard, 6]],  # the first rank has text alone
        [[8, heard, 3], [12]],
    ]


def model() -> Any:
    from tests.helpers.models import WIDTH, thinker

    from omnisift.budget import Budget
    from omnisift.compressors import make_compressor
    from omnisift.training.finetune import CompressedModel
    from omnisift.vgas import VGAS, VGASConfig

    host = thinker()
    torch.manual_seed(0)
    selector = VGAS(VGASConfig(input_size=WIDTH, hidden_size=16, num_attention_heads=2))
    compressor = make_compressor("omnisift", Budget(retain_video=0.5, retain_audio=0.4), selector=selector)
    return CompressedModel(host, compressor).train()


def batch(row: list[Any], seed: int) -> dict[str, Any]:
    from tests.helpers.models import FIRST_WORD, prompt

    inputs = prompt(row, mask=True, seed=seed)
    ids = inputs["input_ids"]
    inputs["labels"] = ids.masked_fill((ids < FIRST_WORD) | (torch.arange(ids.shape[1]) == 0), -100)
    return inputs


def labels_in(rows: list[dict[str, Any]]) -> int:
    return sum(int((row["labels"][:, 1:] != -100).sum()) for row in rows)


def train(compressed: Any, ranks: list[int], world: int, reduce: Any) -> list[float]:
    """The loss of each global batch; ``ranks`` are those whose prompts this process reads."""
    learns = [p for p in compressed.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=0.5)
    curve = []
    for number, prompts in enumerate(steps()):
        rows = [batch(row, 10 * number + rank) for rank, row in enumerate(prompts)]
        total = torch.tensor(labels_in(rows))
        optimizer.zero_grad()
        mine = torch.zeros(())
        for rank in ranks:
            cost = compressed(**rows[rank], num_items_in_batch=total)
            (cost.loss * world).backward()
            mine = mine + cost.sums.sum()
        if number == 0:
            check_gradients(getattr(compressed, "module", compressed))
        optimizer.step()
        curve.append(float(reduce(mine) / total))
    return curve


def check_gradients(compressed: Any) -> None:
    """Selector and language model both learn: a pair of equal curves would not notice if neither did."""
    from tests.helpers.models import language_model

    for weight in (compressed.selector.a_proj.weight, language_model(compressed.thinker).layers[0].mlp.up_proj.weight):
        local = weight.grad.to_local() if hasattr(weight.grad, "to_local") else weight.grad
        assert float(local.abs().sum()) > 0


def worker(way: str, out: Path) -> None:
    """One of two processes; rank 0 writes the curve."""
    import torch.distributed as dist

    from omnisift.training.finetune.guards import check_world

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    compressed = model()
    if way == "ddp":
        from accelerate import Accelerator, DistributedDataParallelKwargs

        accelerator = Accelerator(
            cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)]
        )
        wrapped = accelerator.prepare(compressed)
        assert type(wrapped).__name__ == "DistributedDataParallel"
    else:
        wrapped = shard(compressed)
    assert check_world() == 2

    def reduce(value: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(value)
        return value

    curve = train(wrapped, [dist.get_rank()], 2, reduce)
    if dist.get_rank() == 0:
        out.write_text(json.dumps(curve), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def shard(compressed: Any) -> Any:
    """FSDP2: each decoder layer a unit, the rest (selector included) the root."""
    import torch.distributed as dist
    from tests.helpers.models import language_model
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    for layer in language_model(compressed.thinker).layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(compressed, mesh=mesh)
    assert all(isinstance(parameter, DTensor) for parameter in compressed.parameters())
    return compressed


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return train(model(), [0, 1], 1, lambda value: value)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)])
def test_two_processes_give_the_curve_of_one(way: str, alone: list[float], tmp_path: Path) -> None:
    out = tmp_path / "curve.json"
    root = Path(__file__).parents[3]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        __file__,
        way,
        str(out),
    ]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(out.read_text())
    assert len(result) == STEPS
    assert result == pytest.approx(alone, abs=TOLERANCE)
    assert max(alone) - min(alone) > 0.1  # a curve, not a constant


if __name__ == "__main__":
    worker(sys.argv[1], Path(sys.argv[2]))
