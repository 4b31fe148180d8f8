"""Names that records of settings and methods share, in a module that imports nothing."""

AUTO = "auto"
"""In place of a method's name: the default method, which `omnisift.compressors.resolve_method` chooses."""
