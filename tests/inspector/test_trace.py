"""The trace matches the library: same tokens, same scores, same answers."""

from __future__ import annotations

import dataclasses
import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from media_files import write_audio, write_video

from omnisift.budget import Budget
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.errors import UsageError
from omnisift.inspector import SCHEMA, VERSION, Inspection, inspect_clip
from omnisift.inspector.columns import ranks
from omnisift.inspector.trace import KINDS, Trace
from omnisift.models import attach
from omnisift.ops.attention import attention_weights
from omnisift.pipeline import Pipeline
from omnisift.pipeline.loading import Host
from omnisift.pipeline.method import compressor_for
from omnisift.pipeline.prompt import build_inputs
from omnisift.tokens import Modality
from omnisift.vgas import VGAS, VGASConfig, attend

VIDEO, AUDIO = int(Modality.VIDEO), int(Modality.AUDIO)


@pytest.mark.parametrize("name", ["omnisift", "v_cast", "random+omnisift"])
def test_kept_and_scores_are_those_of_the_attachment(host: Host, clip: Path, compared: Inspection, name: str) -> None:
    """Compared with an ordinary attached call, bit for bit."""
    trace = compared.trace
    compressor = compressor_for(host, name, Budget(retain=0.25)).eval()
    inputs = build_inputs(host.processor, compared.media, trace.question)
    with torch.inference_mode(), attach(host.thinker, compressor) as attachment:
        host.thinker(**inputs)
    last = attachment.last
    assert last is not None
    media = last.modality[0] != Modality.TEXT
    selection = next(method for method in trace.methods if method.name == name).selection
    assert selection is not None
    assert np.array_equal(selection.kept, last.keep[0][media].numpy())
    assert np.array_equal(trace.tokens.modality, last.modality[0][media].numpy())
    assert last.scores is not None
    assert np.array_equal(selection.score, last.scores[0][media].numpy(), equal_nan=True)
    assert (sum(selection.video_kept), sum(selection.audio_kept)) == (last.kept_video, last.kept_audio)


def test_answers_and_counts_are_those_of_asking(host: Host, clip: Path, compared: Inspection) -> None:
    trace = compared.trace
    by_name = {method.name: method for method in trace.methods}
    assert list(by_name) == ["none", "omnisift", "v_cast", "random+omnisift"]
    for name in ("none", "omnisift"):
        method = None if name == "none" else compressor_for(host, name, Budget(retain=0.25))
        answer = Pipeline(host, method).ask(clip, trace.question, max_new_tokens=6)
        assert by_name[name].answer.text == answer.text
        assert by_name[name].answer.report.tokens == answer.report.tokens
        assert min(dataclasses.astuple(by_name[name].answer.report.seconds)[:4]) > 0
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.thinker.modules())


def test_tokens_are_mapped_to_patches_chunks_and_time(compared: Inspection) -> None:
    trace = compared.trace
    tokens, video, audio = trace.tokens, trace.tokens.indices(VIDEO), trace.tokens.indices(AUDIO)
    assert dataclasses.astuple(trace.grid) == (6, 4, 4, 1.0)
    cells = list(zip(tokens.frame[video], tokens.row[video], tokens.column[video], strict=True))
    assert cells == [(f, r, c) for f in range(6) for r in range(4) for c in range(4)]
    assert tokens.time[video] == pytest.approx(tokens.frame[video])
    assert tokens.time[audio] == pytest.approx(np.arange(150) * 0.04, abs=1e-5)
    assert [(c.start, c.end, c.frames, c.video, c.audio) for c in trace.chunks] == [
        (2.0 * n, 2.0 * n + 2, (2 * n, 2 * n + 1), 32, 50) for n in range(3)
    ]
    assert set(tokens.frame[audio]) == {-1}


def test_kinds_and_ranks(compared: Inspection) -> None:
    tokens = compared.trace.tokens
    selection = compared.trace.methods[1].selection
    assert selection is not None
    kind = np.array(KINDS)[selection.kind]
    assert set(kind[(tokens.frame >= 0) & (tokens.frame % 2 == 0)]) == {"spatial"}
    assert set(kind[(tokens.frame >= 0) & (tokens.frame % 2 == 1)]) == {"temporal"}
    assert set(kind[tokens.modality == AUDIO]) == {"selector"}
    for chunk in range(3):  # kept tokens have the first ranks of their frame, and of their chunk's audio
        for part in (tokens.frame == 2 * chunk, (tokens.modality == AUDIO) & (tokens.chunk == chunk)):
            kept = selection.kept & part
            assert sorted(selection.rank[kept]) == list(range(1, int(kept.sum()) + 1))
    pair = compared.trace.methods[3].selection
    assert pair is not None
    assert set(np.array(KINDS)[pair.kind]) == {"method", "selector"}


def test_merging_is_reported_by_modality(inspected, compared: Inspection, clip: Path) -> None:
    """v_cast drops patches; the audio rule it is paired with merges."""
    assert [method.selection and method.selection.merged for method in compared.trace.methods] == [
        None,
        (),
        ("audio",),
        (),
    ]
    assert inspected(clip, "tome").trace.methods[1].selection.merged[0] == "video"


def test_ranks_put_kept_first_among_equals() -> None:
    score = np.array([0.5, 0.9, 0.5, np.nan, 0.1, 0.7], np.float32)
    kept = np.array([False, True, True, True, False, True])
    assert ranks(score, kept, np.array([0, 0, 0, 0, 1, -1])).tolist() == [3, 1, 2, 0, 1, 0]


def test_anchors_are_kept_patches_of_the_chunk_and_shares_fall(compared: Inspection) -> None:
    tokens = compared.trace.tokens
    selection = compared.trace.methods[1].selection
    assert selection is not None
    attention = selection.anchor_attention
    assert attention is not None
    assert np.array_equal(attention.token, tokens.indices(AUDIO))
    assert selection.kept[attention.anchors].all()
    assert (tokens.chunk[attention.anchors] == tokens.chunk[attention.token][:, None]).all()
    assert (np.diff(attention.share, axis=1) <= 0).all()
    assert ((attention.share > 0) & (attention.share <= 1)).all()
    assert compared.trace.methods[2].selection.anchor_attention is None, "v_cast has no selector for audio"


def test_attention_equals_the_selectors_weights() -> None:
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    audio, keys = torch.randn(3, 5, 16), torch.randn(3, 7, 16)
    mixed, weights = layer(audio, keys, keys, average_attn_weights=True)
    assert torch.allclose(attention_weights(layer, audio, keys), weights)
    assert torch.allclose(attend(layer, audio, keys, None), mixed, atol=1e-6)


@pytest.mark.parametrize("guide", ["cross", "concat", "direct"])
def test_attention_sums_for_every_guide(guide: str) -> None:
    torch.manual_seed(0)
    selector = VGAS(VGASConfig(input_size=12, hidden_size=16, num_attention_heads=2, guide=guide)).eval()
    video, audio = torch.randn(2, 3, 12), torch.randn(2, 5, 12)
    share = selector.attention(video, audio)
    assert share.shape == (2, 5, 3)
    if guide == "cross":
        assert torch.allclose(share.sum(-1), torch.ones(2, 5), atol=1e-5)
    if guide == "concat":
        assert (share.sum(-1) < 1).all()
    if guide == "direct":  # an anchor's attention over all audio sums to one, and the score is its mean over anchors
        assert torch.allclose(share.sum(1), torch.ones(2, 3), atol=1e-5)
        assert torch.allclose(share.mean(-1).log(), selector(video, audio), atol=1e-5)


def test_a_selector_without_video_has_no_anchors() -> None:
    selector = VGAS(VGASConfig(input_size=12, hidden_size=16, num_attention_heads=2, guide="self"))
    with pytest.raises(ValueError, match="no attention to video"):
        selector.attention(torch.randn(1, 3, 12), torch.randn(1, 5, 12))


def schema() -> dict:
    return json.loads(files("omnisift.inspector").joinpath("schema.json").read_text(encoding="utf-8"))


def checked(trace: Trace) -> dict:
    """The trace as JSON, checked against the schema and for equal column lengths."""
    loaded = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    jsonschema.validate(loaded, schema())
    count = len(trace.tokens)
    columns = [value for value in loaded["tokens"].values() if isinstance(value, list)]
    for method in loaded["methods"]:
        if method["selection"]:
            columns += [method["selection"][name] for name in ("kept", "score", "kind", "rank")]
            assert len(method["selection"]["video_kept"]) == len(loaded["chunks"])
    assert {len(column) for column in columns} == {count}
    return loaded


def test_json_follows_the_schema_and_restores_scores_exactly(compared: Inspection) -> None:
    loaded = checked(compared.trace)
    assert (loaded["schema"], loaded["version"]) == (SCHEMA, VERSION)
    result = np.array([np.nan if v is None else v for v in loaded["methods"][1]["selection"]["score"]], np.float32)
    assert np.array_equal(result, compared.trace.methods[1].selection.score, equal_nan=True)


def test_the_schema_names_every_key_and_its_version(compared: Inspection) -> None:
    rules = schema()
    loaded = compared.trace.to_dict()
    assert rules["properties"]["version"]["const"] == VERSION
    assert set(rules["properties"]) == set(loaded)
    method = rules["properties"]["methods"]["items"]["properties"]
    assert set(method) == set(loaded["methods"][1])
    assert set(method["selection"]["properties"]) == set(loaded["methods"][1]["selection"])
    assert set(rules["properties"]["tokens"]["properties"]) == set(loaded["tokens"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(loaded | {"version": VERSION + 1}, rules)


def test_silent_clip(inspected, tmp_path: Path) -> None:
    inspection = inspected(write_video(tmp_path / "silent.mp4", 2.5, audio=False), "omnisift")
    trace = inspection.trace
    checked(trace)
    assert inspection.mel is None
    assert len(trace.tokens.indices(AUDIO)) == 0
    selection = trace.methods[1].selection
    assert selection is not None
    assert selection.anchor_attention is None
    assert 0 < sum(selection.video_kept) < len(trace.tokens)
    assert [chunk.frames for chunk in trace.chunks] == [(0, 1), (2,)], "an odd last frame is a chunk of one"


def test_audio_without_video_is_read_entirely(inspected, tmp_path: Path) -> None:
    trace = inspected(write_audio(tmp_path / "tone.m4a"), "omnisift").trace
    checked(trace)
    assert trace.grid is None
    assert trace.chunks == ()
    assert trace.methods[1].selection is None
    assert trace.methods[1].answer.report.retained_ratio == 1.0
    assert len(trace.tokens) == trace.methods[1].answer.report.tokens.audio == pytest.approx(50, abs=2)
    assert any("kept in full; --compress-audio" in notice for notice in trace.notices)


def test_compressed_audio_has_chunks_of_two_seconds(host: Host, tmp_path: Path) -> None:
    budget = Budget(retain=0.25, compress_audio=True)
    methods = {name: compressor_for(host, name, budget) for name in ("resift", "uniform")}
    trace = inspect_clip(host, methods, write_audio(tmp_path / "tone.m4a", 5.0), max_new_tokens=4).trace
    checked(trace)
    assert trace.grid is None
    assert [(chunk.start, chunk.end, chunk.frames, chunk.video) for chunk in trace.chunks] == [
        (0.0, 2.0, (), 0), (2.0, 4.0, (), 0), (4.0, pytest.approx(5, abs=0.1), (), 0)
    ]  # fmt: skip
    assert sum(chunk.audio for chunk in trace.chunks) == len(trace.tokens)
    for method in trace.methods[1:]:
        assert method.selection is not None
        assert method.selection.audio_kept[:2] == (13, 13)
        assert sum(method.selection.audio_kept) == method.answer.report.tokens.audio_kept < len(trace.tokens)


@pytest.mark.parametrize("names", [[], ["none"]])
def test_methods_are_needed_and_all_tokens_are_not_one(host: Host, clip: Path, names: list[str]) -> None:
    method = OmniSiftCompressor(Budget(retain=0.25))
    with pytest.raises(UsageError, match="name at least one method, and not 'none'"):
        inspect_clip(host, dict.fromkeys(names, method), clip)
