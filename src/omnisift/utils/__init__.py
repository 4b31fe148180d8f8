"""Atomic files, JSON lines, provenance and suggestions for misspelt names; shared by all packages."""
