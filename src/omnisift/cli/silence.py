"""Keep the screen for what the user asked for."""

from __future__ import annotations

import logging
import os


def silence_libraries() -> None:
    """Keep the screen for the answer: the libraries' warnings about their own deprecations do not help a user here."""
    import warnings

    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def silence_profiler() -> None:
    """Keep torch's profiler from writing about itself to stderr. Heard only before torch is loaded."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
