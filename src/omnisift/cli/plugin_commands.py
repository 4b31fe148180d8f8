"""`omnisift plugin-path`: for `swift sft --external_plugins "$(omnisift plugin-path)"`."""

from __future__ import annotations

import typer


def plugin_path() -> None:
    """Print the path of the ms-swift plugin.

    For ms-swift's --external_plugins (docs/ms-swift.md).
    """
    from omnisift.integrations.ms_swift import plugin_path as path_of

    typer.echo(path_of())
