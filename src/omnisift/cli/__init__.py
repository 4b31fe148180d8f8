"""The command line. Each command wraps a public function; errors are one line and exit code 2."""

from omnisift.cli.app import main

__all__ = ["main"]
