"""For an environment that pairs PyTorch for CPUs with a torchvision built for CUDA: declare two of its operators.

Such a torchvision can't load its compiled part, and then fails on import where it describes operators that are missing.
Nothing here calls them: Transformers uses its transforms, which are Python. ``make vllm-env`` installs this file only
where ``import torchvision`` fails.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any

OPERATORS = ("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)
OPERATORS += ("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",)


class Declarer(importlib.abc.MetaPathFinder):
    """Acts once, just before torchvision is first imported; finds nothing itself."""

    library: Any = None  # kept alive: the declarations go with it

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:  # noqa: ARG002
        """Declare the operators if torchvision is wanted."""
        if name != "torchvision":
            return
        sys.meta_path.remove(self)
        import torch

        Declarer.library = torch.library.Library("torchvision", "DEF")
        for operator in OPERATORS:
            Declarer.library.define(operator)


sys.meta_path.insert(0, Declarer())
