"""Keep Transformers from writing to the screen while it loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers(*, keep_progress: bool = False) -> Iterator[None]:
    """Hide warnings and progress bars of Transformers in the block, then restore the user's settings.

    Args:
        keep_progress: whether progress bars stay, for a block that may download.
    """
    from transformers.utils import logging

    verbosity, progress = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not keep_progress:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
