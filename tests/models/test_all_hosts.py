"""Every class of Transformers that reads videos and generates text has an adapter, or a line that says why not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from omnisift.models import ADAPTERS

ROOT = Path(__file__).parents[2]
SECTION = "## Families that are not supported"


def takes_videos(node: ast.ClassDef) -> bool:
    """Whether a class generates, and its ``forward`` has an argument for the pixels of videos."""
    generates = any(isinstance(base, ast.Name) and base.id == "GenerationMixin" for base in node.bases)
    forwards = [part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "forward"]
    return generates and any(arg.arg == "pixel_values_videos" for part in forwards for arg in part.args.args)


def hosts() -> dict[str, str]:
    """Name of each class, and the folder that it is in, which is named as its model type. Nothing is imported."""
    found = {}
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        text = path.read_text(encoding="utf-8")
        if "pixel_values_videos" in text:
            classes = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
            found |= {node.name: path.parent.name for node in classes if takes_videos(node)}
    return found


def left_out() -> set[str]:
    """Model types in the table of docs/models.md."""
    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition(SECTION)[2]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_every_class_that_reads_videos_is_supported_or_named() -> None:
    known = {adapter.model_class for adapter in ADAPTERS}
    assert len(hosts()) > 20
    missing = {folder for name, folder in hosts().items() if name not in known} - left_out()
    assert not missing, f"neither an adapter nor a line in docs/models.md: {sorted(missing)}"


def test_every_line_names_a_family_without_an_adapter() -> None:
    types = {model_type for adapter in ADAPTERS for model_type in adapter.model_types}
    assert left_out()
    assert not left_out() & types
    assert left_out() <= set(CONFIG_MAPPING_NAMES)
