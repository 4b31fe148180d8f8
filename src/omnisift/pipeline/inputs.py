"""Make the inputs of a model that the user loaded with Transformers: `omnisift.inputs`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.media.reading import Sampling
from omnisift.pipeline.prompt import build_inputs, read_for
from omnisift.utils.questions import check_question

if TYPE_CHECKING:
    from transformers import BatchFeature


def inputs(
    processor: Any,
    clip: str | Path | Media,
    question: str,
    *,
    fps: float = 2.0,
    max_frames: int | None = None,
    max_pixels: int | None = None,
    sampling: Sampling = "time",
    system: str | None = None,
) -> BatchFeature:
    """Read a clip and build what ``model.generate(**inputs)`` needs to answer a question about it.

    The tensors are on the CPU; ``inputs.to(model.device, model.dtype)`` moves them.

    Args:
        processor: the Qwen2.5-Omni processor of the model, as `AutoProcessor` loads it.
        clip: path of a media file, or what `omnisift.read` returned.
        question: a question in the model's language.
        fps: frames sampled per second; lowered for the whole clip where ``max_frames`` caps it.
        max_frames: maximum number of frames; None means 256, or 768 with ``qwen`` sampling.
        max_pixels: maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit.
        sampling: ``time``, or ``qwen`` for the index rule of published results.
        system: a system prompt; None sends none, as in the paper's evaluation.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape [1, L], the media tensors, and ``use_audio_in_video``.

    Raises:
        MediaError: the file cannot be read as asked.
        UsageError: an argument is out of range, ``processor`` is no processor, or the question is empty or contains a
            media placeholder.
    """
    check_question(question)
    if not hasattr(processor, "apply_chat_template") or not hasattr(processor, "tokenizer"):
        raise UsageError(
            f"inputs takes the processor of a Qwen2.5-Omni model, got {type(processor).__name__}: load it with "
            "AutoProcessor.from_pretrained"
        )
    media = clip
    if not isinstance(media, Media):
        media = read_for(processor, media, fps=fps, max_frames=max_frames, max_pixels=max_pixels, sampling=sampling)
    return build_inputs(processor, media, question, system)
