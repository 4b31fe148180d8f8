"""Two faults of GLM-4.1V to 4.6V with videos in Transformers. Needs torch and transformers only.

    python glm_videos.py beams         # beam search with a video
    python glm_videos.py mixed         # an image and a video in one call
    python glm_videos.py beams --fix   # the same with the suggested change made from outside: it works
    python glm_videos.py mixed --fix

The script makes random models of 0.1 M parameters and downloads nothing. Prompts are as the processor writes them: the
placeholders of a video have the id of images, and mm_token_type_ids tell them apart.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
import transformers as hf
from transformers.utils import logging

KINDS = ("Glm4v", "Glm4vMoe", "Glm46V", "GlmOcr")
IMAGE, VIDEO, START, END = 90, 91, 92, 93
MIXED = "mixed" in sys.argv


def make_model(kind: str) -> Any:
    """A random model whose frames and images are of 2 x 2 tokens."""
    text = {
        "vocab_size": 96, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "eos_token_id": None, "first_k_dense_replace": 1,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0,
        },
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4, "image_size": 32,
        "out_hidden_size": 32,
    }  # fmt: skip
    if kind == "Glm46V":
        text["model_type"], vision["model_type"] = "glm4v_text", "glm4v_vision"
    config = getattr(hf, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=IMAGE, video_token_id=VIDEO,
        image_start_token_id=START, image_end_token_id=END,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(hf, f"{kind}ForConditionalGeneration")(config).eval()


def make_inputs() -> dict[str, Any]:
    """A prompt with two frames and, if wanted, an image behind them."""
    frame = [START, *[IMAGE] * 4, END, 20]
    ids = torch.tensor([[10, 11, *frame * 2, 12, *(frame * MIXED), 13]])
    types = torch.where(ids == IMAGE, 2, 0)
    inputs = {"pixel_values_videos": torch.randn(32, 96), "video_grid_thw": torch.tensor([[2, 4, 4]])}
    if MIXED:
        types[0, 17:] = torch.where(ids[0, 17:] == IMAGE, 1, 0)
        inputs |= {"pixel_values": torch.randn(16, 96), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **inputs}


def fix(model: Any, inputs: dict[str, Any]) -> None:
    """Count a video's placeholders by the id that they have, and tell them from images by their types."""
    model.config.video_token_id = model.config.image_token_id
    if MIXED:
        types = inputs["mm_token_type_ids"][..., None]
        model.model.get_placeholder_mask = lambda *_, **__: (types == 1, types == 2)


def main() -> int:
    logging.set_verbosity_error()
    print(f"transformers {hf.__version__}, torch {torch.__version__.partition('+')[0]}")
    failed = 0
    for kind in KINDS:
        model, inputs = make_model(kind), make_inputs()
        if "--fix" in sys.argv:
            fix(model, inputs)
        try:
            with torch.no_grad():
                if MIXED:
                    result = model(**inputs).logits
                else:
                    result = model.generate(**inputs, max_new_tokens=2, num_beams=3, do_sample=False)
            print(f"{kind}: it works, {list(result.shape)}")
        except (RuntimeError, ValueError) as error:
            print(f"{kind}: {type(error).__name__}: {error}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
