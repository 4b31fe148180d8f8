"""The waveform: laid by time stamp, bounded, and free of what is no number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import film
import numpy as np
import pytest

from omnisift.media import SAMPLE_RATE, read
from omnisift.media.audio import AudioCollector, to_mono
from omnisift.media.index import _without_spikes


def piece(samples: np.ndarray, rate: int = SAMPLE_RATE) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def ones(seconds: float, rate: int = SAMPLE_RATE) -> av.AudioFrame:
    return piece(np.full(round(seconds * rate), 0.5), rate)


def test_a_gap_is_silent_and_what_follows_stays_in_place() -> None:
    taker = AudioCollector(60)
    taker.hear(0.0, ones(1.0))
    taker.hear(1.5, ones(0.5))
    wave = taker.finish({})
    assert len(wave) == 2 * SAMPLE_RATE
    assert (wave[SAMPLE_RATE:24_000] == 0).all()
    assert (wave[24_000:] == 0.5).all()
    assert taker.complaints() == ["1 gap(s) in the sound filled with silence"]


@pytest.mark.parametrize("stray", [0.0, 0.02, -0.02])
def test_stamps_that_stray_a_little_are_no_gap(stray: float) -> None:
    taker = AudioCollector(60)
    for number in range(10):
        taker.hear(number * 0.1 + stray * (number % 2), ones(0.1))
    wave = taker.finish({})
    assert len(wave) == SAMPLE_RATE
    assert (wave == 0.5).all()


def test_after_a_lost_packet_small_gaps_count() -> None:
    taker = AudioCollector(60)
    taker.hear(0.0, ones(0.1))
    taker.miss()
    taker.hear(0.12, ones(0.1))
    assert len(taker.finish({})) == round(0.22 * SAMPLE_RATE)


def test_sound_before_zero_and_after_the_limit_falls_away() -> None:
    taker = AudioCollector(1.0)
    taker.hear(-0.5, piece(np.linspace(0, 0.9, 3 * SAMPLE_RATE)))
    wave = taker.finish({})
    assert taker.full
    assert len(wave) == SAMPLE_RATE
    assert wave[0] == pytest.approx(0.9 / 6, abs=1e-3)


def test_overlapping_pieces_are_laid_once() -> None:
    taker = AudioCollector(60)
    taker.hear(0.0, ones(1.0))
    taker.hear(0.5, ones(1.0))
    assert len(taker.finish({})) == round(1.5 * SAMPLE_RATE)


def test_the_rate_may_change_on_the_way() -> None:
    taker = AudioCollector(60)
    taker.hear(0.0, ones(1.0, 48_000))
    taker.hear(1.0, ones(1.0, 8_000))
    wave = taker.finish({})
    assert len(wave) == pytest.approx(2 * SAMPLE_RATE, abs=40)
    assert np.abs(wave[500:-500] - 0.5).max() < 0.1


def test_padding_is_cut_only_where_it_is_short() -> None:
    for end, padding, length in ((1.0, 0.1, 1.0), (0.5, 0.1, 1.05), (2.0, 0.1, 1.05)):
        taker = AudioCollector(60)
        taker.hear(0.0, ones(1.05))
        assert len(taker.finish({end: padding})) == round(length * SAMPLE_RATE)


@pytest.mark.parametrize(
    ("kind", "top"), [("u8", 2 / 127), ("s16", 1e-4), ("s32", 1e-6), ("fltp", 1e-6), ("dblp", 1e-6)]
)
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_any_sample_format_to_mono(kind: str, top: float, layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    sound = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, 256))
    sound = sound if kind == "dblp" else sound.astype(np.float32)
    frame = av.AudioFrame.from_ndarray(film.as_format(sound, kind), format=kind, layout=layout)
    np.testing.assert_allclose(to_mono(frame), sound.mean(axis=0), atol=top)


def test_eight_planar_channels_to_mono() -> None:
    """PyAV counts nine planes here, and its own conversion reads past the last one."""
    frame = av.AudioFrame(format="fltp", layout="7.1", samples=1000)
    for channel in range(8):
        plane = frame.planes[channel]
        plane.update(np.full(plane.buffer_size // 4, channel / 8, np.float32).tobytes())
    mono = to_mono(frame)
    assert mono.shape == (1000,)
    assert np.allclose(mono, 3.5 / 8)


def test_resampling_agrees_with_another_resampler(tmp_path: Path) -> None:
    """48 kHz stereo to 16 kHz mono against scipy's polyphase filter, away from the ends."""
    signal = pytest.importorskip("scipy.signal")
    time = np.arange(96_000) / 48_000
    sound = np.stack([0.4 * np.sin(2 * np.pi * f * time) for f in (440.0, 3000.0)]).astype(np.float32)
    film.write(tmp_path / "a.wav", video=None, audio="pcm_s16le", layout="stereo", sound=sound)
    ours = read(tmp_path / "a.wav").waveform
    theirs = signal.resample_poly(sound.mean(axis=0), 1, 3)
    assert len(ours) == len(theirs)
    assert np.abs(ours - theirs)[200:-200].max() < 2e-3


def test_one_broken_stamp_does_not_stretch_the_film() -> None:
    stamps = np.array([0.0, 1.0, 2.0, 11_930.0, 4.0, 5.0])
    np.testing.assert_array_equal(_without_spikes(stamps), [0.0, 1.0, 2.0, np.nan, 4.0, 5.0])
    slow = np.array([0.0, 60.0, 30.0, 120.0, 90.0])  # one picture in half a minute, in decoding order
    np.testing.assert_array_equal(_without_spikes(slow), slow)
