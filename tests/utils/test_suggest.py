"""Suggestions for misspelt names."""

from __future__ import annotations

import pytest

from omnisift.utils.suggest import closest, did_you_mean

NAMES = ("omnisift", "omnizip", "v_cast", "evs", "random", "dycoke")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("OmniSIFT", "omnisift"),
        ("omnisfit", "omnisift"),
        ("v-cast", "v_cast"),
        ("V Cast", "v_cast"),
        ("vcast", "v_cast"),
        ("Random", "random"),
        ("dycok", "dycoke"),
        ("magic", None),
        ("", None),
        ("-", None),
    ],
)
def test_the_closest_name(name: str, match: str | None) -> None:
    assert closest(name, NAMES) == match


def test_the_end_of_a_message() -> None:
    assert did_you_mean("omnisfit", NAMES) == "did you mean 'omnisift'?"
    assert did_you_mean("magic", ("b", "a")) == "known: a, b"
    assert did_you_mean("magic", ()) == "known: none"
