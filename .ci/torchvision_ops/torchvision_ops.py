"""Declare two operators of torchvision, so that its CUDA build can be imported with PyTorch's CPU build.

That build cannot load its compiled part there, and fails on import where it describes these operators. Transformers
calls none of them: it uses torchvision's transforms, which are Python. `nox -s vllm` installs this package where
`import torchvision` fails, that is, with a package index that lacks torchvision's CPU build.
"""

from __future__ import annotations

import torch.library

LIBRARY = torch.library.Library("torchvision", "DEF")
"""Kept alive: the declarations end with it."""


def declare() -> None:
    """Declare the operators; PyTorch calls this at the end of its own import."""
    for name in ("nms", "qnms"):
        LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
