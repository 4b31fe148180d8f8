"""The public API is exactly the list in this file; a change needs an entry in CHANGELOG.md."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import omnisift

ROOT = Path(__file__).resolve().parents[1]
MODULES = ["batch", "compressors", "errors", "inspector", "media", "world"]
OBJECTS = [
    "Adapter",
    "Advice",
    "Answer",
    "Attachment",
    "Budget",
    "BudgetError",
    "CheckpointError",
    "Compression",
    "CompressionConfig",
    "Compressor",
    "CompressorError",
    "DistillSettings",
    "EncodedClip",
    "EncodingOptions",
    "GridAdapter",
    "KeepAll",
    "Layout",
    "Line",
    "LiveReader",
    "LiveSource",
    "Media",
    "MediaError",
    "MemoryBank",
    "Modality",
    "ModelError",
    "NestedBudgets",
    "OmniSiftError",
    "Parts",
    "PeakMeter",
    "Piece",
    "Pipeline",
    "Policy",
    "Prompt",
    "PromptLines",
    "ReadOptions",
    "Report",
    "Scales",
    "Scope",
    "ScoredCompressor",
    "ScoredVideoCompressor",
    "Selection",
    "Side",
    "SlidingWindow",
    "StreamAnswer",
    "StreamReport",
    "StreamSession",
    "StreamWarning",
    "SubtitleTrack",
    "TokenStream",
    "Track",
    "TrainRecipe",
    "UsageError",
    "VGAS",
    "VGASConfig",
    "VideoCompressor",
    "adapter_for",
    "advise",
    "attach",
    "build_stream",
    "calibrate",
    "distill",
    "fake_quantized",
    "find_clips",
    "fine_tune",
    "from_rho",
    "inputs",
    "inspect_clip",
    "load",
    "load_questions",
    "load_train_recipe",
    "make_compressor",
    "nano_path",
    "observe_clips",
    "open_stream",
    "read",
    "register",
    "save_selector",
]
PUBLIC = sorted(OBJECTS + MODULES)

# Modules below a public one that documentation or an example imports, each with its reason.
DEEP = {
    "omnisift.cli.app": "the entry point, for a script that replaces the command",
    "omnisift.models": "the parts of an adapter",
    "omnisift.ops.frames": "helpers for authors of methods",
    "omnisift.ops.similarity": "helpers for authors of methods",
    "omnisift.inspector.html": "the page of an inspection",
    "omnisift.pipeline.prompt": "the parts of a prompt, for another engine's processor",
    "omnisift.utils.atomic_io": "atomic writes of an example",
    "omnisift.batch.ray_driver": "an example for another engine",
    "omnisift.serving.full_checkpoint": "an example for another engine",
    "omnisift.serving.media_limits": "an example for another engine",
    "omnisift.serving.vllm": "an example for another engine",
}


def test_the_list_is_sorted_and_complete() -> None:
    assert sorted(omnisift.__all__) == PUBLIC
    assert sorted(OBJECTS) == OBJECTS
    assert sorted(MODULES) == MODULES


def test_each_name_is_on_the_api_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: omnisift\.(\w+)$", page, re.MULTILINE)) == sorted(OBJECTS)


def test_dir_shows_the_public_names() -> None:
    assert set(PUBLIC) <= set(dir(omnisift))


@pytest.mark.parametrize("name", OBJECTS)
def test_each_name_exists_and_has_a_docstring(name: str) -> None:
    thing = getattr(omnisift, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert thing.__module__.startswith("omnisift."), "public names are defined in the project"
    assert thing.__name__ == name
    assert len(inspect.getdoc(thing) or "") > 20


@pytest.mark.parametrize("name", MODULES)
def test_each_module_lists_its_names(name: str) -> None:
    module = getattr(omnisift, name)
    assert isinstance(module, ModuleType)
    if name != "errors":  # every class in it is public
        assert all(hasattr(module, entry) for entry in module.__all__)


def test_star_import_gives_exactly_the_list() -> None:
    space: dict[str, object] = {}
    exec("from omnisift import *", space)
    assert sorted(set(space) - {"__builtins__"}) == PUBLIC


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(omnisift.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    names = [alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(names) == PUBLIC


def test_the_import_loads_nothing_else() -> None:
    code = "import sys, omnisift; print(sorted(name for name in sys.modules if name.startswith(('omnisift', 'torch'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['omnisift']"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Budgett"):
        _ = omnisift.Budgett


def test_version_matches_the_package() -> None:
    from importlib.metadata import version

    assert omnisift.__version__ == version("omnisift")


def python_of(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [text] if page.suffix == ".py" else re.findall(r"^```(?:python|py)\n(.*?)^```", text, re.M | re.S)


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.py")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_and_examples_import_public_names(page: Path) -> None:
    for node in (node for code in python_of(page) for node in ast.walk(ast.parse(code))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("omnisift"):
            continue
        names = {alias.name for alias in node.names}
        if node.module == "omnisift":
            assert names <= set(PUBLIC), f"{page.name}: {names - set(PUBLIC)}"
        elif node.module.removeprefix("omnisift.") in MODULES:
            module = getattr(omnisift, node.module.removeprefix("omnisift."))
            listed = set(getattr(module, "__all__", dir(module)))
            assert names <= listed, f"{page.name}: {node.module} has no public {names - listed}"
        else:
            assert node.module in DEEP, f"{page.name} imports from {node.module}: export the names"
