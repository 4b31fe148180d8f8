"""Adapters for hosts with ``video_grid_thw`` whose language model has one row of positions."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from omnisift.models.grid_adapter import GridAdapter


class OneRowGridAdapter(GridAdapter):
    """Clips from grids, places in one row. The attention of the encoders is not read."""

    rotary_rows: ClassVar[int] = 1
    supplies: ClassVar[frozenset[str]] = frozenset()

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: a token is of ``merge_size`` or ``spatial_merge_size`` patches each way."""
        vision = self.config.vision_config
        merge = int(getattr(vision, "merge_size", None) or vision.spatial_merge_size)
        return patches // patches.new_tensor([1, merge, merge])
