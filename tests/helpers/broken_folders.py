"""Broken checkpoint folders: nano with one thing wrong in each, as interrupted downloads and editors leave them.

`FOLDERS` maps a name to a function that breaks a copy of nano. The first part of a name is the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from omnisift.utils.assets import nano_path
from omnisift.utils.safetensors_files import INDEX

Change = Callable[[Path], None]

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 5400416\n"
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "lfs": LFS.encode(),
    "binary": bytes(range(256)) * 8,
    "latin1": '{"name": "caf\xe9"}'.encode("latin-1"),
    "utf16": '{"a": 1}'.encode("utf-16"),
    "null": b"null",
    "list": b"[]",
    "number": b"3",
    "text": b'"x"',
    "object": b"{}",
    "deep-list": b"[" * 100_000,
    "deep-object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "digits": b'{"model_type": ' + b"9" * 5000 + b"}",
}
"""Name -> content that takes a file's place."""
JSON_FILES = (
    "config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "selector/config.json",
)  # fmt: skip
WEIGHTS = ("model.safetensors", "selector/model.safetensors")
TEMPLATE = "chat_template.jinja"

VALUES: dict[str, tuple[Any, ...]] = {
    "model_type": (None, 3, "qwen3", "../../etc/passwd", []),
    "dtype": ("float33", 7, "import os"),
    "architectures": (3, [None]),
    "text_config": (None, [], "x", {}),
    "vision_config": (None, [], 3),
    "audio_config": (None, "x", {}),
    "audio_token_index": ("x", -1, 10**9),
    "video_token_index": (None, 2.5, 10**30),
    "position_id_per_seconds": ("x", 0, -3),
    "seconds_per_chunk": ("x", 0),
    "tie_word_embeddings": (False, "x"),
    "quantization_config": ({"quant_method": "gptq"}, {"quant_method": "bitsandbytes", "load_in_4bit": True}, 3),
    "text_config.hidden_size": (0, -1, 64, 10**6, "128", None, 1.5),
    "text_config.num_hidden_layers": (0, 5, 3000, 10**9, "x", -2),
    "text_config.num_attention_heads": (0, 3, "x", 10**12),
    "text_config.num_key_value_heads": (0, 3, None),
    "text_config.vocab_size": (0, 10, 10**10, "x"),
    "text_config.intermediate_size": (1, 10**11),
    "text_config.hidden_act": ("nothing", 3, None),
    "text_config.rms_norm_eps": ("x", float("nan")),
    "text_config.rope_parameters": (None, [], {}, {"rope_type": "x"}),
    "text_config.layer_types": ([], ["x"] * 4, 3),
    "vision_config.depth": (10**8, "x", 1),
    "vision_config.patch_size": (0, "x", 7),
    "vision_config.hidden_size": (10**9, 0),
    "vision_config.fullatt_block_indexes": ("x", 3),
    "audio_config.encoder_layers": (10**8, None),
    "audio_config.d_model": (0, 10**8, "x"),
    "audio_config.max_source_positions": (10**12, -1, "x"),
    "audio_config.n_window": (0, "x"),
    "audio_config.num_mel_bins": (64, "x"),
}
"""Key of ``config.json`` -> wrong values."""
PROCESSOR_VALUES: dict[str, tuple[Any, ...]] = {
    "processor_class": ("CLIPProcessor", "NoSuchProcessor", 3),
    "feature_extractor": (None, 3, {}),
    "feature_extractor.feature_size": ("x", 64, 0, 10**7),
    "feature_extractor.hop_length": (0, "x", -160),
    "feature_extractor.n_fft": (0, "x"),
    "feature_extractor.feature_extractor_type": ("NoSuch", 3),
    "video_processor": (None, 3),
    "video_processor.patch_size": (0, "x", 7),
    "video_processor.merge_size": (0, "x", 3),
    "video_processor.temporal_patch_size": (0, "x"),
    "video_processor.image_mean": ([], "x", [1.0]),
    "video_processor.image_std": ([0, 0, 0], "x"),
    "image_processor": (3,),
}
TOKENIZER_VALUES: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": ("NoSuchTokenizer", 3, "BertTokenizer"),
    "video_token": (None, 3, "<|NONE|>"),
    "audio_token": (None, ""),
    "eos_token": (3, []),
    "size": (3, {"longest_edge": "x", "shortest_edge": 1}, {}),
    "padding_side": ("middle", 3),
    "extra_special_tokens": (3, "x"),
    "chat_template": (3,),
}
SELECTOR_VALUES: dict[str, tuple[Any, ...]] = {
    "width": (64, "x", 0, 10**9, None, 10**30),
    "hidden": (0, "x", 7, -8, 10**8),
    "heads": (0, 7, "8", 10**9),
    "layers": (0, 2, 10**8, "x"),
    "guide": ("x", 3, "direct", None),
    "time_embedding": ("x", False, 3),
    "picture": (True, "x"),
    "model_type": ("bert", 3, None),
    "dtype": ("x", 3),
}
LOOP = "{% for a in range(99999) %}" * 3 + "{% set x = a %}" + "{% endfor %}" * 3
TEMPLATES: dict[str, str] = {
    "open-tag": "{% if messages %}",
    "unknown-tag": "{% include 'x' %}{% frobnicate %}",
    "loops": LOOP,
    "macro-recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "growth": "{% set ns = namespace(x='ab') %}{% for a in range(99999) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "raises": "{{ raise_exception('no chat') }}",
    "undefined": "{{ nothing.at.all }}",
    "constant": "hello",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "power": "{{ 9 ** 9 ** 9 }}",
}
"""Name -> ``chat_template.jinja``."""


def copy_nano(folder: Path) -> Path:
    """A copy of nano whose files may be replaced."""
    shutil.copytree(nano_path(), folder, ignore=shutil.ignore_patterns("selector-exact", "recipe.json"))
    return folder


def replace(path: Path, content: bytes | str) -> None:
    path.unlink()
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def set_value(path: Path, key: str, value: Any) -> None:
    """Set a value of a JSON file by its dotted key."""
    data = json.loads(path.read_text(encoding="utf-8"))
    *parents, last = key.split(".")
    part = data
    for name in parents:
        part = part[name]
    part[last] = value
    replace(path, json.dumps(data))


def edit_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def _first(tensors: dict[str, torch.Tensor], ending: str = "") -> str:
    return next(name for name in sorted(tensors) if name.endswith(ending) and tensors[name].ndim > 1)


def _set_tensor(ending: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        name = _first(tensors, ending)
        tensors[name] = change(tensors[name]).contiguous()

    return edit


def _fill(value: float) -> Callable[..., None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.fill_(value)

    return edit


def _rename(tensors: dict[str, torch.Tensor]) -> None:
    name = _first(tensors)
    tensors["other." + name] = tensors.pop(name)


WEIGHT_EDITS: dict[str, Callable[..., Any]] = {
    "one-missing": lambda tensors: tensors.pop(_first(tensors)),
    "all-missing": lambda tensors: tensors.clear(),
    "renamed": _rename,
    "transposed": _set_tensor("proj.weight", lambda tensor: torch.cat([tensor, tensor])),
    "one-row-less": _set_tensor("weight", lambda tensor: tensor[1:]),
    "scalar": _set_tensor("weight", lambda tensor: tensor.flatten()[:1].clone()),
    "integers": _set_tensor("weight", lambda tensor: tensor.to(torch.int8)),
    "nan": _fill(float("nan")),
    "infinite": _fill(float("inf")),
    "one-nan": _set_tensor("weight", lambda tensor: tensor.index_fill(0, torch.tensor([0]), float("nan"))),
}


def _index(text: str) -> Change:
    """The weights as one shard, with this text as their index."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")

    return change


def _model_type_alone(folder: Path) -> None:
    replace(folder / "config.json", json.dumps({"model_type": "qwen2_5_omni_thinker"}))


def _header(size: int, text: bytes) -> bytes:
    return size.to_bytes(8, "little") + text


def _cases() -> Iterator[tuple[str, Change]]:
    """Name and change of every folder."""
    for file in JSON_FILES:
        yield f"{file}:missing", lambda folder, file=file: (folder / file).unlink()
        yield f"{file}:half", lambda folder, file=file: _cut(folder / file, 0.5)
        yield f"{file}:folder", lambda folder, file=file: _as_folder(folder / file)
        for name, content in CONTENTS.items():
            yield f"{file}:{name}", lambda folder, file=file, content=content: replace(folder / file, content)
    for file in WEIGHTS:
        yield f"{file}:missing", lambda folder, file=file: (folder / file).unlink()
        for share in (0.0, 0.0001, 0.01, 0.5, 0.9999):
            yield f"{file}:first-{share}", lambda folder, file=file, share=share: _cut(folder / file, share)
        for name in ("lfs", "binary", "text"):
            content = CONTENTS[name]
            yield f"{file}:{name}", lambda folder, file=file, content=content: replace(folder / file, content)
        headers = {"huge-header": _header(2**62, b"{}"), "deep-header": _header(100_000, b"[" * 100_000)}
        for name, content in headers.items():
            yield f"{file}:{name}", lambda folder, file=file, content=content: replace(folder / file, content)
        for name, edit in WEIGHT_EDITS.items():
            yield f"{file}:{name}", lambda folder, file=file, edit=edit: edit_weights(folder / file, edit)
    for name, content in {"missing": None, **{name: CONTENTS[name] for name in ("empty", "binary", "utf16")}}.items():
        yield (
            f"{TEMPLATE}:{name}",
            lambda folder, content=content: (
                (folder / TEMPLATE).unlink() if content is None else replace(folder / TEMPLATE, content)
            ),
        )
    for name, text in TEMPLATES.items():
        yield f"{TEMPLATE}:{name}", lambda folder, text=text: replace(folder / TEMPLATE, text)
    files = {
        "config.json": VALUES, "processor_config.json": PROCESSOR_VALUES, "tokenizer_config.json": TOKENIZER_VALUES,
        "selector/config.json": SELECTOR_VALUES,
    }  # fmt: skip
    for file, keys in files.items():
        for key, values in keys.items():
            for value in values:
                yield (
                    f"{file}:{key}={json.dumps(value)[:40]}",
                    lambda folder, file=file, key=key, value=value: set_value(folder / file, key, value),
                )
    yield "config.json:model-type-alone", _model_type_alone
    shards: dict[str, Any] = {
        "none": None, "list": ["x"], "number": {"x": 3}, "elsewhere": {"x": "/etc/passwd"}, "nothing": {},
        "above": {"x": "../../../etc/hostname"}, "missing": {"x": "model-00001-of-00002.safetensors"},
        "part": {"lm_head.weight": "model-00001-of-00001.safetensors"},
    }  # fmt: skip
    for name, weight_map in shards.items():
        yield f"{INDEX}:{name}", _index(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for name in ("empty", "lfs", "list", "number", "deep-list", "digits"):
        yield f"{INDEX}:file-{name}", _index(CONTENTS[name].decode())


def _cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    replace(path, content[: int(len(content) * share)])


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FOLDERS: dict[str, Change] = dict(_cases())
