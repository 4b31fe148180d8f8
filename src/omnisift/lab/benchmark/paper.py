"""The paper's ablations next to those on nano: published differences, measured ones, and whether they agree."""

from __future__ import annotations

from omnisift.evaluation.tables import table
from omnisift.lab.benchmark.results import Result

PUBLISHED = {
    "random video": ("figure 12", -5.4, -2.2),
    "spatial only": ("figure 5", -3.4, -3.1),
    "temporal only": ("figure 5", -3.8, -3.1),
    "adaptive budget": ("table 11", -1.3, -0.7),
    "random audio": ("figure 12", -2.2, -0.9),
    "audio-only selector": ("figure 5", -3.9, -2.9),
    "direct attention, no head": ("table 12", -0.8, -0.3),
    "concatenated selector": ("table 12", -1.4, -0.6),
    "3 layers": ("table 8", -0.9, -1.0),
}
"""Row of the recipe -> (source, points against OmniSIFT on DailyOmni and WorldSense): 7B, 35 %, retrained."""
CLEAR = 0.05
"""Largest p at which a measured difference counts."""


def compare_with_paper(result: Result) -> str:
    """Return a table and a sentence on the published and the measured difference of each exchanged part."""
    setting, first = result.recipe["settings"][0], next(iter(result.methods))
    percents = list(dict.fromkeys(row.percent for row in result.rows if row.percent))
    lines: list[list[str]] = []
    agree: list[str] = []
    differ: list[str] = []
    for label, (source, daily, world) in PUBLISHED.items():
        cells, signs = [], []
        for percent in percents:
            row, complete = result.row(setting, label, percent), result.row(setting, first, percent)
            if row is None or complete is None or row.right is None or complete.right is None:
                cells.append("n/a")
                continue
            # A difference that may be chance has no sign.
            gap, p = result.difference(row, complete)
            cells.append(f"{100 * gap.value:+.1f}" if p <= CLEAR else f"({100 * gap.value:+.1f})")
            signs.append(0 if p > CLEAR else (1 if gap.value > 0 else -1))
        worse, better = signs.count(-1), signs.count(1)
        outcome = "no difference here" if not worse and not better else "agrees" if worse > better else "disagrees"
        (agree if outcome == "agrees" else differ).append(label)
        lines.append([label, source, f"{daily:+.1f} / {world:+.1f}", *cells, outcome])
    head = ["exchanged part", "paper", "DailyOmni / WorldSense", *(f"nano, {percent} %" for percent in percents), ""]
    intro = (
        "### Compared with the paper\n\nThe published differences, in points, are those of the paper's 7B model at "
        "35 %, each variant retrained. Those on nano are measured without training the language model; in brackets, p "
        f"is above {CLEAR}. *agrees* means that the variant is worse than the complete method at most percentages.\n"
    )
    last = f"nano agrees for {', '.join(agree) or 'none'}; it does not for {', '.join(differ) or 'none'}.\n"
    return "\n".join([intro, table(head, lines), last])
