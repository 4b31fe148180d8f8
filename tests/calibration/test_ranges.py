"""Ranges by modality against the inputs of each layer, recorded and divided by plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.models import Audio, Image, Part, Video, language_model, prompt, row_of, thinker
from tests.helpers.windows import QUESTION, clip_of, windows_of
from tests.models.hosts import Ragged, half
from torch import Tensor, nn

import omnisift
from omnisift import Line, Pipeline
from omnisift.calibration.linears import TokenModality
from omnisift.calibration.ranges import RangeCollector
from omnisift.calibration.scales import Calibration, Scales
from omnisift.errors import ModelError, UnsupportedCall, UsageError
from omnisift.tokens import Modality

MODEL = thinker()
ROWS: list[list[Part]] = [[5, Video(4, 2, 3, audio=90), 6], [9, Video(2, 2, 2, audio=30), 21], [40]]
INPUTS = prompt(*ROWS)
STEPS = 4
ABOUT = Calibration("tiny", "random", "half", (), 1, {})


@contextmanager
def recorded() -> Iterator[dict[str, list[Tensor]]]:
    """All inputs of each layer, call by call."""
    seen: dict[str, list[Tensor]] = {}
    hooks = []
    for name, layer in language_model(MODEL).named_modules():
        if isinstance(layer, nn.Linear):
            calls = seen.setdefault(name, [])
            hooks.append(layer.register_forward_pre_hook(lambda _, args, calls=calls: calls.append(args[0])))
    yield seen
    for hook in hooks:
        hook.remove()


def kept_kinds(attachment: Any, mask: Tensor) -> list[list[int]]:
    """Modality of the kept tokens of each row, left-padded with -1 to one length."""
    rows = []
    for kinds, keep, real in zip(attachment.last.modality, attachment.last.keep, mask.bool(), strict=True):
        rows.append([int(kind) for kind, kept in zip(kinds[real], keep[real], strict=True) if kept])
    width = max(map(len, rows))
    return [[-1] * (width - len(row)) + row for row in rows]


def brute_force(calls: list[Tensor], kinds: list[list[list[int]]], kind: int) -> tuple[Tensor, float, int]:
    """Largest value by channel, mean percentile and number of the tokens of a modality."""
    largest, total, count = torch.zeros(calls[0].shape[-1]), 0.0, 0
    for call, rows in zip(calls, kinds, strict=True):
        tokens = [call[b, k].abs() for b, row in enumerate(rows) for k, found in enumerate(row) if found == kind]
        for token in tokens:
            largest = torch.max(largest, token)
        if tokens:
            values = sorted(torch.cat(tokens).tolist(), reverse=True)
            total += len(tokens) * values[-(-len(values) // 1000) - 1]
            count += len(tokens)
    return largest, total / max(1, count), count


def check(scales: Scales, seen: dict[str, list[Tensor]], kinds: list[list[list[int]]]) -> None:
    assert scales.largest.keys() == seen.keys()
    assert len(seen) == 14
    for name, calls in seen.items():
        for kind in Modality:
            largest, percentile, count = brute_force(calls, kinds, kind)
            assert torch.equal(scales.largest[name][kind], largest)
            assert float(scales.percentile[name][kind]) == pytest.approx(percentile, rel=1e-6)
            assert int(scales.tokens[kind]) == count


@torch.no_grad()
@pytest.mark.parametrize("compressor", [half(), Ragged()], ids=["random", "ragged"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_ranges_of_kept_tokens(compressor: Any, order: str) -> None:
    """The collector's hooks may stand before those of the attachment, as in `Pipeline.ask`, or after them."""
    collector = RangeCollector(MODEL)
    with recorded() as seen:
        if order == "before":
            with collector, omnisift.attach(MODEL, compressor) as attachment:
                MODEL(**INPUTS)
        else:
            with omnisift.attach(MODEL, compressor) as attachment, collector:
                MODEL(**INPUTS)
    scales = collector.scales(ABOUT)
    check(scales, seen, [kept_kinds(attachment, INPUTS["attention_mask"])])
    assert attachment.last is not None
    assert scales.counts()["video"] == attachment.last.kept_video < attachment.last.n_video
    assert scales.counts()["audio"] == attachment.last.kept_audio < attachment.last.n_audio


@torch.no_grad()
@pytest.mark.parametrize("pad", ["left", "right"])
def test_ranges_of_all_tokens(pad: str) -> None:
    rows: list[list[Part]] = [[5, Video(2), 6, Image(), 3, Audio(7), 4], [3]]
    inputs = prompt(*rows, pad=pad)
    with recorded() as seen, RangeCollector(MODEL) as collector:
        MODEL(**inputs)
    video, audio = Modality.VIDEO, Modality.AUDIO
    long = [0] * 6 + [video] * 12 + [0] * (1 + 6 + 1 + 4 + 1 + 3 + 1) + [audio] * 7 + [0] * 5
    short, padding = [0] * 3, [-1] * (len(long) - 3)
    check(collector.scales(ABOUT), seen, [[long, padding + short if pad == "left" else short + padding]])


@torch.no_grad()
def test_decoded_tokens_are_text() -> None:
    inputs = prompt(ROWS[0])
    with recorded() as seen, omnisift.attach(MODEL, half()) as attachment, RangeCollector(MODEL) as collector:
        MODEL.generate(**inputs, max_new_tokens=STEPS)
    kinds = [kept_kinds(attachment, inputs["attention_mask"]), *[[[0]]] * (STEPS - 1)]
    check(collector.scales(ABOUT), seen, kinds)


@torch.no_grad()
def test_a_further_prompt_without_video_is_text() -> None:
    """The attachment's state is that of the prompt before."""
    with omnisift.attach(MODEL, half()), RangeCollector(MODEL) as collector:
        MODEL(**INPUTS)
        MODEL(**prompt([30]))
    counts = collector.scales(ABOUT).counts()
    with omnisift.attach(MODEL, half()), RangeCollector(MODEL) as before:
        MODEL(**INPUTS)
    assert counts == {**before.scales(ABOUT).counts(), "text": before.scales(ABOUT).counts()["text"] + 30}


@torch.no_grad()
def test_ranges_of_a_batch_are_those_of_its_rows() -> None:
    with omnisift.attach(MODEL, Ragged()), RangeCollector(MODEL) as batch:
        MODEL(**INPUTS)
    joint = batch.scales(ABOUT)
    parts = []
    for index, row in enumerate(ROWS):
        with omnisift.attach(MODEL, Keeps(INPUTS, index)), RangeCollector(MODEL) as single:
            MODEL(**row_of(INPUTS, row, index, ROWS))
        parts.append(single.scales(ABOUT))
    assert torch.equal(joint.tokens, sum(part.tokens for part in parts))
    for name, largest in joint.largest.items():
        found = torch.stack([part.largest[name] for part in parts]).amax(dim=0)
        torch.testing.assert_close(found, largest, rtol=0, atol=1e-5)


class Keeps(Ragged):
    """Keeps of one row what `Ragged` keeps of it in a batch."""

    def __init__(self, inputs: dict[str, Any], row: int) -> None:
        super().__init__()
        with torch.no_grad(), omnisift.attach(MODEL, Ragged()) as attachment:
            MODEL(**inputs)
        assert attachment.last is not None
        self.kept = attachment.last.keep[row][inputs["attention_mask"][row].bool()]

    def forward(self, stream: Any) -> Any:
        return replace(super().forward(stream), keep=self.kept)


def test_after_the_block_nothing_is_counted_or_hooked() -> None:
    with RangeCollector(MODEL) as collector:
        MODEL(**prompt([5]))
    before = collector.scales(ABOUT).tokens
    MODEL(**prompt([5]))
    assert torch.equal(collector.scales(ABOUT).tokens, before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in MODEL.modules())


def test_tokens_of_unknown_modality_are_refused() -> None:
    embeds = torch.zeros(1, 4, 32)
    with RangeCollector(MODEL) as collector:
        with pytest.raises(UnsupportedCall, match="without input_ids"):
            language_model(MODEL)(inputs_embeds=embeds)
        collector.tokens.given = torch.zeros(1, 3, dtype=torch.int8)
        with pytest.raises(UnsupportedCall, match="reads 4 tokens of a prompt of 3"):
            language_model(MODEL)(inputs_embeds=embeds)
        collector.tokens.given = torch.tensor([[-1, 0, 1, 2]], dtype=torch.int8)
        language_model(MODEL)(inputs_embeds=embeds)
    assert collector.scales(ABOUT).counts() == {"text": 1, "video": 1, "audio": 1}


def test_ranges_of_a_model_without_tokens_or_with_nan_are_refused() -> None:
    with pytest.raises(UsageError, match="14 of 14 linear layers read no token"):
        RangeCollector(MODEL).scales(ABOUT)
    damaged = thinker()
    damaged.get_input_embeddings().weight.data.fill_(torch.nan)
    with RangeCollector(damaged) as collector:
        damaged(**prompt([5]))
    with pytest.raises(ModelError, match="NaN or infinite"):
        collector.scales(ABOUT)


@pytest.fixture(scope="module")
def nano() -> Pipeline:
    return omnisift.load("nano", compressor=None, device="cpu")


@pytest.mark.parametrize("steps", [10**6, 4], ids=["at once", "in windows"])
def test_a_long_clip_with_subtitles_has_the_tokens_of_its_report(
    nano: Pipeline, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In windows, the clip was compressed before, and looks like text to the host."""
    pipe = nano.with_compressor("stvp", retain=0.25, retain_text=0.7)
    lines = tuple(Line(1.3 * k, 1.3 * k + 1, ("red circle", "hum")[k % 2]) for k in range(10))
    clip = replace(clip_of("nano", 26, 13.3), lines=lines)
    with windows_of(steps, monkeypatch), RangeCollector(pipe.host.thinker) as collector:
        tokens = pipe.ask(clip, QUESTION, max_new_tokens=1).report.tokens
    found, other = collector.scales(ABOUT).counts(), tokens.prompt - tokens.video - tokens.audio - tokens.text
    assert found == {
        "text": other,
        "video": tokens.video_kept,
        "audio": tokens.audio_kept,
        "subtitle": tokens.text_kept,
    }


def test_the_order_of_subtitles_is_that_of_the_language_model(nano: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows and the whole clip agree on which token is which."""
    pipe = nano.with_compressor("stvp", retain=0.25)
    clip = replace(clip_of("nano", 26, 13.3), lines=(Line(2.0, 3.0, "red circle"), Line(9.0, 10.0, "hum")))
    found = []
    for steps in (10**6, 4):
        kinds: list[Tensor] = []
        with windows_of(steps, monkeypatch), TokenModality(omnisift.adapter_for(pipe.host.thinker)) as tokens:
            layer = language_model(pipe.host.thinker).layers[0].self_attn.q_proj
            hook = layer.register_forward_pre_hook(
                lambda _, args, kinds=kinds, tokens=tokens: kinds.append(tokens.of(args[0], "q_proj"))
            )
            pipe.ask(clip, QUESTION, max_new_tokens=1)
            hook.remove()
        found.append(kinds)
    ((whole,), (windowed,)) = found
    assert torch.equal(whole, windowed)
    begin = int(torch.nonzero(whole == Modality.SUBTITLE)[0])
    assert whole[:begin].tolist().count(Modality.VIDEO) > 0
    assert whole[begin:].tolist().count(Modality.VIDEO) > 0


def test_a_held_prompt_is_refused(nano: Pipeline, clip: Path) -> None:
    pipe = nano.with_compressor("resift", retain=0.25)
    encoded = pipe.encode(clip)
    pipe.ask(encoded, QUESTION, max_new_tokens=1)
    with RangeCollector(pipe.host.thinker), pytest.raises(UnsupportedCall, match="hold_bytes=0"):
        pipe.ask(encoded, "What is heard?", max_new_tokens=1)


def test_calibrate_asks_all_questions_about_all_clips(nano: Pipeline, clip: Path) -> None:
    pipe, steps = nano.with_compressor("resift", retain=0.25), []
    questions = (QUESTION, "What is heard?")
    scales = omnisift.calibrate(
        pipe, [clip, pipe.read(clip)], questions, max_new_tokens=3, step=lambda: steps.append(1)
    )
    tokens = [pipe.ask(clip, question, max_new_tokens=3).report.tokens for question in questions]
    read = [each.prompt - each.video - each.audio + each.generated - 1 for each in tokens]
    assert scales.counts() == {
        "text": 2 * sum(read),
        "video": 2 * sum(each.video_kept for each in tokens),
        "audio": 2 * sum(each.audio_kept for each in tokens),
    }
    assert len(steps) == 2
    about = scales.calibration
    assert (about.model, about.compressor, about.budget, about.clips) == ("nano", "resift", "0.25", (clip.name,) * 2)
    assert {"commit", "torch", "transformers"} <= about.made.keys()


@pytest.mark.parametrize("given", [([], ["What?"]), (["a.mp4"], []), (["a.mp4"], "What?"), (["a.mp4"], [" "])])
def test_calibrate_needs_clips_and_questions(nano: Pipeline, given: Any) -> None:
    with pytest.raises(UsageError):
        omnisift.calibrate(nano, *given)
