"""A clip that is compressed window by window is answered as when it is compressed at once, in every family."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import av
import pytest
import torch
from tests.helpers.family_folders import FACTORS
from tests.helpers.windows import QUESTION, READING, TOLERANCE, clip_of, watched, windows_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from omnisift import Line, Pipeline
from omnisift.errors import Damaged, MediaError, NotFound, NotReadable, TooBig
from omnisift.inspector.collect import inspect_clip
from omnisift.media.windows import CHANGED, WindowsUnavailable
from omnisift.pipeline import windowed_clip
from omnisift.pipeline.clip_sources import FileSource
from omnisift.pipeline.windowed_clip import LONG_IMAGES, WindowedClip, open_clip
from omnisift.world import SceneConfig, make_scene, write_clip


@pytest.mark.parametrize("method", ["stvp", "resift", "resift:causal=true", "tome", "v_cast"])
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("name", ["nano", *FACTORS])
def test_answers_are_those_of_the_whole_clip(
    pipe_of: Callable[[str], Pipeline], name: str, lines: bool, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tokens at the same positions, in decoding too; of an odd number of frames the last chunk has one."""
    pipe = pipe_of(name).with_compressor(method, retain=0.25, retain_text=0.7)
    clip = clip_of(name, 26, 13.3)
    if lines:
        clip = replace(clip, lines=tuple(Line(1.3 * k, 1.3 * k + 1, ("red circle", "hum")[k % 2]) for k in range(10)))
    found = []
    for steps in (10**6, 4):
        with windows_of(steps, monkeypatch), watched(pipe) as seen:
            found.append((pipe.ask(clip, QUESTION, max_new_tokens=6), seen))
    (whole, expected), (windowed, made) = found
    assert windowed.text == whole.text
    assert windowed.report.tokens == whole.report.tokens
    assert windowed.report.source == whole.report.source
    assert windowed.report.notices == whole.report.notices
    assert max(made["patches"]) < max(expected["patches"]) == sum(made["patches"])
    assert len(made["logits"]) == (2 if name == "nano" else 6)
    for one, other in zip(made["positions"], expected["positions"], strict=True):
        assert torch.equal(one[-3:].cpu(), other[-3:].cpu())
    for one, other in zip(made["embeds"], expected["embeds"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    for one, other in zip(made["logits"], expected["logits"], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("fps", [2.0, 0.7, 3.1, 60.0])
@pytest.mark.parametrize("seconds", [0.0, 8.303, 30.0])
@pytest.mark.parametrize("name", ["nano", "qwen3_omni_moe_thinker"])
def test_any_rate_and_any_length_of_audio(
    pipe_of: Callable[[str], Pipeline], name: str, seconds: float, fps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks and spans of the audio encoder end at different moments; audio may end early, in a hop, or last longer.

    At 60 images per second, some time steps have the same time in Qwen2.5-Omni.
    """
    pipe = pipe_of(name).with_compressor("stvp", retain_video=0.4, retain_audio=0.3)
    clip = clip_of(name, 20, seconds, fps)
    found = []
    for steps in (10**6, 2, 6):
        with windows_of(steps, monkeypatch), watched(pipe) as seen:
            found.append((pipe.ask(clip, QUESTION, max_new_tokens=2), seen))
    for windowed, made in found[1:]:
        assert windowed.report.tokens == found[0][0].report.tokens
        torch.testing.assert_close(made["embeds"][0], found[0][1]["embeds"][0], rtol=0, atol=1e-4)
        assert torch.equal(made["positions"][0][-3:].cpu(), found[0][1]["positions"][0][-3:].cpu())


class MostRows(TorchDispatchMode):
    """The most rows of a matrix of one width that is made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.rows = width, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == self.width:
            self.rows = max(self.rows, len(output))
        return output


@pytest.mark.parametrize(("method", "share"), [("stvp", 0.5), ("resift:causal=true", 0.5), ("v_cast", 1.0)])
def test_embeddings_of_the_clip_are_held_once_if_at_all(
    pipe_of: Callable[[str], Pipeline], method: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a part by methods that decide on parts; and once by others, however many windows there are."""
    pipe, clip = pipe_of("nano").with_compressor(method, retain=0.1), clip_of("nano", 120, 60.0)
    with windows_of(8, monkeypatch), MostRows(pipe.host.hidden_size) as most:
        tokens = pipe.ask(clip, QUESTION, max_new_tokens=1).report.tokens
    assert 0.1 * tokens.video < most.rows <= share * (tokens.video + tokens.audio)


@pytest.mark.parametrize("method", [None, "attended"])
def test_methods_that_read_attention_get_the_clip_at_once(
    pipe_of: Callable[[str], Pipeline], method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("nano").with_compressor(method, **({} if method is None else {"retain": 0.25}))
    with windows_of(2, monkeypatch), watched(pipe) as seen:
        pipe.ask(clip_of("nano", 20, 5.0), QUESTION, max_new_tokens=1)
    assert len(seen["patches"]) == 1


def test_a_model_without_a_cache_gets_the_clip_at_once(
    pipe_of: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step reads the whole prompt again, which a compressed one can't be."""
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    clip = clip_of("nano", 20, 5.0)
    expected = pipe.ask(clip, QUESTION, max_new_tokens=3).text
    monkeypatch.setattr(pipe.host.thinker.generation_config, "use_cache", False)
    with windows_of(2, monkeypatch):
        assert pipe.ask(clip, QUESTION, max_new_tokens=3).text == expected


def test_the_inspector_gets_all_tokens_of_a_long_clip(
    pipe_of: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    assert pipe.compressor is not None
    with windows_of(2, monkeypatch):
        clip = clip_of("nano", 20, 5.0)
        trace = inspect_clip(pipe.host, {"stvp": pipe.compressor}, clip, QUESTION, max_new_tokens=1).trace
    assert trace.methods[1].selection is not None
    assert trace.methods[1].selection.kept.sum() < len(trace.tokens)


def test_the_default_method_decides_from_the_past_where_a_clip_is_long(pipe_of: Callable[[str], Pipeline]) -> None:
    pipe = pipe_of("nano").with_compressor(retain=0.05)
    named = pipe_of("nano").with_compressor("resift", retain=0.05)
    for images, label in ((LONG_IMAGES, "resift"), (LONG_IMAGES + 2, "resift-causal")):
        clip = clip_of("nano", images, 10.0, rows=1)
        report = pipe.ask(clip, QUESTION, max_new_tokens=1).report
        assert report.compressor == label
    assert report.compressor_reason == f"default: more than {LONG_IMAGES} images"
    assert named.ask(clip, QUESTION, max_new_tokens=1).report.compressor == "resift"


def test_files_are_answered_as_when_they_are_decoded_at_once(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    with windows_of(10**6, monkeypatch):
        whole = pipe.ask(clips[0], QUESTION)
    with windows_of(2, monkeypatch, long_images=8), watched(pipe) as seen:
        opened = open_clip(pipe.host, pipe.compressor, clips[0], READING)
        assert isinstance(opened, WindowedClip)
        assert opened.media.images is not None
        assert opened.media.images.strides == (0, 0, 0, 0)  # no data
        opened.close()
        windowed = pipe.ask(clips[0], QUESTION)
    assert len(seen["patches"]) == 3
    assert (windowed.text, windowed.report.tokens, windowed.report.source, windowed.report.notices) == (
        whole.text, whole.report.tokens, whole.report.source, whole.report.notices,
    )  # fmt: skip


@pytest.mark.parametrize("place", ["open", "images"])
def test_a_file_that_is_decoded_at_once_is_noted(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    expected = pipe.ask(clips[0], QUESTION)
    fail = raising(WindowsUnavailable("some images are missing"))
    with windows_of(2, monkeypatch, long_images=8):
        if place == "open":
            monkeypatch.setattr(windowed_clip, "read_or_open", lambda *_, **__: fail())
        else:
            monkeypatch.setattr(FileSource, "images", fail)
        answer = pipe.ask(clips[0], QUESTION)
    assert (answer.text, answer.report.tokens) == (expected.text, expected.report.tokens)
    added = set(answer.report.notices) - set(expected.report.notices)
    assert added == {"decoded at once, which takes more memory: some images are missing"}


def test_later_questions_read_their_own_tokens_and_other_methods_read_the_clip_again(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = pipe_of("nano")
    pipes = {name: base.with_compressor(name, retain=0.25) for name in ("stvp", "uniform", "v_cast", "attended")}
    alone = {name: pipe.ask(clips[0], "Which sound?").text for name, pipe in pipes.items()}
    with windows_of(2, monkeypatch, long_images=8):
        clip = pipes["stvp"].encode(clips[0])
        assert isinstance(clip, WindowedClip)
        for name, calls in (("stvp", 3), ("stvp", 0), ("uniform", 3), ("stvp", 3), ("v_cast", 3), ("attended", 1)):
            with watched(pipes[name]) as seen:
                first = pipes[name].ask(clip, QUESTION)
                again = pipes[name].ask(clip, "Which sound?")
            assert sum(count > 0 for count in seen["patches"]) == calls, name
            assert again.text == alone[name]
            assert again.report.cached_tokens > 0
            assert first.report.tokens.video_kept == again.report.tokens.video_kept < first.report.tokens.video
        # What the encoders return is held for methods that read the whole clip.
        assert not isinstance(pipes["v_cast"].encode(clips[0]), WindowedClip)


def test_stages_and_seconds_of_windows(pipe_of: Callable[[str], Pipeline], monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, names = pipe_of("nano").with_compressor("stvp", retain=0.25), list[str]()
    with windows_of(4, monkeypatch):
        seconds = pipe.ask(clip_of("nano", 14, 7.0), QUESTION, max_new_tokens=1, on_stage=names.append).report.seconds
    stages = ["read", "process", "encode_video", "process", "encode_audio", "compress"]
    assert [name for name in names if name.startswith("window")] == ["window 1 of 2", "window 2 of 2"]
    begin = names.index("window 1 of 2")
    assert names[begin + 1 : names.index("window 2 of 2")] == stages
    assert min(vars(seconds).values()) > 0


def test_a_batch_may_have_long_and_short_clips(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    prompts: list[Any] = [(clips[0], QUESTION), (clip_of("nano", 40, 20.0), QUESTION), (clips[1], "Which sound?")]
    alone = [pipe.ask(*prompt).text for prompt in prompts]
    with windows_of(8, monkeypatch):
        assert [answer.text for answer in pipe.ask_batch(prompts)] == alone


def test_nothing_is_left_on_the_model_or_open(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an answer, an error in the middle, and a prompt that is too long, which is found before it is encoded."""
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    hooks = {name: len(module._forward_pre_hooks) for name, module in pipe.host.thinker.named_modules()}
    closed = list[bool]()
    close = FileSource.close
    monkeypatch.setattr(FileSource, "close", lambda source: (closed.append(True), close(source)))
    with windows_of(2, monkeypatch, long_images=8):
        pipe.ask(clips[0], QUESTION)
        with monkeypatch.context() as broken:
            broken.setattr(FileSource, "images", raising(Damaged("half")))
            with pytest.raises(Damaged, match="half"):
                pipe.ask(clips[0], QUESTION)
        small = Pipeline(replace(pipe.host, max_length=30), pipe.compressor)
        with watched(pipe) as seen, pytest.raises(TooBig, match="the context is 30"):
            small.ask(clips[0], QUESTION)
    assert not seen["patches"]
    assert len(closed) == 3
    after = {name: len(module._forward_pre_hooks) for name, module in pipe.host.thinker.named_modules()}
    assert after == hooks


@pytest.mark.parametrize("disturb", ["an error", "another method"])
def test_a_clip_that_is_read_is_not_closed_by_another_thread(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], disturb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, images = pipe_of("nano").with_compressor("stvp", retain=0.25), FileSource.images
    reading, go_on = Event(), Event()

    def wait(source: FileSource, stop: int) -> Any:
        reading.set()
        assert go_on.wait(60)
        return images(source, stop)

    expected = pipe.ask(clips[0], QUESTION).text
    with windows_of(2, monkeypatch, long_images=8), ThreadPoolExecutor() as pool:
        clip = pipe.encode(clips[0])
        monkeypatch.setattr(FileSource, "images", wait)
        first = pool.submit(pipe.ask, clip, QUESTION)
        assert reading.wait(60)
        if disturb == "an error":
            with pytest.raises(NotFound):
                pipe.ask_batch([(clip, QUESTION), ("missing.mp4", QUESTION)])
        else:
            assert isinstance(clip, WindowedClip)
            assert clip.for_method(None).media.images is not None
        go_on.set()
        assert first.result().text == expected


def test_a_file_whose_video_is_damaged_is_answered_by_its_audio(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(clips[0].read_bytes())
    with av.open(str(clips[0])) as container:
        for packet in container.demux(video=0):
            if packet.size:
                assert packet.pos is not None
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    pipe = pipe_of("nano").with_compressor("stvp", retain=0.25)
    whole = pipe.ask(path, QUESTION)
    assert "no image can be decoded" in whole.report.notices
    with windows_of(2, monkeypatch):
        for clip in (path, pipe.encode(path)):
            answer = pipe.ask(clip, QUESTION)
            assert (answer.text, answer.report.tokens) == (whole.text, whole.report.tokens)


@pytest.mark.parametrize("method", ["stvp", "uniform", None])
def test_a_file_that_was_replaced_after_it_was_encoded_is_refused(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], method: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    base, path = pipe_of("nano"), tmp_path / "clip.mp4"
    shutil.copy(clips[0], path)
    pipe = base.with_compressor(method, retain=None if method is None else 0.25)
    with windows_of(2, monkeypatch, long_images=8):
        clip = base.with_compressor("stvp", retain=0.25).encode(path)
        write_clip(make_scene(1, config=SceneConfig(seconds=9)), path)
        for _ in range(2):
            with pytest.raises(NotReadable, match="changed since it was opened; encode it again"):
                pipe.ask(clip, QUESTION)
        assert pipe.ask(path, QUESTION).text


def test_a_file_that_changes_while_it_is_read_is_noted_or_refused(
    pipe_of: Callable[[str], Pipeline], clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, path = pipe_of("nano").with_compressor("stvp", retain=0.25), tmp_path / "clip.mp4"

    def append(_stage: str) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    def overwrite(stage: str) -> None:
        if stage == "process":
            shutil.copy(other, path)

    shutil.copy(clips[0], path)
    other = tmp_path / "other.mp4"
    write_clip(make_scene(1, config=SceneConfig(seconds=4, shapes=(1, 2))), other)
    with windows_of(2, monkeypatch, long_images=8):
        report = pipe.ask(path, QUESTION, on_stage=append).report
        assert CHANGED in report.notices
        assert report.tokens == pipe.ask(clips[0], QUESTION).report.tokens
        with pytest.raises(MediaError, match=path.name):
            pipe.ask(path, QUESTION, on_stage=overwrite)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any) -> Any:
        raise error

    return fail
