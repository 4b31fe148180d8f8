"""Packed answers are those of ordinary calls with the method attached, one clip and one question at a time."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.compressors.random import seed_rows
from omnisift.lab.benchmark.encoded import encode_scenes
from omnisift.lab.benchmark.packed_eval import PackedEvaluator, PackedQuestions
from omnisift.models import attach
from omnisift.pipeline.loading import load_host
from omnisift.pipeline.prompt import build_inputs, read_for
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS
from omnisift.world import make_scene, questions, write_clip

METHODS = ["", "omnisift", "random", "uniform:mode=pool", "tome", "evs", "routed", "visionzip"]
SEEDS = (7, 8, 9)


def _prepare(host, scenes, asked, folder):
    """Clips encoded for packed evaluation, and the inputs of ordinary calls: one prompt per question."""
    inputs = []
    for scene, texts in zip(scenes, asked, strict=True):
        write_clip(scene, folder / "clip.mp4")
        media = read_for(host.processor, folder / "clip.mp4")
        inputs.append([build_inputs(host.processor, media, text) for text in texts])
    return encode_scenes(host, scenes), PackedQuestions.of(host.processor, asked), inputs


def _compare(host, batch, compressor, seeds):
    clips, asked, inputs = batch
    if compressor is not None:
        seed_rows(compressor, seeds)
    answered = PackedEvaluator(host)(clips, asked, compressor)
    assert answered.words.shape == (len(inputs), len(inputs[0]))
    length = clips.embeds.shape[1]
    for row, prompts in enumerate(inputs):
        for number, prompt in enumerate(prompts):
            if compressor is not None:
                seed_rows(compressor, seeds[row : row + 1])
            with torch.inference_mode(), attach(host.thinker, compressor) if compressor else nullcontext() as cut:
                word = host.thinker(**prompt).logits[0, -1].argmax()
            assert answered.words[row, number] == word
            if cut is not None:
                assert torch.equal(cut.last.keep[0, :length], answered.keep[row])
                assert cut.last.keep[0, length:].all()


@pytest.fixture(scope="module")
def batch(world, tmp_path_factory):
    scenes = [make_scene(seed, "test") for seed in SEEDS]
    asked = [[q.text for q in questions(scene, np.random.default_rng(0))] for scene in scenes]
    return _prepare(world.host, scenes, asked, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_ordinary_calls(world, batch, method):
    selector = VGAS.from_pretrained(str(nano_path() / "selector")).eval()
    budget = Budget(retain_video=0.25, retain_audio=0.25)
    compressor = make_compressor(method, budget, selector=selector).eval() if method else None
    _compare(world.host, batch, compressor, SEEDS)


@pytest.fixture(scope="module")
def second(second_backbone, tmp_path_factory):
    """A host of Qwen3-Omni's class, and two clips."""
    host = load_host(str(second_backbone), "cpu", None, None)
    scenes = [make_scene(seed, "test") for seed in SEEDS[:2]]
    asked = [["Where is the circle?", "Is a hum heard?"]] * 2
    return host, _prepare(host, scenes, asked, tmp_path_factory.mktemp("packed"))


@pytest.mark.parametrize("method", ["", "omnisift", "tome", "visionzip", "omnizip"])
def test_answers_of_a_host_with_deepstack(second, method):
    host, prepared = second
    assert prepared[0].deep.shape == (2, 1, 600, 128)
    selector = VGAS.from_pretrained(str(nano_path() / "selector")).eval()
    budget = Budget(retain_video=0.25, retain_audio=0.25)
    compressor = make_compressor(method, budget, selector=selector).eval() if method else None
    _compare(host, prepared, compressor, SEEDS[:2])


def test_words_are_embedded_by_the_model_that_answers(world, batch):
    clips, asked, _ = batch
    spoiled = clips.take([0, 1, 2])
    spoiled.embeds[:, spoiled.modality == 0] = 1e3
    evaluator = PackedEvaluator(world.host)
    assert torch.equal(evaluator(spoiled, asked, None).words, evaluator(clips, asked, None).words)


def test_questions_are_packed_without_loss(world):
    texts = [["Where is the circle?", "How many shapes are there?"], ["What shape is red?", "Is a hum heard?"]]
    asked = PackedQuestions.of(world.host.processor, texts)
    for row in range(2):
        for number in (1, 2):
            of_question = asked.segment[row] == number
            assert asked.offset[row][of_question].tolist() == list(range(int(of_question.sum())))
            assert asked.last[row, number - 1] == torch.nonzero(of_question)[-1]
    assert asked.part(1, 1).last.tolist() == asked.last[1:].tolist()
