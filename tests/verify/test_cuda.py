"""The checks of `omnisift verify` on a GPU: ``CUDA_VISIBLE_DEVICES=0 pytest -m cuda tests/verify``."""

from __future__ import annotations

import pytest
import torch

from omnisift.verify.checks import run_checks
from omnisift.verify.hosts import MODELS, TINY, ModelSpec

pytestmark = [pytest.mark.slow, pytest.mark.cuda]


@pytest.mark.parametrize("spec", [TINY, *MODELS.values()], ids=lambda spec: spec.name)
def test_checks_pass(spec: ModelSpec) -> None:
    assert torch.cuda.is_available(), "no CUDA device: run it with CUDA_VISIBLE_DEVICES=0 on a machine with a GPU"
    failed = [check for check in run_checks(spec, torch.device("cuda")) if check.status == "failed"]
    assert not failed, failed
