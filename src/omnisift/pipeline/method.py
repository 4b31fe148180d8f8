"""Choose and make the method of a model, before or after its weights are read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from omnisift.budget import Budget
from omnisift.compressors import FULL, Compressor, make_compressor, needs_selector, resolve_method
from omnisift.config import CompressionConfig, option_names
from omnisift.errors import UsageError
from omnisift.pipeline.loading import Host, has_selector, load_selector, read_selector, selector_folder
from omnisift.pipeline.model_source import ModelSource, find_model
from omnisift.utils.assets import is_bundled

Settings = TypeVar("Settings", bound=CompressionConfig)


def compression_config(compressor: str | None, *values: Any) -> CompressionConfig:
    """Check and return values of the fields of `CompressionConfig`, in their order; no method keeps every token."""
    *given, selector, seed = values
    fields = FULL if compressor is None else compressor, *given, None if selector is None else str(selector), seed
    config = CompressionConfig(**dict(zip(option_names(CompressionConfig), fields, strict=True)))
    config.check()
    return config


def budget_with_text(config: CompressionConfig, retain_text: float | None) -> Budget:
    """The budget of a configuration, with the fraction of the tokens of subtitles that is kept.

    Raises:
        BudgetError: ``retain_text`` is out of range.
        UsageError: it is given, and every token is kept.
    """
    if retain_text is not None and config.keeps_all:
        raise UsageError("retain_text needs a compressor; name one, or leave it out")
    return replace(config.budget, retain_text=retain_text)


def resolve_compressor(
    name: str, source: str, selector: object = None, *, local_files_only: bool = True
) -> tuple[str, str]:
    """Replace ``auto`` by the default method of a model; see `omnisift.compressors.resolve_method`.

    The bundled checkpoints have a selector, but ``resift`` answers more questions there.

    Args:
        name: a method, as `make_compressor` takes it.
        source: folder or hub id of the model's checkpoint.
        selector: the selector that was given, or its folder; None if none was given.
        local_files_only: whether to look for a hub model's selector in the cache alone.

    Returns:
        The method, and why it was chosen: empty if it was named.

    Raises:
        CompressorError: ``auto`` has options or is part of a pair.
        CheckpointError: a file of the checkpoint can't be read.
    """

    def found() -> bool:
        return not is_bundled(source) and has_selector(selector_folder(source, local_files_only))

    return resolve_method(name, selector=selector, has_selector=found)


def resolve_settings(settings: Settings, model: str) -> tuple[Settings, str]:
    """Replace ``auto`` in a record of settings by the default method of a model whose weights are not read.

    Args:
        settings: any record that extends `CompressionConfig`.
        model: ``nano``, a checkpoint folder, or a hub id.

    Returns:
        The settings with a method's name, and why it was chosen: empty if it was named.

    Raises:
        OmniSiftError: the model is not found or not supported, or ``auto`` has options or a partner.
    """
    if resolve_method(settings.compressor)[1] == "":
        return settings, ""
    source = find_model(model)
    name, reason = resolve_compressor(
        settings.compressor, source.source, settings.selector, local_files_only=source.local_files_only
    )
    return replace(settings, compressor=name), reason


def compressor_for(
    model: Host | ModelSource, name: str, budget: Budget, selector: str | Path | None = None, seed: int = 0
) -> Compressor:
    """Make the method called ``name``, with the selector of ``model`` where it needs one.

    Args:
        model: a loaded host; or what `find_model` returned, to check the method before the weights are read.
        name: as `make_compressor` takes it; ``auto`` is the default method of the model.
        budget: how many tokens stay.
        selector: folder of selector weights; None looks into the model's checkpoint.
        seed: random seed, for methods that sample.

    Raises:
        CompressorError: the method is unknown, or needs a selector that is not there.
        CheckpointError: the selector is incomplete, or of another width than the model.
    """
    vgas = None
    source, local = model.source, isinstance(model, Host) or model.local_files_only
    name, reason = resolve_compressor(name, source, selector, local_files_only=local)
    if not needs_selector(name):
        pass
    elif isinstance(model, Host):
        vgas = load_selector(model, selector)
    else:
        vgas = read_selector(model.name, source, selector, model.hidden_size, local_files_only=local)
    made = make_compressor(name, budget, selector=vgas, seed=seed)
    made.reason = reason
    return made
