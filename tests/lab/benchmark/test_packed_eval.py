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
from omnisift.media import read
from omnisift.models import attach
from omnisift.pipeline.prompt import build_inputs
from omnisift.utils.assets import nano_path
from omnisift.vgas import VGAS
from omnisift.world import make_scene, questions, write_clip

METHODS = ["", "omnisift", "random", "uniform:mode=pool", "tome", "evs", "routed", "visionzip"]
SEEDS = (7, 8, 9)


@pytest.fixture(scope="module")
def batch(world, tmp_path_factory):
    """Three clips, encoded for packed evaluation, and the inputs of ordinary calls: one prompt per question."""
    scenes = [make_scene(seed, "test") for seed in SEEDS]
    asked = [[q.text for q in questions(scene, np.random.default_rng(0))] for scene in scenes]
    size, folder, inputs = world.host.processor.video_processor.size, tmp_path_factory.mktemp("packed"), []
    for scene, texts in zip(scenes, asked, strict=True):
        write_clip(scene, folder / "clip.mp4")
        media = read(folder / "clip.mp4", min_pixels=size["shortest_edge"], max_pixels=size["longest_edge"])
        inputs.append([build_inputs(world.host.processor, media, text) for text in texts])
    return encode_scenes(world.host, scenes), PackedQuestions.of(world.host.processor, asked), inputs


@pytest.mark.parametrize("method", METHODS)
def test_answers_are_those_of_ordinary_calls(world, batch, method):
    clips, asked, inputs = batch
    selector = VGAS.from_pretrained(str(nano_path() / "selector")).eval()
    budget = Budget(retain_video=0.25, retain_audio=0.25)
    compressor = make_compressor(method, budget, selector=selector).eval() if method else None
    if compressor is not None:
        seed_rows(compressor, SEEDS)
    answered = PackedEvaluator(world.host)(clips, asked, compressor)
    assert answered.words.shape == (3, 8)
    length = clips.embeds.shape[1]
    for row, prompts in enumerate(inputs):
        for number, prompt in enumerate(prompts):
            if compressor is not None:
                seed_rows(compressor, SEEDS[row : row + 1])
            with torch.inference_mode(), attach(world.host.thinker, compressor) if method else nullcontext() as cut:
                word = world.host.thinker(**prompt).logits[0, -1].argmax()
            assert answered.words[row, number] == word
            if cut is not None:
                assert torch.equal(cut.last.keep[0, :length], answered.keep[row])
                assert cut.last.keep[0, length:].all()


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
