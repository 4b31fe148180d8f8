"""The checks of `omnisift verify` on a GPU: ``CUDA_VISIBLE_DEVICES=0 pytest -m cuda tests/verify``."""

from __future__ import annotations

import pytest
import torch

from omnisift.verify.checks import run_checks
from omnisift.verify.hosts import MODELS, TINY_MODELS, ModelSpec

pytestmark = [pytest.mark.slow, pytest.mark.cuda]


@pytest.mark.parametrize("spec", [*TINY_MODELS.values(), *MODELS.values()], ids=lambda spec: spec.name)
def test_checks_pass(spec: ModelSpec) -> None:
    assert torch.cuda.is_available(), "no CUDA device: run it with CUDA_VISIBLE_DEVICES=0 on a machine with a GPU"
    reason = spec.missing_memory(torch.cuda.get_device_properties(0).total_memory)
    if reason is not None:
        pytest.skip(reason)
    failed = [check for check in run_checks(spec, torch.device("cuda")) if check.status == "failed"]
    assert not failed, failed
