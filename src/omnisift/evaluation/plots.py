"""Style and files of plots, the same for all SVG files; needs matplotlib (extra ``eval``)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.utils.atomic_io import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_style(font_size: float = 9) -> AbstractContextManager[None]:
    """Return the context in which a plot is drawn and saved: equal data give equal bytes, and text stays text.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl

    style: Any = {"svg.hashsalt": "omnisift", "svg.fonttype": "none", "font.size": font_size}
    return mpl.rc_context(style)


def save_svg(figure: Figure, path: Path, identifier: str | None = None) -> None:
    """Write a figure as SVG atomically, without a date.

    Args:
        figure: The figure.
        path: The file.
        identifier: Digest of the plot's data, stored in the file so that a test can tell when it is stale.
    """
    metadata = {"Date": None} if identifier is None else {"Date": None, "Identifier": identifier}
    with atomic_file(path) as unfinished:
        figure.savefig(unfinished, format="svg", metadata=metadata)
