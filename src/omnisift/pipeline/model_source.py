"""Find a model and check it by its configuration, before any weights are read."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnisift.errors import CheckpointError, UnsupportedModel, UsageError
from omnisift.models import adapter_class
from omnisift.models.qwen2_5_omni import Qwen25OmniAdapter
from omnisift.models.qwen3_omni_moe import Qwen3OmniMoeAdapter
from omnisift.utils.assets import nano_path
from omnisift.utils.checkpoint_files import checkpoint_errors, read_json_object, reason_of
from omnisift.utils.parsing import check_path_name
from omnisift.utils.safetensors_files import INDEX, read_weight_map

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_SECONDS = 3.0
"""How long to wait for the hub before it counts as unreachable."""
COUNTED_ONLY = ("profile --config", "advise", "distill", "train")
"""Commands that take Qwen's families."""
STREAMED_ONLY = ("watch",)
"""Commands that take families whose prompts can be read in parts."""
OMNI_ONLY = ("serve", "run --engine vllm")
"""Commands that take Qwen2.5-Omni and Qwen3-Omni only: those that run vLLM."""
_DEPTHS = frozenset({"num_hidden_layers", "num_layers", "encoder_layers", "depth"})
_MAX_DEPTH = 1000
"""Layers of a stack; a config.json with more is damaged, and building its layers would take minutes."""


@dataclass(frozen=True)
class ModelSource:
    """Where the weights of a supported model come from, and what its configuration says."""

    name: str
    """As the user gave it: ``nano``, a folder, or a hub id."""
    source: str
    """Folder or hub id of the weights."""
    model_type: str
    """As in the ``config.json`` of the checkpoint."""
    hidden_size: int
    """Width of the language model's embeddings."""
    local_files_only: bool
    """Whether to load without asking the hub: a local folder, or a cached model without a network."""
    config: Any = field(default=None, repr=False, compare=False)
    """Configuration of the part that generates text."""
    stored_quantization: dict[str, Any] | None = field(default=None, repr=False, compare=False)
    """The ``quantization_config`` of a checkpoint with quantised weights; ``quant_method`` names its way."""


def find_model(name: str) -> ModelSource:
    """Find a model by name and check that it is supported, from its ``config.json`` alone.

    Args:
        name: ``nano`` (bundled), a checkpoint folder, or a hub id ``owner/name``. Only a hub id uses the network.

    Returns:
        The source to load the weights from.

    Raises:
        UsageError: a local path without ``config.json``, or a name that is not a path.
        CheckpointError: no such folder, a hub id that is neither cached nor reachable, or a broken ``config.json``.
        UnsupportedModel: the checkpoint belongs to another family.
    """
    from transformers import AutoConfig

    source = str(nano_path()) if name == "nano" else name
    check_path_name(source, "the model's name")
    if Path(source).exists():
        if not (Path(source) / "config.json").is_file():
            what = "holds no config.json" if Path(source).is_dir() else "is a file"
            raise UsageError(f"{source} {what}; give a checkpoint folder, a hub id, or nano")
        local_files_only = True
    else:
        _check_hub_id(source)
        local_files_only = not is_hub_reachable()
    config = _read_config(source, local_files_only)
    model_type, where = config.get("model_type"), f"{source}/config.json"
    try:
        adapter = adapter_class(model_type)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{where}: {error}") from None
    if not adapter.is_loaded:
        raise UnsupportedModel(
            f"{where}: the processor of model_type {model_type!r} is not known here: load the model with Transformers "
            "and use omnisift.attach"
        )
    _check_depths(config, where)
    # A saved config.json leaves out values that equal the class's defaults, so the class has to fill them in.
    with checkpoint_errors(where):
        loaded: Any = AutoConfig.for_model(**config)
        host = getattr(loaded, "thinker_config", loaded)
        hidden_size = int(host.get_text_config().hidden_size)
    stored = _stored_quantization(config, where)
    return ModelSource(name, source, str(model_type), hidden_size, local_files_only, host, stored)


def _stored_quantization(config: dict[str, Any], where: str) -> dict[str, Any] | None:
    """How the weights of a checkpoint are quantised, whether the whole model or one of its parts states it."""
    parts = (config, *(part for part in config.values() if isinstance(part, dict)))
    found = next((part["quantization_config"] for part in parts if part.get("quantization_config") is not None), None)
    if found is not None and not (isinstance(found, dict) and isinstance(found.get("quant_method"), str)):
        raise CheckpointError(f"{where}: quantization_config has no quant_method; correct the file")
    return found


def check_counted(model_type: str, name: str, what: str) -> None:
    """Check that costs of a family are known and that it can be trained.

    Args:
        model_type: of the family.
        name: of the model, for the message.
        what: the command.

    Raises:
        UnsupportedModel: they aren't.
    """
    if not adapter_class(model_type).is_counted:
        raise UnsupportedModel(
            f"{what} knows the Qwen families, and {name} has model_type {model_type!r}: `omnisift doctor --model` says "
            "what works with a model"
        )


def takes_every_command(model_type: str) -> bool:
    """Whether the commands in `OMNI_ONLY` take models of this type."""
    return adapter_class(model_type) in (Qwen25OmniAdapter, Qwen3OmniMoeAdapter)


def _check_depths(part: object, where: str) -> None:
    """`CheckpointError` for a stack of more layers than any model has."""
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in _DEPTHS and isinstance(value, int) and value > _MAX_DEPTH:
            raise CheckpointError(f"{where} has {key}: {value}, at most {_MAX_DEPTH} are allowed; correct the file")
        _check_depths(value, where)


def fetch_selector(source: str, local_files_only: bool) -> Path:
    """Download the files of a hub model that may hold its selector, and no others but the configuration.

    Returns:
        The snapshot's folder in the cache.

    Raises:
        CheckpointError: the model is not in the cache, or a download fails.
    """
    config = _hub_file(source, "config.json", local_files_only)
    if config is None:
        raise CheckpointError(f"{source} is not in the cache; load it once with a network, or give a folder")
    for name in ("selector/config.json", "selector/model.safetensors"):
        _hub_file(source, name, local_files_only)
    index = _hub_file(source, INDEX, local_files_only)
    if index is None:
        _hub_file(source, "model.safetensors", local_files_only)
    else:
        for shard in sorted({shard for name, shard in read_weight_map(index).items() if "compressor." in name}):
            _hub_file(source, shard, local_files_only)
    return config.parent


def _hub_file(source: str, name: str, local_files_only: bool) -> Path | None:
    """One file of a hub model in the cache, downloaded if allowed; None if there is no such file."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(source, name, local_files_only=local_files_only))
    except EntryNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"can't fetch {name} of {source}: {str(error).strip().splitlines()[0]}") from error


def _check_hub_id(source: str) -> None:
    """`CheckpointError` unless ``source`` has the form ``owner/name`` of every supported model on the hub."""
    if "/" not in source:
        guess = f"Qwen/{source}" if source.startswith("Qwen") else f"OWNER/{source}"
        raise CheckpointError(f"no folder {source!r}; did you mean {guess}, or is the folder missing?")
    if not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"no folder {source!r}; give nano, a checkpoint folder, or a hub id (owner/name)")


def _read_config(source: str, local_files_only: bool) -> dict[str, Any]:
    """The content of ``config.json``."""
    from transformers import PretrainedConfig

    if Path(source).exists():
        return read_json_object(Path(source) / "config.json")
    try:
        config, _ = PretrainedConfig.get_config_dict(source, local_files_only=local_files_only, trust_remote_code=False)
        return dict(config)
    except Exception as error:  # the border around the hub's library: a cached file may be broken in any way
        reason = f"{reason_of(error)}; give nano, a checkpoint folder, or a hub id (owner/name)"
        if local_files_only:
            reason = "no network, and not in the cache; connect, or give a checkpoint folder"
        raise CheckpointError(f"can't load a model named {source!r}: {reason}") from error


def is_hub_reachable() -> bool:
    """Whether the hub answers at all within `_HUB_SECONDS`.

    Without this check huggingface_hub retries for half a minute and logs every try. Its ``HF_HUB_OFFLINE`` and
    ``HF_ENDPOINT`` and the proxies of the environment are respected.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def request() -> None:
        try:
            with urllib.request.urlopen(
                urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=_HUB_SECONDS
            ):
                answered.set()
        except urllib.error.HTTPError:
            answered.set()
        except (OSError, ValueError) as error:
            # A rejected certificate is an answer too; huggingface_hub brings its own certificates.
            if "CERTIFICATE" in str(error):
                answered.set()

    # A name lookup has no timeout of its own, so a thread makes the request and is left alone if it takes too long.
    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(_HUB_SECONDS)
    return answered.is_set()
