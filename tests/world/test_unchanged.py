"""The default world stays what published numbers were measured on, whatever options are added to it."""

import hashlib

import numpy as np
import pytest

from omnisift.world import SceneConfig, make_scene, questions, render_audio, render_images, truth

PINS = {
    ("train", 0): "f785f75df090bfb4 c12f27a988774048 80ddffc00eaa8b85 96379879fb7a54a4 05003c55e6100389",
    ("validation", 3): "dfaf6529a12e643a 95b5e2ae5802ded4 5e97b92960375f53 2e28103fa1f0bee2 617a24834315b14b",
    ("test", 7): "1ca22e19bdbd93e5 9f5b24f5b3d7c47b 063c0c7bbeb2b7a4 9452e462b15f47ee 4725f2ac1a691e8b",
    ("test", 100): "1ab3e5fc7373f6a0 49d362ac20058e7d 626c69c54717c859 548838a21e4163a9 eb235c3c6041adc3",
}
"""Starts of SHA-256 of description, images, waveform, questions, truth: recorded before the first option was added."""
FIRST_FIELDS = (
    "seconds size fps file_fps sample_rate shapes shape_seconds empty_seconds sound_seconds sound_pool distractors "
    "rumbles noise"
)


def digest(content):
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.mark.parametrize(("split", "seed"), PINS)
def test_the_default_world_is_what_it_was(split, seed):
    scene = make_scene(seed, split)
    wave = np.rint(render_audio(scene).astype(np.float64) * 2**20).astype("<i4")  # machines may differ in the last bit
    asked = [
        (q.type, q.text, q.answer, q.argument, q.shapes, q.sounds)
        for q in questions(scene, np.random.default_rng(seed))
    ]
    t = truth(scene)
    labels = (t.video_class, t.video_shape, t.audio_class, t.audio_sound, t.audio_owner, t.visible)
    result = [
        scene.fingerprint()[:16],
        digest(render_images(scene).tobytes()),
        digest(wave.tobytes()),
        digest(repr(asked).encode()),
        digest(b"".join(array.tobytes() for array in labels)),
    ]
    assert result == PINS[split, seed].split()


def test_only_options_that_are_on_are_described():
    assert list(make_scene(0).as_dict()["config"]) == FIRST_FIELDS.split()
    on = make_scene(0, config=SceneConfig(cuts=(1, 1), sound=False))
    assert list(on.as_dict()["config"]) == [*FIRST_FIELDS.split(), "cuts", "sound"]
    prints = {make_scene(0, config=SceneConfig(drift=(0.0, fast))).fingerprint() for fast in (0.0, 1.0, 2.0)}
    assert len(prints) == 3
