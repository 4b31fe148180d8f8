"""Show which tokens a method kept: `inspect_clip` records a `Trace`, rendered as page, figure or JSON."""

from omnisift.inspector.collect import Inspection, inspect_clip
from omnisift.inspector.trace import SCHEMA, VERSION, Trace

__all__ = ["SCHEMA", "VERSION", "Inspection", "Trace", "inspect_clip"]
