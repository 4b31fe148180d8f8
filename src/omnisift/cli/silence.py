"""Turn off the warnings and progress bars of libraries."""

from __future__ import annotations

import logging
import os


def silence_libraries() -> None:
    """Turn off Transformers' warnings and bars, and FutureWarnings: they are about code, not about the user's clip."""
    import warnings

    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def silence_profiler() -> None:
    """Turn off what torch's C++ side writes to stderr; takes effect only before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
