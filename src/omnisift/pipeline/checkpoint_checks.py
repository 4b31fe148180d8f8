"""Check a checkpoint before Transformers builds a model of it, and the processor after it is loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from omnisift.errors import CheckpointError
from omnisift.media import SAMPLE_RATE, Media
from omnisift.models import adapter_class, model_class
from omnisift.pipeline.clip_format import ClipFormat, pixel_limits
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality
from omnisift.utils.checkpoint_files import AGAIN, checkpoint_errors, read_json_object
from omnisift.utils.safetensors_files import check_size

if TYPE_CHECKING:
    from omnisift.pipeline.model_source import ModelSource

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json")
_MAX_NUMBERS = {
    "feature_size": 1024, "n_fft": 1 << 16, "hop_length": 1 << 16, "chunk_length": 3600, "patch_size": 256,
    "merge_size": 16, "temporal_patch_size": 16,
}  # fmt: skip
"""Integers of a processor's configuration, from 1 to these: far above any model's, so that a damaged file can't ask for
gigabytes of filters or patches."""

_SHARED_SIZES = {
    "patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size",
    "pooling_kernel_size": "pooling_kernel_size",
}  # fmt: skip
"""Sizes that a processor of videos shares with a vision encoder, which has them under the second name."""


def check_model_files(source: ModelSource) -> None:
    """Check a folder's configuration against its weights, from their headers alone.

    Transformers would otherwise first build the model of the configuration, whatever its size.

    Raises:
        CheckpointError: a file is broken, or the configuration describes a far larger model than the weights.
    """
    folder = Path(source.source)
    if not folder.is_dir():
        return  # a hub model: its files are only now downloaded
    generation = folder / "generation_config.json"
    if generation.is_file():
        read_json_object(generation)
    if source.stored_quantization is not None:
        return  # packed weights hold several numbers in one
    host_class = model_class(source.model_type)
    with checkpoint_errors(folder / "config.json"), torch.device("meta"):
        loaded = host_class.config_class.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
        check_values(loaded, folder / "config.json")
        skeleton = host_class(loaded)
    check_size(folder, skeleton)


def check_values(config: Any, path: Path) -> None:
    """Check values that Transformers takes and only fails on with a clip; absent ones are not read.

    Args:
        config: of the part that generates text.
        path: of the file, for messages.

    Raises:
        CheckpointError: a value is out of range.
    """
    text = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    rope = getattr(text, "rope_parameters", None) or {}
    # Where none are stated, the classes of Qwen2 and GLM have their own, and others take what fits.
    own = {"qwen2": [16, 24, 24], "glm": [8, 12, 12]} if adapter_class(config.model_type).rotary_rows > 1 else {}
    default = next((own[name] for name in own if text.model_type.startswith(name)), None)
    sections = rope.get("mrope_section") or default
    rotated = int(head_size * rope.get("partial_rotary_factor", 1.0))
    wrong = {
        "position_id_per_seconds": getattr(config, "position_id_per_seconds", 1) <= 0,
        "seconds_per_chunk": getattr(config, "seconds_per_chunk", 1) <= 0,
        "n_window": getattr(_audio_config(config), "n_window", 1) <= 0,
        "mrope_section": sections is not None and 2 * sum(sections) != rotated,
        "num_experts_per_tok": (getattr(text, "num_experts_per_tok", None) or 1)
        > (getattr(text, "num_experts", None) or math.inf),
        "vision_config": config.vision_config is None,
        "deepstack_visual_indexes": not _are_layers(config.vision_config),
    }
    for name in [name for name, is_wrong in wrong.items() if is_wrong]:
        raise CheckpointError(f"{path}: {name} is missing or out of range; {AGAIN}")


def _are_layers(vision: Any) -> bool:
    """Whether the layers of a vision encoder that enter the language model exist, each once."""
    layers = getattr(vision, "deepstack_visual_indexes", [])
    return len(set(layers)) == len(layers) and all(0 <= layer < vision.depth for layer in layers)


def _audio_config(config: Any) -> Any:
    """The configuration of the audio encoder; None for a model without one."""
    return getattr(config, "audio_config", None)


def check_generation(generation: Any, vocab_size: int, source: str) -> None:
    """Check what ``generate`` takes from a model's generation_config.json.

    Args:
        generation: the loaded configuration.
        vocab_size: of the language model.
        source: folder or hub id of the model.

    Raises:
        CheckpointError: a token id is not in the vocabulary, or decoding would not be greedy even without sampling.
    """
    for name in ("eos_token_id", "pad_token_id", "bos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        value = getattr(generation, name, None)
        ids = value if isinstance(value, list) else [value]
        if any(i is not None and (type(i) is not int or not 0 <= i < vocab_size) for i in ids):
            raise CheckpointError(
                f"{source}: {name} of generation_config.json is not a token id below {vocab_size}; {AGAIN}"
            )
    greedy = copy.deepcopy(generation)
    greedy.update(do_sample=False, num_beams=1, num_return_sequences=1)
    mode = str(greedy.get_generation_mode().value)
    if mode != "greedy_search":
        raise CheckpointError(
            f"{source}: generation_config.json asks for {mode.replace('_', ' ')}, but answers are decoded greedily; "
            "remove its settings for that"
        )


def check_processor_files(folder: Path) -> None:
    """Check the files of a folder's processor before they are loaded.

    Raises:
        CheckpointError: a file is no JSON object, or a size in it is out of range.
    """
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            read_json_object(folder / name)
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            _check_numbers(read_json_object(folder / name), folder / name)


def _check_numbers(part: Mapping[str, Any], path: Path) -> None:
    for key, value in part.items():
        if isinstance(value, Mapping):
            _check_numbers(value, path)
        elif key in _MAX_NUMBERS and not (type(value) is int and 1 <= value <= _MAX_NUMBERS[key]):
            raise CheckpointError(
                f"{path}: {key} must be an integer in [1, {_MAX_NUMBERS[key]}], got {value!r:.60}; {AGAIN}"
            )


def check_processor(processor: Any, config: Any, source: str) -> None:
    """Check a loaded processor: its class, its chat template, and its agreement with the model.

    Args:
        processor: what `AutoProcessor` loaded.
        config: the model's configuration.
        source: the checkpoint, for messages.

    Raises:
        CheckpointError: it is the processor of another model, or a file of it is wrong or missing.
    """
    parts = ["tokenizer", "video_processor", "video_token", "image_token"]
    if _audio_config(config) is not None:
        parts[1:1] = ["feature_extractor", "audio_token"]
    missing = [part for part in parts if not getattr(processor, part, None)]
    if missing:
        raise CheckpointError(
            f"the processor of {source} is a {type(processor).__name__} without {missing[0]}: save the processor of "
            "the model in its folder (processor_config.json, tokenizer_config.json, tokenizer.json)"
        )
    with checkpoint_errors(f"the processor of {source}"):
        _check_agreement(processor, config, source)
        _check_use(processor, config, source)


def _check_agreement(processor: Any, config: Any, source: str) -> None:
    """Sizes and placeholder tokens that processor and model must share."""
    video, vision = processor.video_processor, config.vision_config
    pairs = {
        name: (getattr(video, name), getattr(vision, of_model))
        for name, of_model in _SHARED_SIZES.items()
        if hasattr(video, name) and hasattr(vision, of_model)
    }
    tokens = {"video_token": config.video_token_id}
    audio = _audio_config(config)
    if audio is not None:
        extractor = processor.feature_extractor
        if extractor.sampling_rate != SAMPLE_RATE:
            raise CheckpointError(
                f"{source}: sampling_rate must be {SAMPLE_RATE}, got {extractor.sampling_rate}; {AGAIN}"
            )
        # Bands of the spectrogram; in Gemma 4 the first convolution has as many channels.
        bands = getattr(audio, "num_mel_bins", None) or next(
            iter(getattr(audio, "subsampling_conv_channels", ())), None
        )
        if bands is not None:
            pairs["feature_size"] = extractor.feature_size, bands
        tokens["audio_token"] = config.audio_token_id
    if hasattr(processor, "num_image_tokens"):
        pairs["size"] = dict(video.size), {"height": vision.image_size, "width": vision.image_size}
        pairs["num_image_tokens"] = processor.num_image_tokens, (vision.image_size // vision.patch_size) ** 2
        strategy = config.vision_feature_select_strategy
        pairs["vision_feature_select_strategy"] = processor.vision_feature_select_strategy or strategy, strategy
    ids = processor.tokenizer.convert_tokens_to_ids
    pairs |= {name: (ids(getattr(processor, name)), value) for name, value in tokens.items()}
    for name, (of_processor, of_model) in pairs.items():
        if of_processor != of_model:
            raise CheckpointError(
                f"{source}: {name} is {of_processor!r} for the processor and {of_model!r} in config.json; use the "
                "files of one model"
            )


def _check_seconds(inputs: Mapping[str, Any], config: Any, source: str) -> None:
    """The model must get the seconds of a frame under the name that it has for them."""
    taken = getattr(adapter_class(config.model_type), "seconds_argument", None)
    given = [name for name in ("second_per_grid_ts", "video_second_per_grid") if name in inputs]
    if given != ([] if taken is None else [taken]):
        raise CheckpointError(
            f"{source}: the processor gives {', '.join(given) or 'no seconds of a frame'}, the model takes "
            f"{taken or 'none'}; use the files of one model"
        )


def _check_use(processor: Any, config: Any, source: str) -> None:
    """Build one small prompt of all that the model takes: files that no check names are wrong where it fails."""
    layout = ClipFormat.of(processor)
    side = 2 * layout.factor
    media = Media(
        path=Path("-"),
        images=np.zeros((2, side, side, 3), np.uint8),
        times=np.zeros(2),
        indices=np.zeros(2, np.int64),
        fps=2.0,
        waveform=None if _audio_config(config) is None else np.zeros(SAMPLE_RATE, np.float32),
        seconds=1.0,
        video_seconds=1.0,
        capped=False,
        bad_packets=0,
        warnings=(),
    )
    if pixel_limits(processor)[1] < layout.factor**2:
        raise CheckpointError(f"{source}: size of the video processor is smaller than a token; {AGAIN}")
    inputs = build_inputs(processor, media, "x", "x")
    _check_seconds(inputs, config, source)
    input_ids = inputs["input_ids"]
    modality = adapter_class(config.model_type).without_model(config).modality(input_ids, inputs)
    kinds = [Modality.VIDEO] if _audio_config(config) is None else [Modality.VIDEO, Modality.AUDIO]
    if not all(bool((modality == kind).any()) for kind in kinds):
        raise CheckpointError(
            f"the chat template of {source} leaves out the clip: a prompt has no "
            f"{' or '.join(kind.name.lower() for kind in kinds)} tokens; correct "
            "chat_template.jinja, or download it again"
        )
    if int(input_ids.max()) >= config.get_text_config().vocab_size:
        raise CheckpointError(f"{source}: tokenizer.json has more tokens than config.json; use the files of one model")
    features = [inputs[name] for name in ("pixel_values_videos", "input_features") if name in inputs]
    if not all(bool(torch.isfinite(feature).all()) for feature in features):
        raise CheckpointError(f"{source}/processor_config.json turns a clip into NaN or infinity; {AGAIN}")
