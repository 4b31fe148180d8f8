"""Each degradation does what it says, to one sense, the same every time; labels stay those of the contents."""

import numpy as np
import pytest

from omnisift import media
from omnisift.errors import UsageError
from omnisift.world import (
    DEGRADATIONS,
    make_scene,
    render_audio,
    render_frames,
    render_images,
    truth,
    world_setting,
    write_clip,
)

PICTURE = ("h264", "blur", "occlusion", "dark", "drops", "slow")


def scene_of(name, seed=5, setting="base"):
    return make_scene(seed, "test", world_setting(f"{setting}+{name}" if name else setting).config)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_it_changes_one_sense_and_repeats(name):
    scene, clean = scene_of(name), scene_of("")
    images, wave = render_images(scene), render_audio(scene)
    np.testing.assert_array_equal(images, render_images(scene))
    np.testing.assert_array_equal(wave, render_audio(scene))
    assert wave.dtype == np.float32
    np.testing.assert_array_equal(images, render_frames(scene)[::5])
    assert (images == render_images(clean)).all() == (name not in PICTURE or name == "h264")
    assert (wave == render_audio(clean)).all() == (name in PICTURE)
    assert scene.fingerprint() != clean.fingerprint()
    assert (scene.shapes, scene.sounds) == (clean.shapes, clean.sounds)
    labels, before = truth(scene), truth(clean)
    np.testing.assert_array_equal(labels.video_class, before.video_class)
    shift = 5 if name == "late" else 0
    for tokens, old in zip(labels.sound_tokens, before.sound_tokens, strict=True):
        np.testing.assert_array_equal(tokens, old[old + shift < 150] + shift)


def test_pictures():
    clean = render_images(scene_of("")).astype(float)
    dark, blurred, barred = (render_images(scene_of(n)).astype(float) for n in ("dark", "blur", "occlusion"))
    assert dark.mean() < 0.15 * clean.mean()
    assert np.abs(np.diff(blurred, axis=1)).mean() < 0.4 * np.abs(np.diff(clean, axis=1)).mean()
    assert 0.2 < (barred == 25).all(-1).mean() < 0.45
    still = [
        (a == b).all() for a, b in zip(*(lambda f: (f[1:], f[:-1]))(render_frames(scene_of("drops"))), strict=True)
    ]
    assert 0.25 < np.mean(still) < 0.75
    slow = render_frames(scene_of("slow")).reshape(6, 10, -1)
    assert (slow == slow[:, :1]).all()


def test_sounds():
    clean = render_audio(scene_of(""))
    waves = {name: render_audio(scene_of(name)) for name in ("noise", "narrow", "clipped", "late", "gaps", "mute")}
    assert (waves["noise"] - clean).std() == pytest.approx(clean.std(), rel=0.05)
    high = np.abs(np.fft.rfft(waves["narrow"]))[np.fft.rfftfreq(96000, 1 / 16000) > 4001]
    assert high.max() < 1e-2
    assert np.abs(waves["clipped"]).max() == pytest.approx(np.abs(clean).max() / 6)
    np.testing.assert_array_equal(waves["late"][3200:], clean[:-3200])
    assert 0.25 < (waves["gaps"] == 0).mean() < 0.75
    assert not waves["mute"].any()


def test_a_low_rate_is_in_the_file(tmp_path):
    sizes, images = {}, {}
    for name in ("", "h264"):
        path = tmp_path / f"{name or 'clean'}.mp4"
        write_clip(scene_of(name), path)
        sizes[name] = path.stat().st_size
        images[name] = media.read(path, fps=2.0, min_pixels=112 * 112, max_pixels=112 * 112).images.astype(float)
    assert sizes["h264"] < 0.6 * sizes[""]
    assert np.abs(images["h264"] - images[""]).mean() > 2


def test_names():
    setting = world_setting("wide20+dark")
    assert (setting.name, setting.config.degraded, setting.config.seconds) == ("wide20+dark", "dark", 20)
    for wrong in ("wide+", "wide+fog", "fog+dark", "+dark"):
        with pytest.raises(UsageError, match=r"unknown setting|degradation"):
            world_setting(wrong)
    with pytest.raises(UsageError, match="degraded"):
        type(setting.config)(degraded="fog")
