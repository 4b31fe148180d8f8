"""Compare vLLM's M-RoPE positions with Transformers' for Qwen2.5-Omni with use_audio_in_video.

It needs vllm and transformers only.

    python omni_positions.py          # vLLM unchanged
    python omni_positions.py --fix    # computed without the marks around the audio, which are put back: all equal

The script makes a random model of 0.7 M parameters in a temporary folder and downloads nothing. Weights don't matter:
positions follow from the prompt and the sizes of the media.
"""

from __future__ import annotations

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
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.qwen2_5_omni import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

NAMES = {"image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>"}
NAMES |= {"vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>"}
NAMES |= {"audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>"}
PROMPT = "hello<|vision_bos|><|VIDEO|><|vision_eos|>what is this?"
WIDTH, SIDE = 64, 56


def make_processor(folder: str) -> Any:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    byte_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_tokenizer.decoder = decoders.ByteLevel()
    tokenizer = hf.PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer, eos_token="<|end|>", pad_token="<|end|>", extra_special_tokens=NAMES
    )
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    tokenizer.init_kwargs["size"] = size
    processor = hf.Qwen2_5OmniProcessor(
        image_processor=hf.Qwen2VLImageProcessor(size=size),
        video_processor=hf.Qwen2VLVideoProcessor(size=size),
        feature_extractor=hf.WhisperFeatureExtractor(feature_size=128, return_attention_mask=True),
        tokenizer=tokenizer,
        chat_template="{{ messages }}",
    )
    processor.save_pretrained(folder)
    return processor


def make_model(folder: str, tokenizer: Any) -> Any:
    token_id = tokenizer.convert_tokens_to_ids
    thinker = Qwen2_5OmniThinkerConfig(
        audio_config={
            "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32,
            "output_dim": WIDTH,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 4, 4]},
        },
        audio_token_index=token_id("<|AUDIO|>"), image_token_index=token_id("<|IMAGE|>"),
        video_token_index=token_id("<|VIDEO|>"), audio_start_token_id=token_id("<|audio_bos|>"),
        audio_end_token_id=token_id("<|audio_eos|>"), position_id_per_seconds=25, seconds_per_chunk=2,
    )  # fmt: skip
    thinker.vision_start_token_id, thinker.vision_end_token_id = token_id("<|vision_bos|>"), token_id("<|vision_eos|>")
    torch.manual_seed(0)
    model = Qwen2_5OmniThinkerForConditionalGeneration(thinker)
    config = hf.Qwen2_5OmniConfig(thinker_config=thinker.to_dict(), enable_audio_output=False, dtype="float32")
    config.architectures = ["Qwen2_5OmniModel"]
    config.save_pretrained(folder)
    tensors = {f"thinker.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    from safetensors.torch import save_file

    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": "pt"})
    return model


def positions_of_transformers(
    model: Any, processor: Any, frames: np.ndarray, audio: np.ndarray
) -> tuple[list[int], torch.Tensor]:
    """Ids of the prompt, and [3, S] positions."""
    inputs = processor(
        text=[PROMPT], videos=[frames.transpose(0, 3, 1, 2)], audio=[audio], return_tensors="pt",
        videos_kwargs={"fps": 2.0, "do_sample_frames": False, "use_audio_in_video": True},
    )  # fmt: skip
    position, _ = model.get_rope_index(
        inputs["input_ids"], video_grid_thw=inputs["video_grid_thw"], attention_mask=inputs["attention_mask"],
        use_audio_in_video=True, audio_seqlens=inputs["feature_attention_mask"].sum(-1),
        second_per_grids=inputs["video_second_per_grid"],
    )  # fmt: skip
    return inputs["input_ids"][0].tolist(), position[:, 0].long()


def fixed_positions(compute: Any, marks: tuple[int, int], tokens: list[int], features: Any) -> tuple[torch.Tensor, int]:
    """What ``compute`` should return: audio_bos at the position of vision_bos, audio_eos at that of vision_eos.

    For one video with audio, whose placeholder begins at audio_bos: without it, its first token is at that offset.
    """
    inside = [token not in marks for token in tokens]
    without_marks, _ = compute([token for token, kept in zip(tokens, inside, strict=True) if kept], features)
    bos, eos = (tokens.index(mark) for mark in marks)
    source = [sum(inside[:index]) for index in range(len(tokens))]
    source[bos], source[eos] = source[bos] - 1, source[eos]
    position = without_marks[:, source]
    return position, int(position.max()) + 1 - len(tokens)


def positions_of_vllm(folder: str, frames: np.ndarray, audio: np.ndarray, fix: bool) -> tuple[list[int], torch.Tensor]:
    """The same from a running engine, recorded when it calls its model's method."""
    llm = vllm.LLM(folder, dtype="float32", max_model_len=2048, enforce_eager=True, max_num_seqs=1)
    recorded: list[torch.Tensor] = []

    def record(model: Any) -> None:
        original, marks = (
            model.get_mrope_input_positions,
            (model.config.audio_start_token_id, model.config.audio_end_token_id),
        )

        def wrapper(tokens: list[int], features: Any) -> tuple[torch.Tensor, int]:
            result = fixed_positions(original, marks, tokens, features) if fix else original(tokens, features)
            recorded.append(result[0])
            return result

        model.get_mrope_input_positions = wrapper

    llm.apply_model(record)
    prompt = {
        "prompt": PROMPT,
        "multi_modal_data": {"video": frames, "audio": audio},
        "mm_processor_kwargs": {"use_audio_in_video": True, "fps": 2.0},
    }
    answer = llm.generate([prompt], vllm.SamplingParams(max_tokens=1), use_tqdm=False)[0]
    return list(answer.prompt_token_ids), recorded[-1]


def main() -> int:
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (8, SIDE, SIDE, 3), np.uint8)
    audio = random.standard_normal(4 * 16000).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        processor = make_processor(folder)
        model = make_model(folder, processor.tokenizer)
        ids, expected = positions_of_transformers(model, processor, frames, audio)
        vllm_ids, positions = positions_of_vllm(folder, frames, audio, "--fix" in sys.argv)
    wrong = (expected != positions).any(0)
    names = processor.tokenizer.convert_ids_to_tokens(ids)
    print(f"vllm {vllm.__version__}, transformers {hf.__version__}; prompts equal: {ids == vllm_ids}")
    print(f"positions differ for {int(wrong.sum())} of {len(ids)} tokens")
    first = int(wrong.nonzero()[0]) if wrong.any() else 0
    for index in range(max(0, first - 2), min(first + 6, len(ids))):
        reference, actual = expected[:, index].tolist(), positions[:, index].tolist()
        print(f"{index:4} {names[index]:16} transformers {reference}  vllm {actual}")
    print(f"last {names[-1]:16} transformers {expected[:, -1].tolist()}  vllm {positions[:, -1].tolist()}")
    return int(bool(wrong.any()))


if __name__ == "__main__":
    sys.exit(main())
