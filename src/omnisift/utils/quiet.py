"""Turn off the warnings and progress bars of libraries: in a block, or for the whole process."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_transformers(*, keep_progress: bool = False) -> Iterator[None]:
    """Hide warnings and progress bars of Transformers in the block, then restore the user's settings.

    Args:
        keep_progress: whether progress bars stay, for a block that may download.
    """
    from transformers.utils import logging as hf_logging

    verbosity, progress = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    if not keep_progress:
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if progress:
            hf_logging.enable_progress_bar()


def silence_libraries() -> None:
    """Turn off Transformers' warnings and bars, and FutureWarnings: they are about code, not about the user's clip."""
    from transformers.utils import logging as hf_logging

    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def silence_quantization() -> None:
    """Turn off warnings of libraries that quantise, some of which come when Transformers imports them.

    bitsandbytes warns at every product that is not in float16.
    """
    for name in ("bitsandbytes", "logbar", "torch.utils._pytree", "torch.utils.cpp_extension"):
        logging.getLogger(name).setLevel(logging.ERROR)


def silence_profiler() -> None:
    """Turn off what torch's C++ side writes to stderr; takes effect only before torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
