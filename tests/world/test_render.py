"""Frames show the scene's shapes at their positions and times; sounds have their energy at the scene's times."""

import itertools

import numpy as np
import pytest

from omnisift.world import COLORS, SOUNDS, SceneConfig, make_scene, render_audio, render_frames, render_images
from omnisift.world.render import centre
from omnisift.world.synth import synthesise


@pytest.mark.parametrize("seed", range(4))
def test_shapes_and_types(seed):
    scene = make_scene(seed)
    images, wave = render_images(scene), render_audio(scene)
    assert images.shape == (12, 112, 112, 3)
    assert images.dtype == np.uint8
    assert wave.shape == (96000,)
    assert wave.dtype == np.float32
    assert 0.02 < np.abs(wave).max() < 1
    np.testing.assert_array_equal(images, render_images(scene))
    np.testing.assert_array_equal(wave, render_audio(scene))


def test_images_are_frames_of_the_file():
    scene = make_scene(3)
    frames = render_frames(scene)
    assert len(frames) == 60
    np.testing.assert_array_equal(frames[::5], render_images(scene))


def test_the_shape_is_seen_where_and_when_it_should():
    for seed in range(20):
        scene = make_scene(seed, "train")
        images = render_images(scene).astype(float)
        for shape in scene.shapes:
            for k in range(shape.start * 2, shape.end * 2):
                x, y = (int(v) for v in centre(shape, k / 2, scene.config))
                assert ("bottom" in shape.place) == (y >= 56)
                assert ("right" in shape.place) == (x >= 56)
                patch = images[k, y - 3 : y + 4, x - 3 : x + 4].mean((0, 1))
                nearest = min(COLORS, key=lambda name: np.linalg.norm(patch - COLORS[name]))
                assert nearest == shape.color


def test_empty_seconds_show_only_the_background():
    scene = next(s for s in map(make_scene, range(50)) if s.shapes[0].start > 0 and s.shapes[0].end < s.shapes[1].start)
    images = render_images(scene).astype(float)
    before, after = images[0], images[scene.shapes[0].end * 2]
    assert np.abs(before - after).mean() < 14  # two draws of the noise
    shown = images[scene.shapes[0].start * 2]
    assert np.abs(before - shown).max() > 60


def test_motion_is_smooth_in_the_file():
    scene = make_scene(1, config=SceneConfig(noise=0.0))
    frames = render_frames(scene).astype(float)
    shape = scene.shapes[0]
    inside = frames[shape.start * 10 : shape.end * 10]
    assert any(np.abs(a - b).max() > 20 for a, b in itertools.pairwise(inside)), "it moves between images"
    x, _ = centre(shape, np.arange(shape.start * 10, shape.end * 10) / 10, scene.config)
    assert np.abs(np.diff(x)).max() <= abs(shape.vx) / 5 + 1e-9


def test_each_kind_of_sound_is_its_own():
    """Spectra tell the kinds apart: whistle high, hum low, rise and fall are each other's reverse."""
    rng = np.random.default_rng(0)

    def peak(wave):
        return np.argmax(np.abs(np.fft.rfft(wave))) * 16000 / len(wave)

    waves = {name: synthesise(name, 0.2, 16000, rng) for name in SOUNDS}
    assert all(len(w) == 3200 and np.abs(w).max() > 0.5 and abs(w[0]) < 0.1 for w in waves.values())
    assert 180 < peak(waves["hum"]) < 260
    assert 700 < peak(waves["beep"]) < 900
    assert 2300 < peak(waves["whistle"]) < 2900
    assert peak(waves["rise"][:800]) < peak(waves["rise"][-800:])
    assert peak(waves["fall"][:800]) > peak(waves["fall"][-800:])
    with pytest.raises(ValueError, match="moo"):
        synthesise("moo", 0.2, 16000, rng)


def test_sounds_stand_out_from_the_noise():
    """Above the rumbles (high-passed), each event is louder than the quiet around it."""
    ratios = []
    for seed in range(10):
        scene = make_scene(seed, "train", SceneConfig(rumbles=(0, 0)))
        wave = render_audio(scene)
        quiet = np.ones(len(wave), bool)
        for sound in scene.sounds:
            quiet[int(sound.start * 16000) : int(sound.end * 16000)] = False
        floor = wave[quiet].std()
        ratios += [wave[int(s.start * 16000) : int(s.end * 16000)].std() / floor for s in scene.sounds]
        assert floor < 0.012
    assert min(ratios) > 3
