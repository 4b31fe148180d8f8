"""The public surface is a list: changing it is a decision, seen in this file and in CHANGELOG.md."""

from __future__ import annotations

import inspect

import pytest

import omnisift

PUBLIC = [
    "Answer",
    "Budget",
    "Compression",
    "Modality",
    "OmniSiftError",
    "Pipeline",
    "Report",
    "Selection",
    "TokenStream",
    "attach",
    "from_rho",
    "load",
    "make_compressor",
]


def test_the_list_is_sorted_and_complete() -> None:
    assert list(omnisift.__all__) == PUBLIC
    assert sorted(PUBLIC) == PUBLIC


def test_dir_shows_the_public_names() -> None:
    assert set(PUBLIC) <= set(dir(omnisift))


@pytest.mark.parametrize("name", PUBLIC)
def test_each_name_exists_and_says_what_it_is(name: str) -> None:
    thing = getattr(omnisift, name)
    assert inspect.isclass(thing) or inspect.isfunction(thing)
    assert thing.__module__.startswith("omnisift."), "public names are our own"
    assert thing.__name__ == name
    assert len(inspect.getdoc(thing) or "") > 20


def test_star_import_gives_exactly_the_list() -> None:
    space: dict[str, object] = {}
    exec("from omnisift import *", space)
    assert sorted(set(space) - {"__builtins__"}) == PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Budgett"):
        _ = omnisift.Budgett


def test_version_matches_the_package() -> None:
    from importlib.metadata import version

    assert omnisift.__version__ == version("omnisift")
