"""Which frames become images: both rules against readable formulas, and image sizes."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import clip_writer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnisift.errors import TooBig, UsageError
from omnisift.media import read, smart_size
from omnisift.media.index import VideoIndex
from omnisift.media.sampling import by_index, by_time

SMALL = {"min_pixels": 28 * 28, "max_pixels": 16 * 28 * 28}


def published_rule(total: int, rate: float, fps: float = 2.0, max_frames: int = 768) -> tuple[list[int], float]:
    """The same rule in exact fractions: the count, then evenly spaced numbers from the first to the last frame."""
    count = total / rate * fps
    count = min(max(count, 4), 2 * (min(max_frames, total) // 2), total)
    count = 2 * math.floor(count / 2)
    numbers = [Fraction(k * (total - 1), count - 1) for k in range(count)]
    return [round(n) for n in numbers], count / total * rate


@settings(max_examples=300, deadline=None)
@given(
    total=st.integers(2, 40_000),
    rate=st.sampled_from([1.0, 10.0, 24.0, 24000 / 1001, 25.0, 29.97, 30.0, 60.0, 119.88]),
    max_frames=st.sampled_from([4, 64, 768]),
)
def test_qwen_rule_equals_the_readable_formula(total: int, rate: float, max_frames: int) -> None:
    numbers, fps = published_rule(total, rate, max_frames=max_frames)
    grid = by_index(np.arange(total, dtype=np.float64), rate, 2.0, max_frames)
    assert grid.fps == fps
    assert len(grid.moments) == len(numbers)
    distance = np.abs(grid.moments - numbers)
    # The published rule steps in float32: it may round to the other side where a step lies within rounding of one half.
    steps = np.arange(len(numbers)) * ((total - 1) / max(len(numbers) - 1, 1))
    near_half = np.abs(steps % 1 - 0.5) < 0.01
    assert (distance[~near_half] == 0).all()
    assert (distance <= 1).all()


# (frames, average rate) -> number of images, sum of numbers, sum of squares: recorded from qwen-omni-utils 0.0.9
RECORDED: dict[tuple[int, float], tuple[int, int, int]] = {
    (2, 25.0): (2, 1, 1),
    (3, 25.0): (2, 2, 4),
    (5, 30.0): (4, 8, 26),
    (100, 25.0): (8, 396, 28060),
    (720, 24.0): (60, 21570, 10427406),
    (1691, 24.0): (140, 118300, 133766770),
    (359, 30.0): (22, 3938, 962874),
    (4500, 29.97): (300, 674850, 2027495290),
    (14985, 30000 / 1001): (768, 5753856, 57514617312),
    (54000, 30.0): (768, 20735616, 746955012992),
    (90000, 25.0): (768, 34559616, 2074905818180),
    (7, 1.0): (6, 18, 82),
    (1023, 60.0): (34, 17374, 12014036),
}


@pytest.mark.parametrize(("total", "rate"), RECORDED)
def test_qwen_rule_equals_recorded_runs(total: int, rate: float) -> None:
    numbers = by_index(np.arange(total, dtype=np.float64), rate, 2.0, 768).moments.astype(np.int64)
    assert (len(numbers), int(numbers.sum()), int((numbers**2).sum())) == RECORDED[total, rate]


def test_qwen_rule_on_a_file(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "a.mp4")
    media = read(tmp_path / "a.mp4", sampling="qwen", **SMALL)
    numbers, fps = published_rule(100, 25.0)
    assert media.indices.tolist() == numbers
    assert media.fps == fps == 2.0
    np.testing.assert_allclose(media.times, np.array(numbers) / 25, atol=1e-6)


@settings(max_examples=200, deadline=None)
@given(
    seconds=st.floats(0.02, 40_000),
    fps=st.sampled_from([0.1, 0.5, 1.0, 2.0, 3.0, 25.0]),
    max_frames=st.integers(2, 800),
)
def test_time_rule(seconds: float, fps: float, max_frames: int) -> None:
    grid = by_time(seconds, fps, max_frames)
    count = len(grid.moments)
    assert count % 2 == 0
    assert 2 <= count <= max_frames
    np.testing.assert_allclose(grid.moments, np.arange(count) / grid.fps)
    if grid.capped:
        assert grid.fps < fps + 1e-9 or count >= 2
        assert grid.fps == pytest.approx(count / seconds)
    else:
        assert grid.fps == fps
        assert abs(count - seconds * fps) <= 2.0


@pytest.mark.parametrize(
    ("seconds", "count"),
    [(0.0, 2), (2.0, 4), (2.2, 4), (2.24, 4), (2.25, 6), (2.4, 6), (3.0, 6), (3.24, 6), (3.25, 8), (3.3, 8)],
)
def test_by_time_rounds_half_an_image_up_then_to_an_even_number(seconds: float, count: int) -> None:
    """At 2 images per second; 4.5 images become 5, then 6."""
    assert len(by_time(seconds, 2.0, 768).moments) == count


def test_both_rules_give_equal_pixels_and_samples_where_they_choose_the_same_frame(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "a.mp4", fps=30)
    by_time_rule = read(tmp_path / "a.mp4", **SMALL)
    by_index_rule = read(tmp_path / "a.mp4", sampling="qwen", **SMALL)
    both = sorted(set(by_time_rule.indices) & set(by_index_rule.indices))
    assert len(both) >= 1
    for number in both:
        a = by_time_rule.images[list(by_time_rule.indices).index(number)].astype(int)
        b = by_index_rule.images[list(by_index_rule.indices).index(number)].astype(int)
        assert np.abs(a - b).max() <= 1
    np.testing.assert_array_equal(by_time_rule.waveform, by_index_rule.waveform)


def test_pixels_equal_a_plain_decoder(tmp_path: Path) -> None:
    """Every frame is decoded by a bare loop, and the sampled ones are compared."""
    import av

    clip_writer.write(tmp_path / "a.mp4", size=(112, 56), codec_options={"preset": "medium"})
    media = read(tmp_path / "a.mp4", **SMALL)
    with av.open(str(tmp_path / "a.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    np.testing.assert_array_equal(media.indices, np.floor(np.arange(8) * 12.5))
    for image, number in zip(media.images, media.indices, strict=True):
        assert np.abs(image.astype(int) - frames[number]).max() <= 2


def test_audio_equals_a_plain_decoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    samples = np.cumsum(rng.normal(0, 0.02, (1, 64_000)), axis=1).astype(np.float32)
    samples = np.clip(samples - samples.mean(), -0.9, 0.9)
    clip_writer.write(tmp_path / "a.wav", video=None, audio="pcm_s16le", rate=16_000, waveform=samples)
    waveform = read(tmp_path / "a.wav").waveform
    assert np.abs(waveform - samples[0]).max() < 1e-4


def skipping_index(keys: list[int], order: list[float]) -> VideoIndex:
    key = np.isin(np.arange(len(order)), keys)
    return VideoIndex(np.array(order, float), key, np.sort(np.array(order, float)), max(order) + 1, 1.0)


def test_only_needed_packets_are_decoded() -> None:
    closed = skipping_index([0, 4, 8], [0, 2, 1, 3, 4, 6, 5, 7, 8, 9])
    assert np.flatnonzero(closed.packets_for(np.array([5.0]))).tolist() == [4, 5, 6]
    assert np.flatnonzero(closed.packets_for(np.array([0.0, 9.0]))).tolist() == [0, 8, 9]
    opened = skipping_index([0, 3], [0, 1, 2, 6, 4, 5, 7])
    assert np.flatnonzero(opened.packets_for(np.array([4.0]))).tolist() == [0, 1, 2, 3, 4], (
        "depends on the previous group"
    )
    assert np.flatnonzero(opened.packets_for(np.array([7.0]))).tolist() == [3, 4, 5, 6]


@settings(max_examples=300, deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_sizes(height: int, width: int) -> None:
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(TooBig, match="200"):
            smart_size(height, width)
        return
    new_height, new_width = smart_size(height, width)
    assert new_height % 28 == new_width % 28 == 0
    assert smart_size(new_height, new_width) == (new_height, new_width) or min(new_height, new_width) == 28, (
        "a processor leaves it as it is"
    )
    if min(new_height, new_width) > 28:
        assert 128 * 784 <= new_height * new_width <= 320 * 784
        assert new_height / new_width == pytest.approx(height / width, rel=2.1 * 28 / min(new_height, new_width))


def test_known_sizes() -> None:
    assert smart_size(720, 1280) == (364, 644)
    assert smart_size(112, 112) == (336, 336)
    assert smart_size(112, 112, min_pixels=784, max_pixels=784 * 16) == (112, 112)
    assert smart_size(1080, 1920, max_pixels=768 * 784) == (560, 1008)


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0},
        {"fps": math.nan},
        {"max_frames": 1},
        {"start": -1},
        {"start": 2, "end": 1},
        {"max_seconds": 0},
        {"sampling": "best"},
        {"video": False, "audio": False},
        {"min_pixels": 2000, "max_pixels": 1000},
    ],
    ids=str,
)
def test_wrong_arguments(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"got|need|leave"):
        read(tmp_path / "any.mp4", **options)


def test_tags_come_through(tmp_path: Path) -> None:
    clip_writer.write(tmp_path / "a.mp4", seconds=0.4, tags={"comment": "made by hand"})
    assert read(tmp_path / "a.mp4", **SMALL).tags["comment"] == "made by hand"


def test_pixels_agree_with_the_published_resizing(tmp_path: Path) -> None:
    """torchvision's antialiased bicubic filter, which qwen-omni-utils uses: 1 of 255 apart on average, 24 at most."""
    import av
    import torch
    from torchvision.transforms.v2 import functional

    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    big = np.array(functional.resize(torch.from_numpy(noise).permute(2, 0, 1), [360, 480]).permute(1, 2, 0))
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=2)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv444p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(big, format="rgb24")))
        container.mux(stream.encode(None))
    image = read(tmp_path / "a.mkv", min_pixels=784, max_pixels=112 * 784).images[0].astype(int)
    with av.open(str(tmp_path / "a.mkv")) as container:
        plain = torch.from_numpy(next(container.decode(video=0)).to_ndarray(format="rgb24")).permute(2, 0, 1)
    bicubic = functional.InterpolationMode.BICUBIC
    expected = functional.resize(plain, list(image.shape[:2]), interpolation=bicubic, antialias=True).permute(1, 2, 0)
    distance = np.abs(image - expected.numpy().astype(int))
    assert distance.mean() < 1
    assert distance.max() <= 24
