"""Atomic files and provenance, shared by all packages."""
