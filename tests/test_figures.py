"""The figures of README and docs (`make figures`): reproducible, and consistent with the library and the results."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from tests.helpers.benchmarks import load_benchmark

from omnisift.inspector import Inspection
from omnisift.lab.benchmark.plots import curves, digest
from omnisift.lab.benchmark.results import read_result

method_figure, quality_figure = (load_benchmark(name) for name in ("method_figure", "quality_figure"))
FOLDER = Path(__file__).parents[1] / "docs" / "figures"


@pytest.fixture(scope="module")
def inspection() -> Inspection:
    return method_figure.inspected()


def test_the_method_figure_shows_the_librarys_decision(inspection: Inspection) -> None:
    drawn = method_figure.drawing(inspection)
    assert drawn == method_figure.drawing(inspection)
    ET.fromstring(drawn)
    selection = inspection.trace.methods[1].selection
    video, audio = (kept[method_figure.CHUNK] for kept in (selection.video_kept, selection.audio_kept))
    count = {
        kind: len(re.findall(rf'<rect class="{kind}"', drawn)) for kind in ("kept", "veil", "video", "audio", "dropped")
    }
    chunk = inspection.trace.chunks[method_figure.CHUNK]
    assert (count["kept"], count["veil"]) == (video, chunk.video - video)
    assert count["dropped"] == chunk.audio - audio
    assert (count["video"], count["audio"]) == (video + 1, 2 * audio + 1), "bars, squares and the legend"
    assert f"{video + audio} of {chunk.video + chunk.audio} tokens" in drawn


def test_the_method_figure_is_reproducible(inspection: Inspection) -> None:
    assert method_figure.drawing(method_figure.inspected()) == method_figure.drawing(inspection)


def test_the_method_figure_is_accessible(inspection: Inspection) -> None:
    drawn = method_figure.drawing(inspection)
    assert "prefers-color-scheme: dark" in drawn
    assert '<title id="t">How OmniSIFT works</title>' in drawn
    assert "http" not in drawn.replace("http://www.w3.org/2000/svg", ""), "it loads nothing from the network"


def test_the_quality_figure_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        quality_figure.main(tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for label in (*quality_figure.SHOWN, "all tokens, 97.9 %"):
        assert label in text


def test_the_quality_figure_shows_the_result() -> None:
    result = read_result(quality_figure.RESULT)
    lines = next(iter(curves(result)["panels"].values()))
    drawn = [line for line in quality_figure.compose(result).axes[0].lines if len(line.get_xdata()) == 5]
    assert len(drawn) == len(quality_figure.SHOWN)
    for line, label in zip(drawn, quality_figure.SHOWN, strict=True):
        assert [list(point) for point in zip(line.get_xdata(), line.get_ydata(), strict=True)] == lines[label]


def test_labels_do_not_overlap() -> None:
    heights = quality_figure._spread({"a": 50.0, "b": 50.5, "c": 51.0, "d": 90.0}, 3.0)
    assert heights == {"a": 50.0, "b": 53.0, "c": 56.0, "d": 90.0}


def test_committed_figures_are_current(inspection: Inspection) -> None:
    """The plot contains the digest of its result; of the method figure only the words are compared, not the pixels."""
    quality = (FOLDER / "quality.svg").read_text(encoding="utf-8")
    assert digest(read_result(quality_figure.RESULT)) in quality, "run: make figures"
    words = [
        re.findall(r"<text[^>]*>(.*?)</text>", text)
        for text in (method_figure.drawing(inspection), (FOLDER / "method.svg").read_text(encoding="utf-8"))
    ]
    assert words[0] == words[1], "run: make figures"
