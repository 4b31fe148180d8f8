"""A written clip is a normal .mp4, and reading it gives back what was drawn."""

import os
import shutil
import subprocess
import sys

import av
import numpy as np
import pytest

from omnisift import media
from omnisift.errors import UsageError
from omnisift.world import COLORS, make_scene, render_audio, render_images, write_clip
from omnisift.world.render import centre


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three scenes and their files."""
    folder = tmp_path_factory.mktemp("clips")
    made = []
    for seed in range(3):
        scene, path = make_scene(seed, "validation"), folder / f"{seed}.mp4"
        write_clip(scene, path)
        made.append((scene, path))
    return made


def test_it_is_a_normal_file(clips):
    for scene, path in clips:
        with av.open(str(path)) as container:
            assert container.metadata["comment"] == f"omnisift world validation {scene.seed}"
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
            assert video.frames == 60
            assert float(video.average_rate) == 10
            assert audio.codec_context.sample_rate == 16000
        assert path.stat().st_size < 500_000


def test_the_same_scene_is_the_same_file(clips, tmp_path):
    """On every processor: some encoders' fastest paths leave that to chance."""
    scene, path = clips[0]
    for number in range(3):
        write_clip(scene, tmp_path / f"{number}.mp4")
        assert (tmp_path / f"{number}.mp4").read_bytes() == path.read_bytes()


def test_reading_meets_the_same_instants(clips):
    for scene, path in clips:
        read = media.read(path, fps=2.0, min_pixels=28 * 28, max_pixels=112 * 112)
        images = render_images(scene).astype(float)
        assert read.images.shape == images.shape
        assert read.fps == pytest.approx(2.0)
        error = np.abs(read.images.astype(float) - images).mean((1, 2, 3))
        assert error.max() < 10, "what is lost is chroma noise"
        for shape in scene.shapes:
            for k in range(shape.start * 2, shape.end * 2):
                x, y = (int(v) for v in centre(shape, k / 2, scene.config))
                patch = read.images[k, y - 3 : y + 4, x - 3 : x + 4].astype(float).mean((0, 1))
                assert min(COLORS, key=lambda name: np.linalg.norm(patch - COLORS[name])) == shape.color


def test_reading_gives_the_sound_back_in_place(clips):
    for scene, path in clips:
        wave, read = render_audio(scene), media.read(path, fps=2.0, min_pixels=28 * 28, max_pixels=112 * 112).waveform
        assert abs(len(read) - len(wave)) <= 1024
        n = min(len(read), len(wave))
        wave, read = wave[:n], read[:n]
        spectrum = np.fft.rfft(wave) * np.conj(np.fft.rfft(read))
        lag = int(np.argmax(np.fft.irfft(spectrum, n)))
        assert min(lag, n - lag) <= 8, "half a millisecond"
        assert 10 * np.log10((wave**2).mean() / ((wave - read) ** 2).mean()) > 20
        for sound in scene.sounds:
            part = slice(int(sound.start * 16000), int(sound.end * 16000))
            assert np.corrcoef(wave[part], read[part])[0, 1] > 0.95, sound


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        write_clip(make_scene(0), tmp_path / "no" / "clip.mp4")


def test_no_ffmpeg_program_is_needed(tmp_path):
    """The same, in a process whose PATH holds nothing."""
    code = f"from omnisift.world import make_scene, write_clip; write_clip(make_scene(1), r'{tmp_path / 'clip.mp4'}')"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert shutil.which("ffmpeg", path=str(empty)) is None
    environment = {**os.environ, "PATH": str(empty)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert (tmp_path / "clip.mp4").stat().st_size > 50_000
