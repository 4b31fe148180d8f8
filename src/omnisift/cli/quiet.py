"""Keep the screen for what the user asked for."""

from __future__ import annotations

import logging


def hush_libraries() -> None:
    """Keep the screen for the answer: the libraries' warnings about their own deprecations do not help a user here."""
    import warnings

    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
