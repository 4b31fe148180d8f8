"""The study of subtitles: lines among encoded tokens, equal totals, and what a result says."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.helpers.benchmarks import load_benchmark

from omnisift import load
from omnisift.budget import Budget
from omnisift.chunks import ChunkShapes
from omnisift.compressors import make_compressor
from omnisift.lab.benchmark.encoded import Encoded, encode_scenes
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.lab.benchmark.subtitles import (
    ALL,
    CONDITIONS,
    METHODS,
    PLAIN,
    SHARES,
    PaidBudget,
    Study,
    budgets_of,
    key_of,
    lined,
    tokens_of,
)
from omnisift.lab.training.clip_lines import LinePlaces, line_batch
from omnisift.lab.training.forward import forward_packed
from omnisift.lab.training.packed import clip_layout
from omnisift.media.lines import Line
from omnisift.models import adapter_for
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import read_for
from omnisift.tokens import Modality
from omnisift.utils.assets import bundled_path
from omnisift.world import WIDE_TYPES, make_scene, questions, subtitles, world_setting, write_clip

LINES = [Line(0.2, 1.0, "beep"), Line(0.2, 1.0, "open"), Line(3.3, 4.0, "fall"), Line(7.5, 8.0, "exit")]
TEXTS = ["What word is said?", "Is a beep heard?", "What shape is red?"]


@pytest.fixture(scope="module")
def host():
    return load_host(str(bundled_path("wide")), "cpu", None, None)


@pytest.fixture(scope="module")
def clip(host):
    """Random tokens in the places of a clip with sound, up to the end of the clip."""
    layout = clip_layout(host.thinker, host.processor.tokenizer, 6, True, 10)
    length = len(layout.ids)
    torch.manual_seed(0)
    modality = torch.zeros(length, dtype=torch.int8)
    modality[layout.video], modality[layout.audio] = 1, 2
    return Encoded(torch.randn(1, length, 128), modality, layout.position, layout.ids, {}, 0.04)


@pytest.mark.parametrize("retain", [None, 0.1])
@torch.inference_mode()
def test_answers_are_those_of_training(host, clip, retain):
    """Two ways to read a clip with lines: the evaluator's, and that of training."""
    tokenizer, layout = host.processor.tokenizer, clip_layout(host.thinker, host.processor.tokenizer, 6, True, 10)
    packed = PackedQuestions.of(host.processor, [TEXTS])
    with_lines = lined(clip, LINES, tokenizer)
    assert len(with_lines.ids) == len(clip.ids) + 4
    # Exact counts, so that lines change nothing for the method.
    compressor = None if retain is None else make_compressor("resift", Budget(retain_video=retain, retain_audio=0.2))
    answers = PackedEvaluator(host)(with_lines, packed, compressor)
    places = LinePlaces.of(clip.modality, clip.position[0], 0.04)
    batch = {
        "video": clip.embeds[:, layout.video],
        "audio": clip.embeds[:, layout.audio],
        "tail": packed.ids,
        "segment": packed.segment,
        "offset": packed.offset,
        **line_batch([LINES], places, tokenizer),
    }
    if compressor is not None:
        selection = compressor(clip.stream())
        batch["places"] = torch.nonzero(selection.keep).T
        merged = clip.embeds[0].index_put((selection.keep,), selection.embeds)
        batch |= {"video": merged[None, layout.video], "audio": merged[None, layout.audio]}
        assert int(answers.keep.sum()) == int(selection.keep.sum()) + 4
    out = forward_packed(host.thinker, layout, batch)
    words = host.thinker.lm_head(out.last[0, out.prefix :][packed.last[0]]).argmax(dim=-1)
    assert torch.equal(words, answers.words[0])


def test_lines_belong_to_their_chunks(host, clip):
    with_lines = lined(clip, LINES, host.processor.tokenizer)
    stream = with_lines.stream()
    assert ChunkShapes.of(stream).text.tolist() == [2, 1, 1]
    where = torch.nonzero(with_lines.modality == Modality.SUBTITLE)[:, 0]
    words = host.processor.tokenizer.convert_ids_to_tokens(with_lines.ids[where].tolist())
    assert words == ["beep", "open", "fall", "exit"]
    assert (with_lines.position[:, where] == with_lines.position[0, where]).all()
    assert lined(clip, [], host.processor.tokenizer) is clip


def test_who_pays_for_lines(host, clip):
    shapes = ChunkShapes.of(lined(clip, LINES, host.processor.tokenizer).stream())
    for share in SHARES:
        total = tokens_of(share, 750)
        plain = Budget(tokens=total).counts(ChunkShapes.of(clip.stream()))
        video, audio = int((plain.frame0 + plain.frame1).sum()), int(plain.audio.sum())
        assert video + audio == total
        for pays, expected in (("audio", (video, audio - 4)), ("video", (video - 4, audio))):
            found = PaidBudget(tokens=total, pays=pays).counts(shapes)
            kept = int((found.frame0 + found.frame1).sum()), int(found.audio.sum())
            assert (*kept, int(found.text.sum())) == (*expected, 4)


@pytest.fixture(scope="module")
def outcomes():
    study = Study(bundled_path("wide"), bundled_path("wide") / "selector")
    return [study.clip(seed, "validation") for seed in (0, 1)]


def test_all_conditions_of_a_budget_keep_the_same_number(outcomes):
    for clip in outcomes:
        assert len(clip) == sum(len(budgets_of(name)) for name in CONDITIONS)
        lines = clip[key_of("both", "", ALL)]["kept"][2]
        for name, condition in CONDITIONS.items():
            for method, share in budgets_of(name):
                kept = clip[key_of(name, method, share)]["kept"]
                if share < ALL:
                    assert sum(kept) == tokens_of(share, 750), (name, method, share)
                assert (kept[1] > 0) == condition.sound
                if condition.retain_text < 1 or condition.lines == "late":  # some late ones are behind the end
                    assert 0 < kept[2] <= lines - (condition.retain_text < 1)
                else:
                    assert kept[2] == (lines if condition.lines else 0)
    right = [clip[key_of("sound", "", ALL)]["right"] for clip in outcomes]
    assert sum(row.count("1") for row in right) > 16


def test_a_result_compares_conditions_clip_by_clip(outcomes):
    module = load_benchmark("subtitles")
    result = json.loads(json.dumps(module.results(outcomes)))
    assert (result["clips"], result["questions"]) == (2, 22)
    rows = {(row["condition"], row["method"], row["share"]): row for row in result["rows"]}
    assert len(rows) == len(outcomes[0])
    key = ("both", "resift", 0.1)
    bits = np.array([[int(bit) for bit in clip[key_of(*key)]["right"]] for clip in outcomes])
    assert rows[key]["all types"][0] == round(bits.mean(), 4)
    assert rows[key]["said"][0] == bits[:, WIDE_TYPES.index("said")].mean()
    for row in result["differences"]:
        first, second = (rows[row[which], row["method"], row["share"]] for which in ("first", "second"))
        for group in ("all types", "heard types", "said"):
            assert row[group][0] == pytest.approx(first[group][0] - second[group][0], abs=2e-4)
    parts = module.Tables(result).parts()
    assert len(parts["subtitles"].splitlines()) == 2 + len(PLAIN)
    assert all(len(part.splitlines()) > 3 for part in parts.values())


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, outcomes):
    module = load_benchmark("subtitles")
    monkeypatch.setattr(module, "BACKBONE", "wide")
    asked = []

    def answer(_, seed, split):
        asked.append((seed, split))
        return outcomes[seed]

    monkeypatch.setattr(module.Study, "clip", answer)
    where = ["--out", str(tmp_path / "out.json"), "--work", str(tmp_path / "work" / "clips.jsonl")]
    module.main(["--clips", "1", "--split", "validation", *where])
    module.main(["--clips", "2", "--split", "validation", *where])
    assert asked == [(0, "validation"), (1, "validation")]
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert (result["clips"], result["split"]) == (2, "validation")
    assert {row["method"] for row in result["rows"]} == {"", *METHODS}
    assert {"commit", "torch", "backbone", "command"} <= result.keys()


@pytest.mark.parametrize("sound", [True, False], ids=["sound", "no sound"])
def test_answers_and_tokens_are_those_of_the_library(host, sound, tmp_path):
    """A clip with lines, all tokens and few: the study's prompt is the one that a pipeline makes of a file."""
    scene = make_scene(2, "validation", world_setting("wide").config)
    write_clip(scene, tmp_path / "clip.mp4")
    media = read_for(host.processor, tmp_path / "clip.mp4")
    lines = (*subtitles(scene), Line(5.9, 6.0, "hum"), Line(5.9, 6.0, "open"))
    media = replace(media, lines=lines, waveform=media.waveform if sound else None)
    seen = encode_scenes(host, [scene], files=tmp_path, seen=lambda found: replace(found, waveform=media.waveform))
    clip = lined(seen, media.lines, host.processor.tokenizer)
    asked = [question.text for question in questions(scene, np.random.default_rng(0), WIDE_TYPES)]
    packed = PackedQuestions.of(host.processor, [asked])
    for options in ({"compressor": None}, {"compressor": "resift", "tokens": 75}):
        pipe = load(bundled_path("wide"), device="cpu", **options)
        read = []
        rotary = adapter_for(pipe.host.thinker).parts.language_model.rotary_emb
        rotary.register_forward_pre_hook(lambda _, args, given, to=read: to.append([*args, *given.values()][-1]),
                                         with_kwargs=True)  # fmt: skip
        answers = [pipe.ask(media, text, max_new_tokens=1) for text in asked]
        method = make_compressor("resift", Budget(tokens=75)).eval() if "tokens" in options else None
        found = PackedEvaluator(host)(clip, packed, method)
        words = host.processor.tokenizer.convert_ids_to_tokens(found.words[0].tolist())
        assert words == [answer.text for answer in answers]
        tokens = answers[0].report.tokens
        kept = torch.bincount(clip.modality[found.keep[0]].long(), minlength=4).tolist()[1:]
        assert kept == [tokens.video_kept, tokens.audio_kept, tokens.text_kept]
        position = clip.position[:, found.keep[0]]
        assert torch.equal(read[0][-3:, 0, : position.shape[1]], position)
        assert int(read[0][-1, 0, position.shape[1]]) == int(position.max()) + 1
