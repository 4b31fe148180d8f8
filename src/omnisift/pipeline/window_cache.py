"""Find by their pixels the windows of a clip that stand still, whose tokens need not be encoded again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.pipeline.patch_pruning import check_side, token_grid, window_numbers
from omnisift.utils.parsing import shown


class WindowCache:
    """Find the windows of one clip that changed since they were last encoded.

    A window stands still if no patch of it differs from the last encoded one at its place by more than ``threshold``:
    slow changes add up until they count.

    Args:
        threshold: mean absolute difference of the 8-bit values of a patch.
        side: tokens along one side of a window.

    Raises:
        UsageError: ``threshold`` is no number from 0 to 255, or ``side`` no integer above 0.
    """

    def __init__(self, threshold: float, side: int = 4) -> None:
        if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 <= threshold <= 255:
            raise UsageError(f"still_threshold is a difference of 8-bit values, from 0 to 255, got {shown(threshold)}")
        check_side(side)
        self.threshold, self.side = threshold, side
        self._encoded: Tensor | None = None

    def changed(self, patches: Tensor, grid: Sequence[int], merge: int) -> Tensor:
        """Compare the next time steps of the clip; what changed counts as encoded from then on.

        Args:
            patches, grid, merge: as `PatchPruner.places` takes them.

        Returns:
            [t, rows, columns] bool on the CPU: which tokens are to be encoded; all of the clip's first time step.

        Raises:
            UsageError: frames have another size than those before.
        """
        steps, rows, columns = token_grid(patches, grid, merge)
        window = window_numbers(rows, columns, self.side)
        frames = patches.view(steps, rows * columns, -1)
        if self._encoded is not None and self._encoded.shape != frames.shape[1:]:
            raise UsageError(f"frames of {rows} x {columns} tokens follow frames of another size: begin a new cache")
        changed = torch.ones(steps, rows * columns, dtype=torch.bool)
        for step, frame in enumerate(frames):
            if self._encoded is None:
                self._encoded = frame.clone()
                continue
            # The largest difference of a patch, for every token, and of that for every window.
            difference = (frame.to(torch.int16) - self._encoded).abs_().view(rows * columns, merge**2, -1)
            most = difference.mean(dim=2, dtype=torch.float32).amax(dim=1).cpu()
            most = torch.zeros(int(window.max()) + 1).scatter_reduce_(0, window, most, "amax")
            changed[step] = (most > self.threshold)[window]
            index = torch.nonzero(changed[step], as_tuple=True)[0].to(frame.device)
            self._encoded[index] = frame[index]
        return changed.view(steps, rows, columns)
