"""Upload a selector to the Hugging Face Hub: its weights, its configuration and its card, and nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnisift.errors import CheckpointError, OmniSiftError, UsageError
from omnisift.pipeline.model_source import is_hub_reachable
from omnisift.training.export import export_selector
from omnisift.utils.checkpoint_files import reason_of
from omnisift.utils.parsing import shown
from omnisift.vgas import VGAS

FILES = ("config.json", "model.safetensors", "README.md")
"""What is uploaded."""


def check_hub(repo: str, private: bool = True) -> None:
    """Check before the work that a selector can be uploaded to ``repo`` after it; nothing is created.

    Args:
        repo: ``owner/name``, or a name of the token's own account.
        private: whether the repository must be private.

    Raises:
        UsageError: the name is none, there is no token, the hub is not reachable, the token can't write there, or a
            private repository is wanted and a public one exists.
        CheckpointError: the hub refuses the token.
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(f"{shown(repo)} is no name of a repository ({reason_of(error)}); give OWNER/NAME") from None
    if constants.HF_HUB_OFFLINE:
        raise UsageError("HF_HUB_OFFLINE is set, so nothing can be uploaded; unset it, or upload nothing")
    if get_token() is None:
        raise UsageError("uploading needs a token of the Hugging Face Hub; run `hf auth login`, or set HF_TOKEN")
    if not is_hub_reachable():
        raise UsageError(
            f"{constants.ENDPOINT} does not answer, so nothing can be uploaded; connect, or upload nothing"
        )
    api = HfApi()
    with _hub_errors(repo):
        account = api.whoami()
    owners = [str(account["name"]), *(str(organisation["name"]) for organisation in account.get("orgs") or ())]
    owner = repo.rpartition("/")[0] or owners[0]
    if owner.casefold() not in map(str.casefold, owners):
        raise UsageError(f"the token of {owners[0]} can't write to {owner}; it can to: {', '.join(owners)}")
    if ((account.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise UsageError("the token can only read; make one that can write, then run `hf auth login` again")
    with _hub_errors(repo):
        if private and api.repo_exists(f"{owner}/{repo.rpartition('/')[2]}"):
            _check_private(repo, bool(api.repo_info(f"{owner}/{repo.rpartition('/')[2]}").private))


def push_selector(selector: VGAS, repo: str, private: bool = True, model_type: object = "qwen2_5_omni") -> str:
    """Upload a selector with its card. The repository is created if there is none.

    Args:
        selector: what is uploaded.
        repo: as for `check_hub`.
        private: whether a new repository is private.
        model_type: as for `export_selector`.

    Returns:
        The address of the repository.

    Raises:
        UsageError: ``private``, and a public repository exists.
        CheckpointError: the hub can't be reached, or refuses the upload.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    with _hub_errors(repo), tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "selector"
        export_selector(selector, folder, model_type=model_type)
        target = api.create_repo(repo, private=private, exist_ok=True)
        if private:
            _check_private(target.repo_id, bool(api.repo_info(target.repo_id).private))
        files = [CommitOperationAdd(name, folder / name) for name in FILES]
        api.create_commit(target.repo_id, files, commit_message="Upload a selector of OmniSIFT")
    return str(target)


def _check_private(repo: str, private: bool) -> None:
    if not private:
        raise UsageError(f"{repo} exists and is public; make it private, name another one, or add --public")


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn what the hub's library raises into one `CheckpointError`."""
    try:
        yield
    except OmniSiftError:
        raise
    except Exception as error:  # the border around the library: HTTP, network, files
        raise CheckpointError(
            f"can't upload to {repo}: {reason_of(error)}; check the token and the network, then run again"
        ) from error
