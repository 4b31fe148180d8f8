"""`--push-to-hub` against a stand-in of the hub on this machine: what is uploaded, and what is refused beforehand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers.fake_hub import TOKEN, FakeHub, fake_hub
from typer.testing import CliRunner

import omnisift
from omnisift.cli.app import app
from omnisift.errors import CheckpointError, OmniSiftError, UsageError
from omnisift.training.finetune import building, fine_tune
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.hub import FILES, check_hub, push_selector
from omnisift.world.dataset import write_dataset


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    with fake_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield server


@pytest.fixture(scope="module")
def selector() -> omnisift.VGAS:
    return omnisift.VGAS.from_pretrained(omnisift.nano_path() / "selector")


def test_only_the_selector_and_its_card_are_uploaded_into_a_private_repository(
    hub: FakeHub, selector: omnisift.VGAS, tmp_path: Path
) -> None:
    check_hub("me/selector")
    assert not hub.repos  # the check creates nothing
    address = push_selector(selector, "me/selector")
    assert address == f"{hub.endpoint}/me/selector"
    repo = hub.repos["me/selector"]
    assert repo["private"]
    assert sorted(repo["files"]) == sorted(FILES)
    for name, content in repo["files"].items():
        (tmp_path / name).write_bytes(content)
        assert str(Path.home()).encode() not in content
    card = repo["files"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: omnisift\n")
    again = omnisift.VGAS.from_pretrained(tmp_path)
    assert all((value == selector.state_dict()[name]).all() for name, value in again.state_dict().items())
    push_selector(selector, "me/selector")  # a second upload replaces the files


def test_the_command_exports_and_uploads(hub: FakeHub, tmp_path: Path) -> None:
    command = ["export", "nano", "--out", str(tmp_path / "out"), "--push-to-hub", "team/selector", "--public", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["hub_url"] == f"{hub.endpoint}/team/selector"
    assert not hub.repos["team/selector"]["private"]
    assert hub.repos["team/selector"]["files"]["config.json"] == (tmp_path / "out" / "config.json").read_bytes()


WRONG = {
    "a/b/c": "is no name of a repository",
    "a b": "is no name of a repository",
    "": "is no name of a repository",
    "x" * 200: "is no name of a repository",
    "me/x..y": "is no name of a repository",
    "other/selector": "can't write to other; it can to: me, team",
}


@pytest.mark.parametrize("repo", WRONG)
def test_wrong_repositories(repo: str, hub: FakeHub) -> None:
    with pytest.raises(UsageError, match=WRONG[repo]) as caught:
        check_hub(repo)
    assert "\n" not in str(caught.value)
    assert not hub.repos


def test_what_is_wrong_with_the_account_or_the_network(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    import omnisift.training.hub as module

    hub.role = "read"
    with pytest.raises(UsageError, match="the token can only read"):
        check_hub("me/x")
    hub.role = "write"
    hub.repos["me/x"] = {"private": False, "files": {}}
    with pytest.raises(UsageError, match="me/x exists and is public"):
        check_hub("me/x")
    check_hub("me/x", private=False)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_secret")
    with pytest.raises(CheckpointError, match="can't upload to me/y") as caught:
        check_hub("me/y")
    assert "hf_wrong_secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
            check_hub("me/y")
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        with pytest.raises(UsageError, match="needs a token"):
            check_hub("me/y")
    with monkeypatch.context() as patch:
        patch.setattr(module, "is_hub_reachable", lambda: False)
        with pytest.raises(UsageError, match="does not answer"):
            check_hub("me/y")


@pytest.mark.parametrize("part", ["whoami", "repos/create", "preupload", "commit"])
def test_a_refusal_of_the_hub_is_one_line(part: str, hub: FakeHub, selector: omnisift.VGAS) -> None:
    hub.refuses = part
    call = check_hub if part == "whoami" else lambda repo: push_selector(selector, repo)
    with pytest.raises(CheckpointError, match=r"^can't upload to me/x: ") as caught:
        call("me/x")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_public_repository_is_not_written_where_a_private_one_was_wanted(
    hub: FakeHub, selector: omnisift.VGAS
) -> None:
    hub.repos["me/x"] = {"private": False, "files": {}}
    with pytest.raises(UsageError, match="me/x exists and is public"):
        push_selector(selector, "me/x")
    assert not hub.repos["me/x"]["files"]


def test_a_merged_model_is_not_uploaded(hub: FakeHub, tmp_path: Path) -> None:
    command = ["export", "nano", "--out", str(tmp_path / "out"), "--as", "merged", "--push-to-hub", "me/x"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UsageError)
    assert "uploads a selector alone" in str(result.exception)
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, ["export", "nano", "--out", str(tmp_path / "out"), "--public"])
    assert isinstance(result.exception, UsageError)
    assert not hub.requests


def test_training_uploads_at_its_end_and_checks_before_it_begins(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dataset(tmp_path / "world", clips=2, seed=0, questions_per_clip=1, step=lambda: None)
    settings = {"selector": None, "retain": 0.25, "max_steps": 1, "train_selector": True, "hub_model_id": "selector"}
    data = (str(tmp_path / "world"),)
    report = fine_tune(TrainRecipe("nano", data, str(tmp_path / "run"), **settings))
    assert report.hub_url == f"{hub.endpoint}/me/selector"
    assert sorted(hub.repos["me/selector"]["files"]) == sorted(FILES)
    trained = tmp_path / "run" / "model" / "selector" / "model.safetensors"
    assert hub.repos["me/selector"]["files"]["model.safetensors"] == trained.read_bytes()
    # The hub refuses the upload: the model is there, and the same command tries again.
    hub.refuses = "commit"
    with pytest.raises(CheckpointError, match="can't upload to selector"):
        fine_tune(TrainRecipe("nano", data, str(tmp_path / "b"), **settings))
    assert (tmp_path / "b" / "model" / "config.json").is_file()
    hub.refuses = None
    assert fine_tune(TrainRecipe("nano", data, str(tmp_path / "b"), **settings)).hub_url is not None
    monkeypatch.setattr(building, "load_host", lambda *_: pytest.fail("the model was loaded"))
    with pytest.raises(OmniSiftError, match="can't write to other"):
        fine_tune(TrainRecipe("nano", data, str(tmp_path / "c"), **settings | {"hub_model_id": "other/x"}))
    assert not (tmp_path / "c").exists()
