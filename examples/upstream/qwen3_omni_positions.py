"""Compare vLLM's M-RoPE positions with Transformers' for Qwen3-Omni with use_audio_in_video.

It needs vllm and transformers only.

    python qwen3_omni_positions.py          # vLLM unchanged
    python qwen3_omni_positions.py --fix    # text after a clip continues behind its last run: fractions alone differ

The script makes a random model of 0.4 M parameters in a temporary folder and downloads nothing. Weights don't matter:
positions follow from the prompt and the sizes of the media.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}

import numpy as np
import torch
import transformers as hf
import vllm
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

NAMES = {"image_token": "<|image_pad|>", "audio_token": "<|audio_pad|>", "video_token": "<|video_pad|>"}
NAMES |= {"vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>"}
NAMES |= {"audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>"}
PROMPT = "hello<|vision_start|><|video_pad|><|vision_end|>what is this?"
WIDTH = 64
CASES = {
    "two images a second": (8, 64, 64, 2.0, 4.0),
    "1.77 images a second": (8, 64, 64, 1.77, 4.0),
    "frames wider than the audio is long": (2, 32, 640, 2.0, 1.0),
}
"""Name -> images, height, width, images per second, seconds of audio."""


def make_processor(folder: str) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    byte_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer, eos_token="<|end|>", pad_token="<|end|>", extra_special_tokens=NAMES
    )
    size = {"shortest_edge": 64 * 64, "longest_edge": 32 * 640}
    tokenizer.init_kwargs["size"] = size
    processor = hf.Qwen3OmniMoeProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=size, patch_size=16),
        video_processor=hf.Qwen2VLVideoProcessor(size=size, patch_size=16),
        feature_extractor=hf.WhisperFeatureExtractor(feature_size=128, return_attention_mask=True),
        tokenizer=tokenizer,
        chat_template="{{ messages }}",
    )
    processor.save_pretrained(folder)
    return processor


def make_model(folder: str, tokenizer: Any) -> Any:
    token_id = tokenizer.convert_tokens_to_ids
    thinker = hf.Qwen3OmniMoeThinkerConfig(
        audio_config={
            "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "output_dim": WIDTH, "downsample_hidden_size": 16,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH,
            "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 4096,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [6, 5, 5],
                                "mrope_interleaved": True},
        },
        audio_token_id=token_id("<|audio_pad|>"), image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"), audio_start_token_id=token_id("<|audio_start|>"),
        audio_end_token_id=token_id("<|audio_end|>"), position_id_per_seconds=13,
    )  # fmt: skip
    thinker.vision_start_token_id = token_id("<|vision_start|>")
    torch.manual_seed(0)
    model = hf.Qwen3OmniMoeThinkerForConditionalGeneration(thinker)
    model.save_pretrained(folder)
    stored = {f"thinker.{name}": tensor for name, tensor in _read(f"{folder}/model.safetensors").items()}
    save_file(stored, f"{folder}/model.safetensors", metadata={"format": "pt"})
    with open(f"{folder}/config.json", encoding="utf-8") as file:  # noqa: PTH123
        config = json.load(file)
    # vLLM reads these, which released checkpoints have.
    config["vision_config"] |= {"image_size": 64, "apply_vit_abs_pos_embed": True}
    config["text_config"]["tie_word_embeddings"] = False
    full = {"architectures": ["Qwen3OmniMoeForConditionalGeneration"], "model_type": "qwen3_omni_moe"}
    full |= {"enable_audio_output": False, "dtype": "float32", "thinker_config": config}
    with open(f"{folder}/config.json", "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(full, file)
    return model


def _read(path: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


def positions_of_transformers(
    model: Any, processor: Any, frames: np.ndarray, fps: float, audio: np.ndarray
) -> tuple[list[int], torch.Tensor]:
    """Ids of the prompt, and [3, S] positions, float32."""
    inputs = processor(
        text=[PROMPT], videos=[frames.transpose(0, 3, 1, 2)], audio=[audio], return_tensors="pt",
        videos_kwargs={"fps": fps, "do_sample_frames": False, "use_audio_in_video": True},
    )  # fmt: skip
    position, _ = model.get_rope_index(
        inputs["input_ids"], video_grid_thw=inputs["video_grid_thw"], attention_mask=inputs["attention_mask"],
        use_audio_in_video=True, audio_seqlens=inputs["feature_attention_mask"].sum(-1),
        second_per_grids=inputs["video_second_per_grid"],
    )  # fmt: skip
    return inputs["input_ids"][0].tolist(), position[:, 0]


def fixed_positions(compute: Any, marks: tuple[int, int], tokens: list[int], features: Any) -> tuple[Any, int]:
    """What ``compute`` should return, but for fractions: text continues behind the last run of one modality.

    For one video with audio.
    """
    position = compute(tokens, features)[0].clone()
    start, end = (tokens.index(mark) for mark in marks)
    last = end - 1
    while last > start + 1 and tokens[last - 1] == tokens[end - 1]:
        last -= 1
    position[:, end:] += position[:, last:end].max() + 1 - position[0, end]
    return position, int(position.max()) + 1 - len(tokens)


class Engine:
    """A running engine whose model's positions are recorded."""

    def __init__(self, folder: str, fix: bool) -> None:
        self.llm = vllm.LLM(folder, dtype="float32", max_model_len=2048, enforce_eager=True, max_num_seqs=1)
        self.recorded: list[torch.Tensor] = []

        def record(model: Any) -> None:
            original = model.get_mrope_input_positions
            marks = (model.config.audio_start_token_id, model.config.audio_end_token_id)

            def wrapper(tokens: list[int], features: Any) -> tuple[torch.Tensor, int]:
                result = fixed_positions(original, marks, tokens, features) if fix else original(tokens, features)
                self.recorded.append(result[0])
                return result

            model.get_mrope_input_positions = wrapper

        self.llm.apply_model(record)

    def positions(self, frames: np.ndarray, fps: float, audio: np.ndarray) -> tuple[list[int], torch.Tensor]:
        prompt = {
            "prompt": PROMPT,
            "multi_modal_data": {"video": frames, "audio": audio},
            "mm_processor_kwargs": {"use_audio_in_video": True, "fps": fps, "do_sample_frames": False},
        }
        answer = self.llm.generate([prompt], vllm.SamplingParams(max_tokens=1), use_tqdm=False)[0]
        return list(answer.prompt_token_ids), self.recorded[-1]


def compare(name: str, ids: list[int], expected: torch.Tensor, positions: torch.Tensor, names: list[str]) -> bool:
    """Print a case; returns whether positions differ."""
    wrong = (expected != positions).any(0)
    print(f"{name}: positions differ for {int(wrong.sum())} of {len(ids)} tokens")
    if not wrong.any():
        return False
    first = int(wrong.nonzero()[0])
    for index in [*range(first - 1, min(first + 2, len(ids))), len(ids) - 1]:
        reference = [round(value, 3) for value in expected[:, index].tolist()]
        print(f"{index:4} {names[index]:16} transformers {reference}  vllm {positions[:, index].tolist()}")
    return True


def main() -> int:
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        processor = make_processor(folder)
        model = make_model(folder, processor.tokenizer)
        engine = Engine(folder, "--fix" in sys.argv)
        print(f"vllm {vllm.__version__}, transformers {hf.__version__}")
        wrong = False
        for name, (images, height, width, fps, seconds) in CASES.items():
            frames = random.integers(0, 256, (images, height, width, 3), np.uint8)
            audio = random.standard_normal(int(16000 * seconds)).astype(np.float32)
            ids, expected = positions_of_transformers(model, processor, frames, fps, audio)
            vllm_ids, positions = engine.positions(frames, fps, audio)
            if ids != vllm_ids:
                print(f"{name}: the prompts differ")
            wrong |= compare(name, ids, expected, positions, processor.tokenizer.convert_ids_to_tokens(ids))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
