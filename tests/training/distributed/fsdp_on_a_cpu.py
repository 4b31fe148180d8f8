"""`omnisift train` under FSDP2 on a CPU, configured by `recipes/accelerate/fsdp2.yaml`.

accelerate shards on GPUs only. Only that check is disabled here, so a CPU takes the branch of a GPU. The end asserts
that all parameters were sharded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[3] / "recipes/accelerate/fsdp2.yaml"


def configure() -> None:
    """The environment that `accelerate launch` makes of the file; float32, to compare curves."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    given = ["--config_file", str(FILE), "--mixed_precision", "no", "-m", "omnisift.cli"]
    read, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    wanted = ("FSDP_", "ACCELERATE_")
    os.environ.update({key: value for key, value in prepare_multi_gpu_env(read).items() if key.startswith(wanted)})


def lift() -> None:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    refusing = AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        refusing(self, *args, **kwargs)
        if kwargs.get("fsdp_plugin") is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.fsdp_plugin = kwargs["fsdp_plugin"]
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def watch() -> None:
    """Assert at every step that every parameter is sharded."""
    from torch.distributed.tensor import DTensor

    from omnisift.training.finetune import trainer

    log = trainer.CompressedTrainer.log

    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        assert all(isinstance(parameter, DTensor) for parameter in self.model.parameters())
        log(self, *args, **kwargs)

    trainer.CompressedTrainer.log = checked  # type: ignore[method-assign]


if __name__ == "__main__":
    from omnisift.cli import main

    configure()
    lift()
    watch()
    main()
