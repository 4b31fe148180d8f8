"""Render an inspection as one self-contained .html file: HTML tables, and drawings by its own script."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template

from omnisift.inspector.collect import Inspection
from omnisift.inspector.downsample import downsample_trace
from omnisift.inspector.page_data import page_data
from omnisift.inspector.tables import answers, counts, evidence, facts, seconds


def render(inspection: Inspection) -> str:
    """The report as HTML text. It loads nothing from the network."""
    trace, shown = inspection.trace, downsample_trace(inspection.trace)
    notes = (*trace.notices, *shown.notes)
    data = json.dumps(page_data(inspection, shown), separators=(",", ":"), allow_nan=False)
    return Template(_part("page.html")).substitute(
        title=escape(f"What was kept of {trace.clip.path.replace(chr(92), '/').rpartition('/')[2]}"),
        style=_part("page.css"),
        script=_part("data.js") + _part("draw.js") + _part("page.js"),
        # "</" inside a string would end the script element.
        data=data.replace("<", "\\u003c"),
        facts=facts(trace),
        notes="".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        question=escape(trace.question),
        answers=answers(trace),
        evidence=evidence(trace),
        counts=counts(trace),
        seconds=seconds(trace),
    )


def _part(name: str) -> str:
    return files("omnisift.inspector").joinpath("page").joinpath(name).read_text(encoding="utf-8")
