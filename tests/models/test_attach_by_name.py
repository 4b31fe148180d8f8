"""`attach` with the name of a method: budget, selector and their errors; what an attachment prints."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.helpers.models import WIDTH, Video, language_model, prompt, thinker
from tests.models.hosts import HALF, half
from torch import nn

import omnisift
from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import BudgetError, CheckpointError, CompressorError, UsageError
from omnisift.models.attachment import is_attached
from omnisift.vgas import VGAS, VGASConfig

INPUTS = prompt([5, Video(4, 2, 3, audio=60), 6])


def vgas(width: int = WIDTH) -> VGAS:
    torch.manual_seed(0)
    return VGAS(VGASConfig(width, 16, 2))


@torch.no_grad()
def keep(model: nn.Module, *args: Any, **options: Any) -> torch.Tensor:
    with omnisift.attach(model, *args, **options) as attachment:
        model(**INPUTS)
    assert attachment.last is not None
    return attachment.last.keep


@pytest.mark.parametrize(
    "options",
    [{}, {"retain": 0.4}, {"retain_video": 0.5, "retain_audio": 0.3}, {"tokens": 40}, {"seed": 3}],
    ids=["default", "retain", "by modality", "tokens", "seed"],
)
@pytest.mark.parametrize("name", ["random", "v_cast", "evs:mode=frame", "stvp+random"])
def test_a_name_gives_the_compressor_that_make_compressor_gives(name: str, options: dict[str, Any]) -> None:
    model = thinker()
    budget = Budget.from_options(**{key: value for key, value in options.items() if key != "seed"})
    expected = make_compressor(name, budget, seed=options.get("seed", 0))
    assert torch.equal(keep(model, name, **options), keep(model, expected))


@pytest.mark.parametrize("form", ["module", "folder", "path", "adapter"])
def test_a_selector_is_a_module_or_a_folder(form: str, tmp_path: Path) -> None:
    model, selector = thinker(), vgas()
    expected = keep(model, make_compressor("omnisift", HALF, selector=vgas()).eval())
    if form == "adapter":
        from safetensors.torch import save_file

        prefix = "base_model.model.thinker.compressor."
        save_file({prefix + key: value for key, value in selector.state_dict().items()}, tmp_path / "a.safetensors")
        (tmp_path / "adapter_config.json").write_text("{}")
    else:
        selector.save_pretrained(tmp_path)
    given: Any = {"module": selector, "folder": str(tmp_path)}.get(form, tmp_path)
    if form == "adapter":  # its number of heads is not in the file: 8, as released
        expected = keep(model, make_compressor("omnisift", HALF, selector=VGAS.from_checkpoint(tmp_path, prefix)))
    assert torch.equal(keep(model, "omnisift", retain_video=0.5, retain_audio=0.5, selector=given), expected)


def test_a_selector_gets_the_dtype_of_the_embeddings_and_evaluation_mode() -> None:
    model = thinker().to(torch.bfloat16)
    with omnisift.attach(model, "omnisift", selector=vgas().train()) as attachment:
        selector: Any = attachment.compressor.selector
        assert not attachment.compressor.training
        assert not selector.training
        assert {weight.dtype for weight in selector.parameters()} == {torch.bfloat16}


def test_a_model_with_offloaded_weights_is_compressed_too(tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = thinker()
    expected = keep(model, "omnisift", selector=vgas())
    accelerate.disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    assert {weight.device.type for weight in model.parameters()} == {"meta"}
    assert torch.equal(keep(model, "omnisift", selector=vgas()), expected)


@pytest.mark.parametrize("name", ["omnisift", "stvp+omnisift"])
def test_a_method_with_weights_says_how_to_give_them(name: str) -> None:
    with pytest.raises(CompressorError, match=r"needs selector weights: pass selector=FOLDER or a VGAS"):
        omnisift.attach(thinker(), name)


def test_a_selector_of_another_model_is_refused(tmp_path: Path) -> None:
    vgas(WIDTH * 2).save_pretrained(tmp_path)
    for selector in (tmp_path, vgas(WIDTH * 2)):
        with pytest.raises(CheckpointError, match=r"64.*32"):
            omnisift.attach(thinker(), "omnisift", selector=selector)
    with pytest.raises(UsageError, match="no selector folder at"):
        omnisift.attach(thinker(), "omnisift", selector=tmp_path / "missing")


def test_a_checkpoint_folder_with_a_selector_is_a_selector_folder(tmp_path: Path) -> None:
    expected = keep(thinker(), "omnisift", selector=vgas())
    vgas().save_pretrained(tmp_path / "selector")
    assert torch.equal(keep(thinker(), "omnisift", selector=tmp_path), expected)


def test_a_broken_selector_config_is_a_checkpoint_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        omnisift.attach(thinker(), "omnisift", selector=tmp_path)


@pytest.mark.parametrize("options", [{"retain": 0.5}, {"retain_audio": 0.5}, {"selector": "folder"}, {"seed": 1}])
def test_options_of_a_method_are_refused_with_a_compressor(options: dict[str, Any]) -> None:
    model = thinker()
    with pytest.raises(UsageError, match="RandomCompressor"):
        omnisift.attach(model, half(), **options)
    assert not is_attached(language_model(model))


@pytest.mark.parametrize("name", [None, "none", "full"])
def test_there_is_nothing_to_attach_for_all_tokens(name: Any) -> None:
    with pytest.raises(UsageError, match="nothing to attach"):
        omnisift.attach(thinker(), name)


@pytest.mark.parametrize(
    ("compressor", "options", "error", "message"),
    [
        ("no_such_method", {}, CompressorError, "no compressor named 'no_such_method'"),
        ("random", {"retain": 2.0}, BudgetError, "retain"),
        (half, {}, UsageError, "name of a method or a Compressor, got function"),
        ("omnisift", {"selector": 3}, UsageError, "a folder or a VGAS, got int"),
    ],
)
def test_wrong_arguments_have_one_line(
    compressor: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        omnisift.attach(thinker(), compressor, **options)
    assert "\n" not in str(caught.value)


def test_a_pipeline_is_told_which_model_to_pass() -> None:
    pipeline: Any = SimpleNamespace(host=SimpleNamespace(thinker=thinker()))
    with pytest.raises(UsageError, match=r"takes a Hugging Face model, got SimpleNamespace: pass .*host\.thinker"):
        omnisift.attach(pipeline, "random")
    with pytest.raises(UsageError, match="takes a Hugging Face model, got str"):
        omnisift.attach("Qwen/Qwen2.5-Omni-7B", "random")  # type: ignore[arg-type]


# --- nothing is left, and copies are attached too --------------------------------------------------------------------


def test_whether_a_model_is_attached_is_known_without_a_trace_on_it() -> None:
    model = thinker()
    attachment = omnisift.attach(model, "random")
    assert is_attached(language_model(model))
    attachment.detach()
    assert not is_attached(language_model(model))
    # A second detach of the first attachment must not free the model for a third.
    second = omnisift.attach(model, "random")
    attachment.detach()
    assert is_attached(language_model(model))
    second.detach()


def test_an_attached_model_is_collected_when_nobody_holds_it() -> None:
    model = thinker()
    omnisift.attach(model, "random")
    reference = weakref.ref(language_model(model))
    del model
    gc.collect()
    assert reference() is None


# --- what they print -------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_representations_are_short() -> None:
    model = thinker()
    with omnisift.attach(model, "random", retain_video=0.5, retain_audio=0.5) as attachment:
        assert repr(attachment) == (
            "Attachment(random, attached to Qwen2_5OmniThinkerForConditionalGeneration, last=None)"
        )
        model(**INPUTS)
    kept = "Compression(kept 12 of 24 video tokens, 30 of 60 audio tokens; 50.0%)"
    assert repr(attachment.last) == kept
    assert repr(attachment) == (
        f"Attachment(random, detached from Qwen2_5OmniThinkerForConditionalGeneration, last={kept})"
    )
    assert attachment.last is not None
    html = attachment.last._repr_html_()
    assert "<tr><td>video</td><td>24</td><td>12</td><td>50.0%</td></tr>" in html
    assert "<tr><td>both</td><td>84</td><td>42</td><td>50.0%</td></tr>" in html
    assert len(html) < 400
