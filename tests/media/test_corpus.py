"""Every file of the corpus gives its expected result: media, or one typed error of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from corpus import CASES, Case, made

from omnisift.errors import OmniSiftError
from omnisift.media import SAMPLE_RATE, Media, read

SMALL = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}


def onset(waveform: np.ndarray) -> float:
    """Seconds: when the beep begins."""
    return float(np.flatnonzero(np.abs(waveform) > 0.15)[0]) / SAMPLE_RATE


def first_white(media: Media) -> float:
    """Seconds on the sampling grid: the moment of the first white image."""
    return float(np.flatnonzero(media.images.max(axis=(1, 2, 3)) > 235)[0]) / media.fps


def test_the_corpus_covers_many_kinds_of_files() -> None:
    assert len(CASES) >= 50
    assert len({case.category for case in CASES}) >= 12
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", [c for c in CASES if c.expected.error], ids=lambda c: ascii(c.name))
def test_bad_files_give_one_typed_error(case: Case, folder: Path) -> None:
    with pytest.raises(OmniSiftError) as caught:
        read(made(case, folder), **SMALL, **case.read)
    assert isinstance(caught.value, case.expected.error), f"{type(caught.value).__name__}: {caught.value}"
    message = str(caught.value)
    assert "\n" not in message
    assert "0x" not in message, "no addresses"
    assert "Errno" not in message
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None, "FFmpeg's own error is not shown"
    assert case.name.split("\0")[0] in message


@pytest.mark.parametrize("case", [c for c in CASES if not c.expected.error], ids=lambda c: ascii(c.name))
def test_files_give_the_expected_result(case: Case, folder: Path) -> None:
    expected = case.expected
    media = read(made(case, folder), **SMALL, **case.read)
    check_consistent(media)
    assert media.fps == pytest.approx(expected.fps)
    assert media.capped == expected.capped, media.warnings
    assert expected.warns in " | ".join(media.warnings)
    assert (media.bad_packets > 0) or not expected.bad
    if expected.images is not None:
        assert (0 if media.images is None else len(media.images)) == expected.images
    if expected.audio is not None:
        assert media.audio_seconds == pytest.approx(expected.audio, abs=0.001)
    if expected.size is not None:
        assert media.images.shape[1:3] == expected.size
    if expected.flash is not None:
        assert first_white(media) == pytest.approx(expected.flash, abs=1e-6)
    if expected.beep is not None:
        assert onset(media.waveform) == pytest.approx(expected.beep, abs=0.03)
    if expected.like:
        other = read(made(next(c for c in CASES if c.name == expected.like), folder), **SMALL)
        np.testing.assert_array_equal(media.images, other.images)
        np.testing.assert_array_equal(media.waveform, other.waveform)


def check_consistent(media: Media) -> None:
    """Holds for every result."""
    assert media.has_video or media.has_audio
    assert media.has_video == (media.images is not None)
    assert len(media.times) == len(media.indices) == (len(media.images) if media.has_video else 0)
    if media.has_video:
        assert media.images.dtype == np.uint8
        assert len(media.images) % 2 == 0
        assert media.images.shape[1] % 28 == media.images.shape[2] % 28 == 0
        assert (np.diff(media.times) >= 0).all()
        assert (np.diff(media.indices) >= 0).all()
        assert media.seconds_per_grid == 2 / media.fps
    if media.has_audio:
        assert media.waveform.dtype == np.float32
        assert media.waveform.ndim == 1
        assert np.isfinite(media.waveform).all()
        assert np.abs(media.waveform).max() <= 1
    assert media.seconds == pytest.approx(max(media.audio_seconds, media.video_seconds))
