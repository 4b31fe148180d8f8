"""Count how often a host's encoders run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from omnisift.pipeline.loading import Host
from omnisift.pipeline.stopwatch import encoders_of


@contextmanager
def work_of_encoders(host: Host) -> Iterator[dict[str, int]]:
    """Count the runs of each encoder, by a hook on its first layer."""
    runs = dict.fromkeys(encoders_of(host.thinker), 0)

    def count(stage: str):
        def add(*_: object) -> None:
            runs[stage] += 1

        return add

    with ExitStack() as stack:
        for stage, encoder in encoders_of(host.thinker).items():
            layers = getattr(encoder, "layers", None) or encoder.blocks
            stack.callback(layers[0].register_forward_hook(count(stage)).remove)
        yield runs
