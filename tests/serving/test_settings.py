"""Settings of a server and requests that change the budget, without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from omnisift.budget import Budget
from omnisift.errors import BudgetError, CompressorError, UnreachableBudget, UsageError
from omnisift.serving.clip_layout import ClipLayout, TimeConfig
from omnisift.serving.vllm.clip_compressor import ClipCompressor, check_reachable
from omnisift.serving.vllm.settings import Settings, check_request


def settings(**values: Any) -> Settings:
    return Settings.from_config(SimpleNamespace(omnisift=values))


def test_a_quarter_by_default() -> None:
    assert Settings.from_config(SimpleNamespace()).request_budget({}) == Budget(retain=0.25)
    assert settings(compressor="none").request_budget({}) == Budget(retain=1.0)
    assert settings(retain_video=0.2, retain_audio=0.5).request_budget({}) == Budget(retain_video=0.2, retain_audio=0.5)


def test_a_request_sets_its_own() -> None:
    assert settings(max_retain=0.5).request_budget({"retain": 0.5}) == Budget(retain=0.5)
    both = {"retain_video": 0.1, "retain_audio": 0.9}
    assert settings().request_budget(both) == Budget(**both)


def test_the_old_name_of_the_limit_is_read() -> None:
    assert settings(retain_most=0.5) == settings(max_retain=0.5) == Settings(max_retain=0.5)


@pytest.mark.parametrize(
    ("values", "request_values", "message"),
    [
        ({"max_retain": 0.5}, {"retain": 0.6}, "above this server's limit"),
        ({"max_retain": 0.5}, {"retain_video": 0.1, "retain_audio": 0.6}, "retain_audio=0.6 is above"),
        ({}, {"retain": 0}, "retain is the fraction kept"),
        ({}, {"retain": "half"}, "retain is the fraction kept"),
        ({"max_retain": 0.5}, {"retain": "half"}, "retain is the fraction kept"),
        ({}, {"retain_video": 0.5}, "a budget needs"),
        ({}, {"tokens": 0}, "a whole number from 1"),
        ({}, {"tokens": 1.5}, "a whole number from 1"),
        ({}, {"tokens": "64"}, "a whole number from 1"),
        ({}, {"tokens": True}, "a whole number from 1"),
        ({}, {"tokens": 64, "retain": 0.5}, "tokens was given with retain"),
        ({"compressor": "none"}, {"tokens": 64}, "without a compressor and takes no tokens"),
        ({"compressor": "none"}, {"retain": 0.5}, "without a compressor"),
    ],
)
def test_requests_refused(values: dict[str, Any], request_values: dict[str, Any], message: str) -> None:
    with pytest.raises((BudgetError, UsageError), match=message):
        settings(**values).request_budget(request_values)


@pytest.mark.parametrize(
    "values",
    [{"retian": 0.5}, {"retain": 2}, {"max_retain": 0}, {"retain": 0.5, "retain_video": 0.5}, {"compress_audio": True}],
)
def test_settings_refused(values: dict[str, Any]) -> None:
    with pytest.raises((BudgetError, UsageError)):
        settings(**values)


def test_arguments_that_a_request_may_not_have() -> None:
    check_request({"retain": 0.5, "use_audio_in_video": True})
    with pytest.raises(UsageError, match=r"^compress_audio is not available in serving, .*; leave it out$"):
        check_request({"retain": 0.5, "compress_audio": True})
    with pytest.raises(UsageError, match="can't hold 'size'"):
        check_request({"size": {}})
    for fps in (0, -1, float("nan"), "2"):
        with pytest.raises(UsageError, match="fps must be"):
            check_request({"fps": fps})


@pytest.mark.parametrize(
    ("method", "reachable"), [("dycoke", False), ("dycoke+omnisift", False), ("stvp+omnisift", True)]
)
def test_a_floor_is_found_before_the_engine(method: str, reachable: bool) -> None:
    """DyCoke keeps all tokens of every fourth frame, so it can't keep a tenth."""
    layout, budget = ClipLayout.of((6, 4, 4), 1.0, 150, TimeConfig()), Budget(retain_video=0.1, retain_audio=0.5)
    if reachable:
        check_reachable(settings(compressor=method), layout, budget)
        return
    with pytest.raises(UnreachableBudget):
        check_reachable(settings(compressor=method), layout, budget)


def test_a_number_of_tokens_of_a_request() -> None:
    layout = ClipLayout.of((6, 4, 4), 1.0, 150, TimeConfig())
    assert layout.tokens_in_chunks == len(layout) == 246
    for method in ("omnisift", "random", "stvp"):
        limited = settings(compressor=method, max_retain=0.5)
        budget = limited.request_budget({"tokens": 64})
        assert budget == Budget(tokens=64)
        assert len(layout.kept_labels(budget)) == 64
        check_reachable(limited, layout, budget)
        check_reachable(limited, layout, Budget(tokens=1))
        assert len(layout.kept_labels(Budget(tokens=1))) == 1
        with pytest.raises(BudgetError, match=r"^tokens=200 is above .* limit of 0.5 of the 246 .* at most 123$"):
            check_reachable(limited, layout, limited.request_budget({"tokens": 200}))
    # The server's own number is not limited, and a clip may have no more.
    check_reachable(settings(tokens=200, max_retain=0.5), layout, Budget(tokens=200))
    check_reachable(settings(), layout, Budget(tokens=5000))


def test_what_differs_from_the_defaults() -> None:
    assert settings(retain=0.5, seed=0).to_dict() == {"retain": 0.5}


def test_no_selector_weights_is_an_error_with_remedies(tmp_path: Any) -> None:
    with pytest.raises(CompressorError, match=r"--selector FOLDER.*--compressor v_cast"):
        ClipCompressor(settings(compressor="omnisift"), str(tmp_path), 128)
    ClipCompressor(settings(compressor="stvp"), str(tmp_path), 128)


def test_methods_that_need_encoder_attention_are_refused(tmp_path: Any) -> None:
    with pytest.raises(CompressorError, match="which vLLM's encoders don't give"):
        ClipCompressor(settings(compressor="visionzip"), str(tmp_path), 128)
