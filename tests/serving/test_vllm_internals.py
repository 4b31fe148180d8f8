"""Every internal of vLLM that the plugin relies on exists in the installed release."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import omnisift.serving
from omnisift.errors import UsageError
from omnisift.serving.families import SERVED
from omnisift.serving.vllm import internals, refusal, register

SERVING = Path(omnisift.serving.__file__).parent
PUBLIC = {"vllm", "vllm.entrypoints.openai.api_server"}


def imports(path: Path) -> set[str]:
    """Modules of vLLM that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name for name in found if name.split(".")[0] == "vllm"}


def test_no_other_file_imports_from_inside_vllm() -> None:
    used = {path.name: imports(path) - PUBLIC for path in SERVING.rglob("*.py")}
    assert {name: modules for name, modules in used.items() if modules} == {
        "refusal.py": {"vllm.model_executor.models.config"}  # for releases in which the table may be wrong
    }


def test_every_listed_class_has_a_place() -> None:
    assert internals.USED.keys() <= internals.PLACES.keys()
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        internals.Nothing  # noqa: B018


@pytest.mark.parametrize(
    ("version", "supported"), [("0.32.0", True), ("0.32.1rc1", True), ("0.33.0", False), ("0.3", False)]
)
def test_releases(version: str, supported: bool) -> None:
    assert internals.is_supported(version) == supported


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.parametrize("name", internals.PLACES)
def test_a_name_exists(name: str) -> None:
    found = getattr(internals, name)
    missing = [member for member in internals.USED.get(name, ()) if not hasattr(found, member)]
    if missing:  # dataclass fields and attributes that the constructor sets
        source = "".join(inspect.getsource(part) for part in found.__mro__[:-1])
        missing = [member for member in missing if f"self.{member} =" not in source and f"{member}:" not in source]
    assert not missing


@pytest.mark.slow
@pytest.mark.vllm
def test_another_release_refuses_the_plugins_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the installed release were not supported: both ways on which a server could come to the model."""
    from vllm import ModelRegistry

    configs = dict(internals.MODELS_CONFIG_MAP)
    models = dict(ModelRegistry.models)
    monkeypatch.setattr(internals, "SUPPORTED", ("9.",))
    message = (
        r"^vLLM 0\.\S+ is installed, but omnisift's plugin needs 9\.x; install that, or serve .* without the plugin$"
    )
    try:
        register()
        for family in SERVED.values():
            for function in ("verify_and_update_config", "verify_and_update_model_config"):
                with pytest.raises(UsageError, match=message):
                    getattr(internals.MODELS_CONFIG_MAP[family.architecture], function)(None)
            model = ModelRegistry.models[family.architecture]
            assert model.inspect_model_cls().is_text_generation_model
            with pytest.raises(UsageError, match=message):
                model.load_model_cls()(vllm_config=None)
            assert model.load_model_cls() is refusal.RefusedModel
    finally:
        internals.MODELS_CONFIG_MAP.clear()
        internals.MODELS_CONFIG_MAP.update(configs)
        ModelRegistry.models.clear()
        ModelRegistry.models.update(models)
