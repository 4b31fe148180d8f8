"""Atomic files, provenance and suggestions for misspelt names; shared by all packages."""
