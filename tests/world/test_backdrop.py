"""Backgrounds pan as fast as they should, jump exactly at their cuts, and stand still otherwise."""

import dataclasses

import numpy as np
import pytest

from omnisift.world import SETTINGS, SceneConfig, make_scene, render_frames, render_images
from omnisift.world.backdrop import backdrop, cut_seconds, pan

CAMERA, CUTS = SETTINGS["camera"].config, SETTINGS["cuts"].config
MANY = 100


def background(scene, step=5):
    config = scene.config
    frames = np.arange(0, config.seconds * config.file_fps, step)
    return backdrop(scene, frames, np.random.default_rng(0))


def test_without_options_nothing_moves():
    scene = make_scene(0)
    assert pan(scene) == (0, 0)
    assert cut_seconds(scene) == ()
    shown = background(scene)
    assert shown.shape == (12, 112, 112, 3)
    assert (shown == shown[0]).all()


def test_the_camera_pans_steadily():
    angles = []
    for seed in range(MANY):
        scene = make_scene(seed, "train", CAMERA)
        vx, vy = pan(scene)
        assert CAMERA.drift[0] <= np.hypot(vx, vy) <= CAMERA.drift[1]
        angles.append(np.arctan2(vy, vx))
        shown = background(scene)
        for k in (1, 5, 11):  # the first image, moved by k steps, is image k where both show the same part of the wall
            dx, dy = round(k * vx), round(k * vy)
            errors = {(a, b): overlap(shown[0], shown[k], dx + a, dy + b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
            assert min(errors.values()) == 0, "rounding moves by a pixel at most"
        assert np.abs(shown[1:] - shown[:-1]).mean((1, 2, 3)).min() > 3
    assert np.abs(np.exp(1j * np.array(angles)).mean()) < 0.25, "in all directions"


def overlap(first, later, dx, dy):
    """Mean difference of two frames where the content of the first, moved by (dx, dy), is still in the later."""
    size = first.shape[0]
    here = first[max(0, -dy) : size - max(0, dy), max(0, -dx) : size - max(0, dx)]
    there = later[max(0, dy) : size + min(0, dy), max(0, dx) : size + min(0, dx)]
    assert here.shape == there.shape
    return np.abs(here - there).mean() if here.size else 0.0


def test_the_camera_leaves_the_shapes_alone():
    """Between two images the background differs everywhere, and the shapes are where base has them."""
    for seed in range(10):
        scene, base = make_scene(seed, config=CAMERA), make_scene(seed)
        assert scene.shapes == base.shapes
        images, still = render_images(scene).astype(float), render_images(base).astype(float)
        shape = scene.shapes[0]
        k = 2 * shape.start + 1
        alike = np.abs(images[k] - still[k]).max(-1) == 0
        assert alike.sum() > 0.5 * shape.radius**2, "the pixels of the shape, noise included"


def test_cuts_change_the_background_and_nothing_else_does():
    counts = set()
    for seed in range(MANY):
        scene = make_scene(seed, "train", CUTS)
        cuts = cut_seconds(scene)
        counts.add(len(cuts))
        assert list(cuts) == sorted(set(cuts))
        assert 1 <= cuts[0] <= cuts[-1] < CUTS.seconds
        shown = background(scene)
        for k in range(1, len(shown)):
            before, after = shown[k - 1], shown[k]
            if k / 2 in cuts:
                assert np.abs(before.mean((0, 1)) - after.mean((0, 1))).max() >= 29, "another colour"
                texture = [side.mean(-1).ravel() - side.mean() for side in (before, after)]
                assert abs(np.corrcoef(*texture)[0, 1]) < 0.6, "another texture"
            else:
                assert (before == after).all()
    assert counts == {2, 3}


@pytest.mark.parametrize("config", [CAMERA, CUTS, SceneConfig(cuts=(1, 2), drift=(3.0, 3.0))])
def test_images_are_frames_of_the_file(config):
    scene = make_scene(3, config=config)
    np.testing.assert_array_equal(render_frames(scene)[::5], render_images(scene))


def test_before_its_first_cut_a_clip_is_base_s():
    scene = make_scene(1, config=CUTS)
    first = cut_seconds(scene)[0] * 2
    images, still = render_images(scene), render_images(make_scene(1))
    np.testing.assert_array_equal(images[:first], still[:first])
    assert np.abs(images[first].astype(float) - still[first]).mean() > 10


def test_a_long_fast_pan_stays_on_the_wall():
    config = dataclasses.replace(CAMERA, seconds=24, drift=(20.0, 20.0), cuts=(3, 3))
    assert background(make_scene(5, config=config), step=1).shape == (240, 112, 112, 3)
