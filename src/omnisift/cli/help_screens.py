"""Command classes whose help screens show no type for options that take no value."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command; ``--force`` is shown as such, not as ``--force <bool>``."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, flags without a metavar."""
        return _without_types(super().get_params(ctx))


class Group(TyperGroup):
    """As `Command`, for a group of commands."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, flags without a metavar."""
        return _without_types(super().get_params(ctx))


def _without_types(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return parameters
