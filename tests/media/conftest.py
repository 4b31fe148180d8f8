"""Puts this folder on the path: its helpers are plain modules. And the folder where files of their tables are made."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `corpus.made` puts files."""
    return tmp_path_factory.mktemp("media") / "files"
