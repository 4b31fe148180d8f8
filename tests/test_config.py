"""The options that all records share: defaults, checks, and plain values."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.models import thinker

from omnisift import CompressionConfig, ReadOptions, TrainRecipe, attach, load
from omnisift.batch import ModelSettings
from omnisift.budget import DEFAULT_RETAIN, Budget
from omnisift.config import ServedReadOptions
from omnisift.errors import BudgetError, CompressorError, UsageError
from omnisift.evaluation.public.running import EvalSettings
from omnisift.integrations.ms_swift.settings import SwiftSettings
from omnisift.media.sampling import MAX_FRAMES
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.serving.command import Server
from omnisift.serving.media_limits import MediaLimits
from omnisift.serving.vllm.settings import Settings
from omnisift.training.data import Reading
from omnisift.training.distill import DistillSettings
from omnisift.training.finetune.run_folder import save_recipe

COMPRESSING = [ModelSettings, Settings, SwiftSettings, EvalSettings, TrainRecipe]
READING = [ModelSettings, EvalSettings, TrainRecipe, DistillSettings, Reading]
SERVED = [Server, MediaLimits]
OTHER_DEFAULTS = {
    *((TrainRecipe, "selector"), (MediaLimits, "max_pixels")),
    *((TrainRecipe, "compressor"), (SwiftSettings, "compressor")),  # both train a selector
}


@pytest.mark.parametrize(
    ("record", "base"),
    [
        *((record, CompressionConfig) for record in COMPRESSING),
        *((record, ReadOptions) for record in READING),
        *((record, ServedReadOptions) for record in SERVED),
    ],
)
def test_each_record_of_settings_has_the_shared_fields_and_defaults(record: Any, base: Any) -> None:
    shared = {field.name: field.default for field in fields(base)}
    own = {field.name: field.default for field in fields(record) if field.name in shared}
    other = {name for owner, name in OTHER_DEFAULTS if owner is record}
    assert own.keys() == shared.keys()
    assert {name for name in shared if own[name] != shared[name]} == other & shared.keys()


def test_a_quarter_is_kept_if_nothing_is_given() -> None:
    assert CompressionConfig().budget == Budget(retain=DEFAULT_RETAIN)
    assert CompressionConfig(compressor="none").budget == Budget(retain=1.0)
    assert ReadOptions().max_frames == MAX_FRAMES


def test_plain_values() -> None:
    values = {"compressor": "stvp", "retain_video": 0.2, "retain_audio": 0.5, "seed": 3}
    config = CompressionConfig.from_dict(values)
    assert config.budget == Budget(retain_video=0.2, retain_audio=0.5)
    assert config.compression == {
        "retain": None, "tokens": None, "selector": None, "compress_audio": False, **values
    }  # fmt: skip
    assert ReadOptions.from_dict({"fps": 1.0}).reading == {
        "fps": 1.0, "max_frames": 256, "max_pixels": None, "sampling": "time",
        "max_decoded_pixels": MAX_DECODED_PIXELS, "read_timeout": READ_TIMEOUT,
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"^CompressionConfig has no option 'retian'; it has: compressor, retain, "):
        CompressionConfig.from_dict({"retian": 0.5})
    with pytest.raises(UsageError, match=r"^ReadOptions has no option 'frames'; it has: fps, max_frames, "):
        ReadOptions.from_dict({"frames": 3})


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        (CompressionConfig(retain=2), BudgetError),
        (CompressionConfig(compressor="none", retain=2), BudgetError),
        (CompressionConfig(retain_video=0.5), BudgetError),
        (ReadOptions(fps=0.0), UsageError),
        (ReadOptions(max_frames=1), UsageError),
        (ReadOptions(max_pixels=1), UsageError),
        (ReadOptions(sampling="magic"), UsageError),
        (ReadOptions(max_decoded_pixels=0), UsageError),
        (ReadOptions(read_timeout=0.0), UsageError),
        (ReadOptions(read_timeout=float("nan")), UsageError),
    ],
)
def test_wrong_values_are_refused(wrong: CompressionConfig | ReadOptions, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        wrong.check()


NO_SELECTOR = r"^a selector was given, but 'stvp\+random' takes none: leave selector out, or choose omnisift$"
GIVEN: dict[str, Any] = {"compressor": "stvp+random", "selector": "folder"}


@pytest.mark.parametrize(
    "use",
    [
        lambda: CompressionConfig(**GIVEN).check(),
        lambda: ModelSettings(**GIVEN).check(),
        lambda: EvalSettings(**GIVEN).check(),
        lambda: Settings(**GIVEN).check(),
        lambda: save_recipe(TrainRecipe("nano", ("data",), "out", retain=0.25, **GIVEN), Path("not written")),
        lambda: SwiftSettings.from_environment({f"OMNISIFT_{key.upper()}": value for key, value in GIVEN.items()}),
        lambda: load("nano", **GIVEN),
        lambda: load("nano").with_compressor("stvp+random", selector=Path("folder")),
        lambda: attach(thinker(), **GIVEN),
    ],
)
def test_a_selector_for_a_method_that_takes_none_is_refused(use: Callable[[], object]) -> None:
    with pytest.raises(UsageError, match=NO_SELECTOR):
        use()


def test_a_selector_and_the_other_methods(tmp_path: Path) -> None:
    CompressionConfig(compressor="stvp+omnisift", selector="folder").check()
    # In a recipe, distill is the default and fits every method; a run of an earlier version resumes.
    recipe = TrainRecipe("nano", ("data",), "out", retain=0.25, compressor="stvp")
    save_recipe(recipe, tmp_path / "run")
    earlier = replace(recipe, selector="folder")
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(asdict(earlier)))
    save_recipe(earlier, tmp_path / "run")
    with pytest.raises(UsageError, match="a selector was given, but 'none' takes none"):
        CompressionConfig(compressor="none", selector="folder").check()
    with pytest.raises(CompressorError, match="no compressor named 'magic'"):
        load("nano", compressor="magic", selector="folder")
