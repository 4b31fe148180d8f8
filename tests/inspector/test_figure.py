"""Still figures: .svg and .png files that match the trace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from media_files import write_audio, write_video
from PIL import Image

from omnisift.inspector import Inspection, figure
from omnisift.inspector.figure import compose, draw


def test_svg_and_png(compared: Inspection, tmp_path: Path) -> None:
    svg, png, again = tmp_path / "a.svg", tmp_path / "a.png", tmp_path / "b.svg"
    for path in (svg, png, again):
        draw(compared, path)
    text = svg.read_text()
    for method in compared.trace.methods:
        assert method.label in text, "text is stored as text"
    assert "<path" in text
    assert without_names(text) == without_names(again.read_text())
    with Image.open(png) as image:
        assert image.width == 1500


def without_names(svg: str) -> str:
    """matplotlib names clip paths differently in every drawing."""
    return re.sub(r"#?\bp[0-9a-f]{10}\b", "", svg)


def test_rows_share_one_time_axis(compared: Inspection) -> None:
    axes = compose(compared).axes
    assert len(axes) == 3 + 1 + 1 + 3
    assert {each.get_xlim() for each in axes} == {(0.0, 6.0)}
    bars = axes[5].containers[0]
    selection = compared.trace.methods[1].selection
    colors = {tuple(bar.get_facecolor()) for bar in bars}
    assert len(bars) == 150
    assert len(colors) == 2
    kept = bars[int(selection.kept[compared.trace.tokens.indices(2)].argmax())].get_facecolor()
    assert sum(tuple(bar.get_facecolor()) == tuple(kept) for bar in bars) == sum(selection.audio_kept)


@pytest.mark.parametrize("kind", ["silent", "audio"])
def test_one_modality(inspected, tmp_path: Path, kind: str) -> None:
    clip = write_video(tmp_path / "f.mp4", 3, audio=False) if kind == "silent" else write_audio(tmp_path / "s.m4a")
    inspection = inspected(clip, "omnisift", question="What costs $5 and $6?")
    assert len(compose(inspection).axes) == (1 if kind == "silent" else 3)
    draw(inspection, tmp_path / "one.svg")
    assert "$5" in (tmp_path / "one.svg").read_text()


def test_long_audio_is_downsampled_with_a_note(compared: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "MAX_BARS", 50)
    axes = compose(compared).axes[5]
    assert len(axes.containers[0]) == 50
    assert "one in 3" in axes.get_title()


def test_frames_are_evenly_spaced(compared: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure, "MAX_FRAMES", 4)
    strip = compose(compared).axes[0]
    assert [image.get_extent()[0] for image in strip.images] == [0, 2, 4]
    assert "some of them" in strip.get_title()
