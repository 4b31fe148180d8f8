"""The waveform: placed by time stamp, bounded, and free of invalid samples."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import clip_writer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisift.media import SAMPLE_RATE, read
from omnisift.media.audio import AudioCollector, to_mono
from omnisift.media.clock import SKEW
from omnisift.media.joins import remove_spikes
from omnisift.media.passes import SampleQueue


def piece(samples: np.ndarray, rate: int = SAMPLE_RATE) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.asarray(samples, np.float32)[None], format="fltp", layout="mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def ones(seconds: float, rate: int = SAMPLE_RATE) -> av.AudioFrame:
    return piece(np.full(round(seconds * rate), 0.5), rate)


def test_a_gap_is_silent_and_what_follows_stays_in_place() -> None:
    collector = AudioCollector(60)
    collector.add(0.0, ones(1.0))
    collector.add(1.5, ones(0.5))
    wave = collector.finish({})
    assert len(wave) == 2 * SAMPLE_RATE
    assert (wave[SAMPLE_RATE:24_000] == 0).all()
    assert (wave[24_000:] == 0.5).all()
    assert collector.warnings() == ["1 gap(s) in the audio filled with silence"]


@pytest.mark.parametrize("stray", [0.0, 0.02, -0.02])
def test_stamps_that_stray_a_little_are_no_gap(stray: float) -> None:
    collector = AudioCollector(60)
    for number in range(10):
        collector.add(number * 0.1 + stray * (number % 2), ones(0.1))
    wave = collector.finish({})
    assert len(wave) == SAMPLE_RATE
    assert (wave == 0.5).all()


def test_after_a_lost_packet_small_gaps_count() -> None:
    collector = AudioCollector(60)
    collector.add(0.0, ones(0.1))
    collector.follow_next_time()
    collector.add(0.12, ones(0.1))
    assert len(collector.finish({})) == round(0.22 * SAMPLE_RATE)


def test_audio_before_zero_and_after_the_limit_is_dropped() -> None:
    collector = AudioCollector(1.0)
    collector.add(-0.5, piece(np.linspace(0, 0.9, 3 * SAMPLE_RATE)))
    wave = collector.finish({})
    assert collector.full
    assert len(wave) == SAMPLE_RATE
    assert wave[0] == pytest.approx(0.9 / 6, abs=1e-3)


def test_overlapping_pieces_are_written_once() -> None:
    collector = AudioCollector(60)
    collector.add(0.0, ones(1.0))
    collector.add(0.5, ones(1.0))
    assert len(collector.finish({})) == round(1.5 * SAMPLE_RATE)


def test_the_rate_may_change_within_a_track() -> None:
    collector = AudioCollector(60)
    collector.add(0.0, ones(1.0, 48_000))
    collector.add(1.0, ones(1.0, 8_000))
    wave = collector.finish({})
    assert len(wave) == pytest.approx(2 * SAMPLE_RATE, abs=40)
    assert np.abs(wave[500:-500] - 0.5).max() < 0.1


def test_padding_is_cut_only_where_it_is_short() -> None:
    for end, padding, length in ((1.0, 0.1, 1.0), (0.5, 0.1, 1.05), (2.0, 0.1, 1.05)):
        collector = AudioCollector(60)
        collector.add(0.0, ones(1.05))
        assert len(collector.finish({end: padding})) == round(length * SAMPLE_RATE)


@given(
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=8),
    gap=st.integers(0, 5000),
    padding=st.integers(-100, 1700),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_samples_that_are_taken_early_are_no_padding(lengths: list[int], gap: int, padding: int, seed: int) -> None:
    """A queue from which all that is ready is taken at once gives the same as the whole waveform."""
    noise = np.random.default_rng(seed)
    queue, whole = SampleQueue(60.0), AudioCollector(60.0)
    place, parts = gap, []
    for length in lengths:
        samples = noise.uniform(-1.5, 1.5, length)
        for collector in (queue, whole):
            collector.add(place / SAMPLE_RATE, piece(samples))
        parts.append(queue.take(queue.ready))
        place += length
    ends = {(place - padding) / SAMPLE_RATE: SKEW}
    expected = whole.finish(ends)
    assert len(queue.finish(ends)) == len(expected)
    np.testing.assert_array_equal(np.concatenate([*parts, queue.take(queue.ready)]), expected)
    assert queue.warnings() == whole.warnings()


@pytest.mark.parametrize(
    ("kind", "top"), [("u8", 2 / 127), ("s16", 1e-4), ("s32", 1e-6), ("fltp", 1e-6), ("dblp", 1e-6)]
)
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_any_sample_format_to_mono(kind: str, top: float, layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, 256))
    samples = samples if kind == "dblp" else samples.astype(np.float32)
    frame = av.AudioFrame.from_ndarray(clip_writer.as_format(samples, kind), format=kind, layout=layout)
    np.testing.assert_allclose(to_mono(frame), samples.mean(axis=0), atol=top)


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
    samples = np.stack([0.4 * np.sin(2 * np.pi * f * time) for f in (440.0, 3000.0)]).astype(np.float32)
    clip_writer.write(tmp_path / "a.wav", video=None, audio="pcm_s16le", layout="stereo", waveform=samples)
    waveform = read(tmp_path / "a.wav").waveform
    expected = signal.resample_poly(samples.mean(axis=0), 1, 3)
    assert len(waveform) == len(expected)
    assert np.abs(waveform - expected)[200:-200].max() < 2e-3


def test_one_broken_stamp_does_not_stretch_the_video() -> None:
    stamps = np.array([0.0, 1.0, 2.0, 11_930.0, 4.0, 5.0])
    np.testing.assert_array_equal(remove_spikes(stamps, 1.0), [0.0, 1.0, 2.0, np.nan, 4.0, 5.0])
    slow = np.array([0.0, 60.0, 30.0, 120.0, 90.0])  # one image per half minute, in decoding order
    np.testing.assert_array_equal(remove_spikes(slow, 45.0), slow)
