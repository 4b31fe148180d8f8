"""Encoded clips: they are what the product's adapter hands to a compressor, and survive the disk bit for bit."""

import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import ScoredCompressor
from omnisift.errors import UsageError
from omnisift.lab.benchmark.encoded import EXTRAS, Encoded, encode_scenes
from omnisift.models import attach
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality
from omnisift.world import make_scene, world_setting


class Watcher(ScoredCompressor):
    """Notes the stream that it gets."""

    name = "watcher"

    def score(self, stream):
        self.stream = stream
        return stream.embeds.norm(dim=-1)


@pytest.fixture(scope="module")
def clips(world):
    return encode_scenes(world.host, [make_scene(seed, "test") for seed in (7, 8)])


def test_the_stream_is_what_a_compressor_gets_in_an_ordinary_call(world, clips):
    watcher = Watcher(Budget(retain=0.5))
    with attach(world.host.thinker, watcher), torch.no_grad():
        world.host.thinker(**build_inputs(world.host.processor, world.media, "?"))
    actual, expected, length = clips.part(0, 1).stream(), watcher.stream, clips.embeds.shape[1]
    for name in ("embeds", "modality", "time", "chunk", "frame", "clip", "sample"):
        assert torch.equal(getattr(actual, name), getattr(expected, name)[:length]), name
    assert torch.equal(actual.position, expected.position[:, :length])
    assert (expected.chunk[length:] == -1).all()


def test_files_that_are_kept_are_read_again(world, clips, tmp_path):
    scenes = [make_scene(seed, "test") for seed in (7, 8)]
    first = encode_scenes(world.host, scenes, files=tmp_path / "files")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "files").iterdir()}
    assert {path.stem for path in written} == {scene.fingerprint() for scene in scenes}
    fewer = encode_scenes(world.host, scenes, fps=1, files=tmp_path / "files")
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert torch.equal(first.embeds, clips.embeds)
    assert fewer.embeds.shape[1] < first.embeds.shape[1]


def test_extras_lie_on_their_tokens(clips):
    assert set(clips.extras) == set(EXTRAS)
    for name, values in clips.extras.items():
        of_modality = clips.modality == (Modality.VIDEO if name.startswith("video") else Modality.AUDIO)
        assert (values[:, of_modality] > 0).all()
        assert not values[:, ~of_modality].any()


def test_the_disk_changes_nothing(clips, tmp_path):
    clips.save(tmp_path / "clips.safetensors")
    again = Encoded.load(tmp_path / "clips.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["clips.safetensors"]
    assert again.seconds_per_position == clips.seconds_per_position
    for name in ("embeds", "modality", "position", "ids"):
        assert torch.equal(getattr(again, name), getattr(clips, name))
    assert all(torch.equal(again.extras[name], clips.extras[name]) for name in EXTRAS)


def test_parts_and_joins(clips):
    joined = Encoded.join([clips.part(0, 1), clips.part(1, 1)])
    assert torch.equal(joined.embeds, clips.embeds)
    taken = clips.take([1, 0, 1])
    assert torch.equal(taken.embeds[1], clips.embeds[0])
    assert torch.equal(taken.extras["video_attention"][2], clips.extras["video_attention"][1])


def test_a_clip_without_sound(world):
    silent = encode_scenes(world.host, [make_scene(0, "test", world_setting("silent").config)])
    assert not (silent.modality == Modality.AUDIO).any()
    assert not silent.extras["audio_attention"].any()
    assert silent.extras["video_attention"].any()


def test_clips_of_different_length_form_no_batch(world):
    scenes = [make_scene(0, "test"), make_scene(0, "test", world_setting("crowd").config)]
    with pytest.raises(UsageError, match="the same length"):
        encode_scenes(world.host, scenes)
