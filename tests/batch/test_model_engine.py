"""Questions about one clip reuse its encoding, also over rows, and every answer is that of a question on its own."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch
from tests.batch.fakes import SETTINGS, rows
from tests.helpers.models import work_of_encoders

from omnisift.batch import Item, ModelEngine, ModelSettings, Moderate, QuestionAnswering, ResultsFile, run
from omnisift.errors import NotFound, NotMedia, TooBig
from omnisift.pipeline import Pipeline
from omnisift.world import make_scene, write_clip

QUESTIONS = ("What colour is the circle?", "Which sound goes with the circle?", "How many shapes are there?")
STAGES = ("read", "encode_video", "encode_audio")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = [tmp_path_factory.mktemp("clips") / f"{seed}.mp4" for seed in (3, 4)]
    for seed, path in zip((3, 4), paths, strict=True):
        write_clip(make_scene(seed, split="test"), path)
    return paths


def engine_of(name: str = "omnisift") -> ModelEngine:
    engine = ModelSettings(compressor=name).load()
    assert isinstance(engine, ModelEngine)
    return engine


def qa(clips: list[Path]) -> list[Item]:
    return [
        Item(f"{clip.name}#{n}", clip.name, clip, question) for clip in clips for n, question in enumerate(QUESTIONS)
    ]


def logits_of(engine: ModelEngine, ask: object) -> list[torch.Tensor]:
    outputs: list[torch.Tensor] = []
    head = engine.pipeline.host.thinker.lm_head
    handle = head.register_forward_hook(lambda _module, _args, output: outputs.append(output.clone()))
    ask()
    handle.remove()
    return outputs


@pytest.mark.parametrize("name", ["omnisift", "v_cast", "none"])
def test_rows_of_one_clip_share_its_encoding(name: str, clips: list[Path], tmp_path: Path) -> None:
    engine = engine_of(name)
    with work_of_encoders(engine.pipeline.host) as runs, ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(qa(clips), QuestionAnswering(), engine, results)
    assert runs == {"encode_video": 2, "encode_audio": 2}
    written = rows(tmp_path / "a.jsonl")
    single = [engine.pipeline.ask(item.path, item.question) for item in qa(clips)]
    assert [row["answer"] for row in written] == [answer.text for answer in single]
    assert [row["tokens"]["prompt_kept"] for row in written] == [a.report.tokens.prompt_kept for a in single]
    held = [row["tokens"]["prompt_cached"] for row in written]
    assert [0 < count < row["tokens"]["prompt_kept"] for count, row in zip(held, written, strict=True)] == 2 * [
        False,
        True,
        True,
    ]
    # The first row of a clip has the time of reading and encoding; the later rows have none.
    assert [[row["seconds"][stage] > 0 for stage in STAGES] for row in written] == 2 * [
        [True] * 3,
        [False] * 3,
        [False] * 3,
    ]


@pytest.mark.parametrize("name", ["omnisift", "v_cast", "omnizip", "none"])
def test_logits_are_bit_equal(name: str, clips: list[Path]) -> None:
    engine = engine_of(name)
    engine = ModelEngine(engine.pipeline, engine.settings, hold_bytes=0)
    engine.ask(clips[0], [QUESTIONS[0]])
    for question in QUESTIONS[1:]:
        reused = logits_of(engine, lambda question=question: engine.ask(clips[0], [question]))
        plain = logits_of(engine, lambda question=question: engine.pipeline.ask(clips[0], question))
        assert len(plain) > 1
        assert all(torch.equal(one, other) for one, other in zip(reused, plain, strict=True))


def test_rules_share_the_encoding_of_their_clip(clips: list[Path], tmp_path: Path) -> None:
    engine, task = engine_of(), Moderate({"beep": "Is a beep heard?", "buzz": "Is a buzz heard?"})
    items = [Item(clip.name, clip.name, clip) for clip in clips]
    with work_of_encoders(engine.pipeline.host) as runs, ResultsFile(tmp_path / "a.jsonl", SETTINGS) as results:
        run(items, task, engine, results)
    assert runs == {"encode_video": 2, "encode_audio": 2}
    for row, clip in zip(rows(tmp_path / "a.jsonl"), clips, strict=True):
        assert row["answers"] == {name: engine.pipeline.ask(clip, text).text for name, text in task.rules.items()}


def test_one_clip_is_kept_and_a_changed_file_is_read_again(clips: list[Path], tmp_path: Path, monkeypatch) -> None:
    engine, kept = engine_of(), []
    encode = Pipeline.encode

    def remember(self: Pipeline, path: Path, **options: object) -> object:
        gc.collect()
        assert not any(reference() is not None for reference in kept)  # dropped before the next clip is read
        clip = encode(self, path, **options)
        kept.append(weakref.ref(clip))
        return clip

    monkeypatch.setattr(Pipeline, "encode", remember)
    copy = tmp_path / "copy.mp4"
    for path in (clips[0], clips[1], clips[0]):
        engine.ask(path, QUESTIONS[:2])
    for path in clips:
        copy.write_bytes(path.read_bytes())
        (answer,) = engine.ask(copy, QUESTIONS[:1])
        assert answer.text == engine.pipeline.ask(path, QUESTIONS[0]).text
    assert len(kept) == 5


def test_errors_drop_the_clip_or_name_the_file(clips: list[Path], tmp_path: Path, monkeypatch) -> None:
    engine = engine_of()
    with pytest.raises(NotFound, match=r"missing\.mp4"):
        engine.ask(tmp_path / "missing.mp4", QUESTIONS)
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(NotMedia):
        engine.ask(tmp_path / "bad.mp4", QUESTIONS)

    def fail(**_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(engine.pipeline.host.thinker, "generate", fail)
    with pytest.raises(TooBig, match="too long"):
        engine.ask(clips[0], QUESTIONS)
    assert len(engine._clips) == 0
