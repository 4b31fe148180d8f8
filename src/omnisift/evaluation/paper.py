"""The paper's ablations beside ours: published differences, quoted, and whether nano's point the same way."""

from __future__ import annotations

from omnisift.evaluation.markdown import p_value, table
from omnisift.evaluation.results import Result

PUBLISHED = {
    "random picture": ("figure 12", -5.4, -2.2),
    "spatial only": ("figure 5", -3.4, -3.1),
    "temporal only": ("figure 5", -3.8, -3.1),
    "adaptive budget": ("table 11", -1.3, -0.7),
    "random sound": ("figure 12", -2.2, -0.9),
    "audio-only selector": ("figure 5", -3.9, -2.9),
    "direct attention, no head": ("table 12", -0.8, -0.3),
    "concatenated selector": ("table 12", -1.4, -0.6),
    "3 layers": ("table 8", -0.9, -1.0),
}
"""Row of the recipe -> (where published, points against OmniSIFT on DailyOmni and WorldSense): 7B, 35 %, retrained."""
CLEAR = 0.05
"""p from which on a difference of ours counts as one."""


def beside_the_paper(result: Result) -> str:
    """A table and a sentence: the paper's differences, ours at each share kept, and whether they agree."""
    setting, ours = result.recipe["settings"][0], result.recipe["ways"][0]["label"]
    percents = list(dict.fromkeys(row.percent for row in result.rows if row.percent))
    lines: list[list[str]] = []
    agree: list[str] = []
    against: list[str] = []
    for label, (where, daily, world) in PUBLISHED.items():
        cells, signs = [], []
        for percent in percents:
            row, whole = result.row(setting, label, percent), result.row(setting, ours, percent)
            if row is None or whole is None or row.right is None or whole.right is None:
                cells.append("n/a")
                continue
            gap, p = result.difference(row, whole)
            cells.append(f"{100 * gap.value:+.1f}, p {p_value(p)}")
            signs.append(0 if p > CLEAR else (1 if gap.value > 0 else -1))
        worse, better = signs.count(-1), signs.count(1)
        verdict = "no difference here" if not worse and not better else "agrees" if worse > better else "disagrees"
        (agree if verdict == "agrees" else against).append(label)
        lines.append([label, where, f"{daily:+.1f} / {world:+.1f}", *cells, verdict])
    head = ["exchanged", "paper", "its DailyOmni / WorldSense", *(f"ours at {percent} %" for percent in percents), ""]
    words = (
        "### Beside the paper\n\nPublished differences are those of the paper's 7B model at 35 %, each variant "
        "retrained; ours are differences of accuracy on nano, the language model untouched. *agrees* means worse than "
        f"the whole method, as in the paper, with p up to {CLEAR}, at most of the shares.\n"
    )
    last = f"nano agrees for {', '.join(agree) or 'none'}; it does not for {', '.join(against) or 'none'}.\n"
    return "\n".join([words, table(head, lines), last])
