"""The report as one .html file that asks nobody for anything: plain HTML tables, the rest drawn by its own script."""

from __future__ import annotations

import json
from html import escape
from importlib.resources import files
from string import Template

from omnisift.inspector.collect import Inspection
from omnisift.inspector.downsample import thin
from omnisift.inspector.page_data import page_data
from omnisift.inspector.tables import answers, counts, evidence, facts, seconds


def render(inspection: Inspection) -> str:
    """The whole page."""
    trace, thinned = inspection.trace, thin(inspection.trace)
    notes = (*trace.notices, *thinned.notes)
    return Template(_part("page.html")).substitute(
        title=escape(f"What was kept of {trace.clip.path.replace(chr(92), '/').rpartition('/')[2]}"),
        style=_part("page.css"),
        script=_part("data.js") + _part("draw.js") + _part("page.js"),
        # A script element ends at the first "</", wherever it stands.
        data=json.dumps(page_data(inspection, thinned), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
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
