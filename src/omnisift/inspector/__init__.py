"""See what was kept: `inspect_clip` records it as a `Trace`; a page, a figure or JSON shows it (docs/inspector.md)."""

from omnisift.inspector.collect import Inspection, inspect_clip
from omnisift.inspector.trace import SCHEMA, VERSION, Trace

__all__ = ["SCHEMA", "VERSION", "Inspection", "Trace", "inspect_clip"]
