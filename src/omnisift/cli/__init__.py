"""The command line. Each command is a thin face on a public function; errors are one line and exit code 2."""

from omnisift.cli.app import main

__all__ = ["main"]
