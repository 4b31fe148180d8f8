"""Command classes: help screens that show no type for options without a value, and no empty values of options."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from omnisift.errors import UsageError


class Command(TyperCommand):
    """A command; ``--force`` is shown as such, not as ``--force <bool>``."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, flags without a metavar."""
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse arguments; an option with an empty value, as of a variable that isn't set, is an error.

        Raises:
            UsageError: an option has an empty value, which as a path would be the current folder.
        """
        given = args[: args.index("--")] if "--" in args else args
        options = [parameter for parameter in self.get_params(ctx) if not getattr(parameter, "is_flag", True)]
        named = {name for parameter in options for name in parameter.opts}
        for number, text in enumerate(given):
            name, equals, value = text.partition("=")
            empty = not value if equals else given[number + 1 : number + 2] == [""]
            if name in named and empty:
                raise UsageError(f"option {name} got an empty value: give one, or leave the option out")
        return super().parse_args(ctx, args)


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
