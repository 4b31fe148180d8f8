"""--video-pruning-rate on vLLM's CPU backend: the first video stops the engine. Needs vllm and transformers only.

    python cpu_pruning.py          # vLLM unchanged
    python cpu_pruning.py --fix    # the flag of the runner is set by hand, and it works

The script makes a random Qwen2.5-VL of 0.2 M parameters in a temporary folder and downloads nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

import numpy as np
import torch
import transformers as hf
import vllm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ["<|end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
WIDTH, SIDE = 64, 56


def save_model(folder: str) -> None:
    """Save tokenizer, processor and weights in ``folder``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    byte_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=size), video_processor=hf.Qwen2VLVideoProcessor(size=size),
        tokenizer=tokenizer, chat_template="{{ messages }}",
    ).save_pretrained(folder)  # fmt: skip
    start, end, image, video = tokenizer.convert_tokens_to_ids(SPECIAL[1:])
    config = hf.Qwen2_5_VLConfig(
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 4, 4]},
        },
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip
    torch.manual_seed(0)
    hf.Qwen2_5_VLForConditionalGeneration(config).float().save_pretrained(folder)


def main() -> int:
    frames = np.random.default_rng(0).integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    metadata = {"fps": 2.0, "total_num_frames": 8, "frames_indices": list(range(8)), "duration": 4.0}
    prompt = {
        "prompt": "hello<|vision_start|><|video_pad|><|vision_end|>what is this?",
        "multi_modal_data": {"video": (frames, {**metadata, "do_sample_frames": False})},
    }
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder)
        llm = vllm.LLM(
            folder, dtype="float32", max_model_len=1024, enforce_eager=True, max_num_seqs=1, video_pruning_rate=0.5,
            limit_mm_per_prompt={"image": 0, "video": 1},
        )  # fmt: skip
        print(f"vllm {vllm.__version__}, transformers {hf.__version__}")
        if "--fix" in sys.argv:
            llm.collective_rpc(lambda worker: setattr(worker.model_runner, "is_multimodal_pruning_enabled", True))
        try:
            answer = llm.generate([prompt], vllm.SamplingParams(max_tokens=1), use_tqdm=False)[0]
        except (RuntimeError, ValueError) as error:
            print(f"{type(error).__name__}: {error}; from {type(error.__cause__).__name__}: {error.__cause__}")
            return 1
    print(f"it works: {len(answer.prompt_token_ids)} tokens in the prompt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
