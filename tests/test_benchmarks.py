"""Benchmarks that no other test runs: they run, and `verify_7b` detects wrong decisions.

The released code is not available; a stand-in checkout wraps the plain loop of `tests/helpers/oracle.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from tests.helpers.benchmarks import load_benchmark

from omnisift.chunks import build_stream
from omnisift.errors import UsageError
from omnisift.tokens import Modality, TokenStream
from omnisift.vgas import VGAS, VGASConfig

ROOT = Path(__file__).parents[1]
RHO = (0.67, 0.4)

STAND_IN = """
import importlib.util
import torch
spec = importlib.util.spec_from_file_location("loop_of_the_stand_in", {loop!r})
loop = importlib.util.module_from_spec(spec)
__import__("sys").modules["loop_of_the_stand_in"] = loop
spec.loader.exec_module(loop)

def similarity_pruning(selector, embeds, ids, audio_id, video_id, positions, merging_ratio_a, merging_ratio_v):
    kinds = (ids[0] == video_id) * 1 + (ids[0] == audio_id) * 2
    loop.selector_scores = lambda _selector, video, audio: selector(video, audio)
    sample = torch.zeros_like(kinds)
    found = loop.reference(embeds[0], kinds, positions[0, 0], sample, merging_ratio_v, merging_ratio_a)
    return embeds, ({keep})[None], 0, 0
"""


@pytest.fixture(scope="module")
def verify_7b() -> ModuleType:
    return load_benchmark("verify_7b")


def stand_in(folder: Path, keep: str) -> Path:
    (folder / "omnisift").mkdir(parents=True)
    code = STAND_IN.format(loop=str(ROOT / "tests" / "helpers" / "oracle.py"), keep=keep)
    (folder / "omnisift" / "compression_units.py").write_text(code, encoding="utf-8")
    return folder


def two_chunks(width: int = 32) -> TokenStream:
    """A prompt of text, then two chunks of 2 x 12 video and 50 audio tokens."""
    torch.manual_seed(0)
    video, audio, text = int(Modality.VIDEO), int(Modality.AUDIO), int(Modality.TEXT)
    kinds, times = [text] * 5, list(range(5))
    for chunk in range(2):
        start = 5 + 50 * chunk
        kinds += [video] * 24 + [audio] * 50
        times += [start] * 12 + [start + 25] * 12 + list(range(start, start + 50))
    return build_stream(
        embeds=torch.randn(len(kinds), width),
        modality=torch.tensor(kinds, dtype=torch.int8),
        position=torch.tensor(times).repeat(3, 1),
        sample=torch.zeros(len(kinds), dtype=torch.int64),
        seconds_per_position=0.04,
    )


@pytest.mark.parametrize("keep", ["found.keep", "torch.ones_like(found.keep)"])
@torch.no_grad()
def test_verify_counts_equal_and_different_decisions(verify_7b: ModuleType, tmp_path: Path, keep: str) -> None:
    released = verify_7b.import_released(stand_in(tmp_path, keep))
    witness = verify_7b.Witness(
        VGAS(VGASConfig(input_size=32, hidden_size=16, num_attention_heads=2)), RHO, released
    ).eval()
    witness(two_chunks())
    assert (witness.tokens, witness.kept) == (2 * 74, 2 * (8 + 30))
    same = keep == "found.keep"
    assert witness.kept_released == (witness.kept if same else witness.tokens)
    assert witness.equal == (witness.tokens if same else witness.kept)


def test_verify_prepares_a_clip_with_the_pipeline(verify_7b: ModuleType, tmp_path: Path) -> None:
    from omnisift.pipeline import load as load_pipeline

    pipeline = load_pipeline("nano", retain=0.25)
    inputs = verify_7b.inputs_of(pipeline, verify_7b.make_clip(tmp_path))
    assert {"input_ids", "pixel_values_videos", "input_features"} <= inputs.keys()


def test_verify_names_the_file_that_a_wrong_checkout_lacks(verify_7b: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"compression_units\.py"):
        verify_7b.import_released(tmp_path)


@pytest.mark.slow
def test_import_time_prints_one_line() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "speed" / "import_time.py"), "--runs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    line = json.loads(done.stdout)
    assert line["torch_s"] > 0
    assert line["extra_s"] > 0


def test_the_probe_ranks_tokens_by_their_benefit() -> None:
    """The model is too small for meaningful numbers, but ablation and gradients must use the same prompt."""
    module = load_benchmark("probe")
    model = module.build(layers=1, width=128)
    prompt = module.Prompt(model, 0)
    benefit = prompt.benefit()
    assert benefit.shape == (module.AUDIO,)
    assert len(set(benefit.tolist())) == module.AUDIO
    module.SAMPLES = {"gumbel": 2, "perturbed": 2, "reinforce": 4}
    result = module.probe(model, 0)
    assert set(result) >= {"attention", "straight_through@0", "merge@0", "bias@0.8", "reinforce@0"}
    assert all(-1 <= value <= 1 for value in result.values())
    assert module.spearman(benefit, 3 * benefit + 1) == 1.0
    straight_through, hard = prompt.descent("straight_through", 0.0), module.row_topk(prompt.logits, prompt.count)[0]
    assert (straight_through[~hard] == 0).all()
    assert (straight_through[hard] != 0).all()


def test_training_measures_both_configurations() -> None:
    """A clip of four seconds instead of forty, measured in this process."""
    module = load_benchmark("training")
    module.SECONDS, module.LAYERS = 4, 2
    full, cut = module.measure(None, 1), module.measure(0.25, 1)
    assert full["tokens"] == full["kept"] == cut["tokens"] == 4 * (6 * 12 + 25)
    assert cut["kept"] == pytest.approx(0.25 * cut["tokens"], abs=4)
    assert min(full["seconds"], cut["seconds"]) > 0


def test_stages_are_measured_with_the_faster_paths_off_and_on() -> None:
    """A clip of two seconds and a model of one layer."""
    module = load_benchmark("stages")
    pipe = module.Pipeline(module.deep_host(1), None)
    half = pipe.with_compressor("resift", retain=0.25, retain_encoded=0.5)
    row = module.compare({"before": pipe, "after": pipe, "half": half}, module.make_clip(2, 2, 3), 1, 2)
    assert all(set(row[way]) == {*module.STAGES, "peak_bytes"} for way in module.WAYS)
    assert all(row[way]["total"] > row[way]["head"] > 0 for way in row)
    lines = module.stages_table([{"model": "deep", "seconds": 2, "retain": 1.0, **row}]).splitlines()
    assert len(lines) == 5
    second = module.second_question(pipe, module.make_clip(2, 2, 3), 1, 2)
    assert 0 < second["cached"] < second["prompt_kept"]
    lines = module.questions_table([{"model": "deep", "seconds": 2, "retain": 1.0, "second_question": second}])
    assert len(lines.splitlines()) == 3


def test_the_tables_of_the_stages_match_the_result_and_the_formula() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "stages.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "profile.md").read_text(encoding="utf-8")
    module = load_benchmark("stages")
    assert module.stages_table(result["rows"]).strip() in page, (
        "copy it from benchmarks/speed/stages.py, which prints it"
    )
    assert module.formula_table().strip() in page, "copy it from benchmarks/speed/stages.py --formula"
    assert result["commit"][:7] in page


def test_the_table_of_long_clips_matches_the_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "long_clips.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "long-clips.md").read_text(encoding="utf-8")
    assert load_benchmark("long_clips").memory_table(result["rows"]).strip() in page, "copy it from long_clips.py"
    assert result["commit"][:7] in page


def test_the_table_of_serving_matches_the_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "serving.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert load_benchmark("serving").table(result) in page, "copy it from benchmarks/speed/serving.py, which prints it"
    assert result["commit"][:7] in page
    assert {point["commit"] for point in result["points"]} == {result["commit"]}


def test_the_table_of_many_clients_matches_the_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "serving_concurrency.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    module = load_benchmark("serving_concurrency")
    assert module.table(result["runs"]) in page, "copy it from benchmarks/speed/serving_concurrency.py --table"
    assert result["commit"][:7] in page
    assert {run["commit"] for run in result["runs"]} == {result["commit"]}
    points = module.points_of(result["runs"])
    assert {(point["model"], point["tokens"], point["clients"]) for point in points} == set(module.POINTS)
    low = min(point["together"]["low"] for point in points)
    assert f"every lower bound is at least {low:.2f}" in page
    assert low >= 0.95


def rows_of(path: Path) -> set[tuple[str, ...]]:
    """Cells of all table rows of a page."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return {tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in lines if line.startswith("|")}


def test_the_tables_of_prompt_cost_match_the_code() -> None:
    """The rows of each model and clip length in README and docs/your-model.md."""
    module = load_benchmark("cost_table")
    readme, page = ROOT / "README.md", ROOT / "docs" / "your-model.md"
    for text, path in ((module.cost_table(), readme), (module.memory_table(), page)):
        expected = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in text.splitlines()[2:]]
        assert len(expected) == 6
        assert set(expected) <= rows_of(path), f"{path.name}: copy the tables of benchmarks/figures/cost_table.py"
    assert module.weights_sentence() in readme.read_text(encoding="utf-8")


def test_the_table_of_models_matches_its_result() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert load_benchmark("models_table").models_table() in page, "copy it from benchmarks/figures/models_table.py"


def test_the_tables_of_streams_match_their_results() -> None:
    module = load_benchmark("streaming_tables")
    for path in module.PAGES:
        page = path.read_text(encoding="utf-8")
        assert module.filled(page) == page, "run benchmarks/figures/streaming_tables.py"


def test_the_tables_of_subtitles_match_their_result() -> None:
    module = load_benchmark("subtitle_tables")
    page = module.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table subtitles") == 8
    assert module.filled(page) == page, "run benchmarks/figures/subtitle_tables.py"


def test_the_tables_of_scales_match_their_result() -> None:
    """On every page that has them."""
    module = load_benchmark("scales_tables")
    for path in sorted((ROOT / "docs").glob("*.md")):
        page = path.read_text(encoding="utf-8")
        assert "<!-- table scales_" not in page or module.filled(page) == page, (
            "run benchmarks/figures/scales_tables.py"
        )
    tables = load_benchmark("scales").Tables(json.loads(module.RESULT.read_text(encoding="utf-8"))).parts()
    blank = "".join(f"<!-- table {name} -->\n<!-- end -->\n" for name in tables)
    filled = module.filled(blank)
    assert all(table in filled for table in tables.values())
    assert len(tables) == 6


def test_scales_are_compared_clip_by_clip() -> None:
    """Of two clips with eight questions, 7 and 6 answers are right, and 5 and 6 in the other condition."""
    module = load_benchmark("scales")
    token, one = module.Condition(16, 4, "token"), module.Condition(16, 4, "tensor", "largest", "kept")
    right = {module.key_of(0.25, token): "7 6", module.key_of(0.25, one): "5 6"}
    tables = module.Tables({"worlds": {"nano": {"types": 8, "ranges": {}, "right": right}}})
    assert tables.share("nano", 0.25, token).value == 13 / 16
    gap = tables.share("nano", 0.25, token, one)
    assert (gap.low, gap.value, gap.high) == (0, 2 / 16, 4 / 16)


@pytest.mark.slow
def test_scales_are_measured_in_every_condition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One clip, one budget and few conditions, which the working file has when it is run again."""
    module = load_benchmark("scales")
    few = {"WORLDS": {"nano": "base"}, "CLIPS": {"nano": 1}, "CALIBRATION_CLIPS": 1, "AT_ONCE": 1, "BITS": ((16, 4),)}
    for name, value in few.items():
        monkeypatch.setattr(module, name, value)
    out, options = tmp_path / "out.json", ["--work", str(tmp_path / "work.jsonl"), "--out", str(tmp_path / "out.json")]
    module.main(options)
    result = json.loads(out.read_text(encoding="utf-8"))
    world = result["worlds"]["nano"]
    assert len(world["right"]) == sum(len(module.conditions(share)) for share in module.SHARES) == 7 + 2 * 11
    assert [world["ranges"][f"{share:g}"]["tokens"]["video"] for share in module.SHARES] == [96, 24, 12]
    assert module.Tables(result).accuracy("nano") in capsys.readouterr().out


def test_the_tables_of_memory_match_their_results() -> None:
    module = load_benchmark("memory_tables")
    pages = [path.read_text(encoding="utf-8") for path in module.PAGES if path.exists()]
    assert [page.count("<!-- table ") > 0 for page in pages] == [True] * len(pages)
    for page in pages:
        assert module.filled(page) == page, "run benchmarks/figures/memory_tables.py"


def test_the_tables_of_small_machines_match_their_results() -> None:
    module = load_benchmark("small_machine_tables")
    page = module.PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- table quantized_") == 6
    assert page.count("<!-- table small_machine_") == 2
    assert module.filled(page) == page, "run benchmarks/figures/small_machine_tables.py"


def test_the_interaction_of_quantisation_and_compression() -> None:
    """Two questions about two clips: two bits lose one with all tokens, and both of the first clip at 25 %."""
    module = load_benchmark("quantized")
    right = {module.key_of(way, share): np.ones((2, 2), bool) for way in module.WAYS for share in module.SHARES}
    right[module.key_of("fp32", 0.25)][1, 1] = False
    right[module.key_of("int2", 1.0)][1, 1] = False
    right[module.key_of("int2", 0.25)][0] = False
    rows = {(row["way"], row["share"]): row for row in module.results(right)}
    row = rows["int2", 0.25]
    values = [row[name][0] for name in ("accuracy", "difference", "quantised", "compressed", "interaction")]
    assert values == [0.5, -0.5, -0.25, -0.25, 0.0]
    assert row["interaction"] == [0.0, -1.0, 1.0]  # -1 on the first clip, 1 on the second
    assert row["types"] == [0.5, 0.5]
    assert rows["fp32", 0.25]["interaction"] == [0, 0, 0]
    assert module.weight_bytes(torch.nn.Linear(3, 2)) == 4 * (3 * 2 + 2)


def test_memory_is_shown_by_what_each_step_adds() -> None:
    module = load_benchmark("small_machine")
    sizes = {"interpreter": (10, 4), "PyTorch": (210, 104), "OmniSIFT": (240, 110), "second question": (240, 109)}
    result = {"sizes": {name: {"resident": r, "anonymous": a} for name, (r, a) in sizes.items()}}
    lines = {tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in
             module.memory_table({"one build": result}).splitlines()}  # fmt: skip
    assert {("PyTorch", "200", "100"), ("Triton", "-", "-"), ("OmniSIFT", "30", "6"), ("all", "240", "109")} <= lines
    assert ("second question", "0", "-1") in lines


def test_the_default_of_nano() -> None:
    assert load_benchmark("default_method").right_answers(1, 0.25) == {"omnisift": 3, "resift": 3}


def test_partial_encoding_is_paired_with_everything_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load_benchmark("partial_encoding")
    monkeypatch.setattr(module, "METHODS", ("resift",))
    monkeypatch.setattr(module, "BUDGETS", (0.1,))
    module.main(["--clips", "2", "--out", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert module.table(result["rows"]) in capsys.readouterr().out
    rows = {(row["world"], row["retain"], row["encoding"]): row for row in result["rows"]}
    assert len(rows) == len(module.WORLDS) * len(module.ENCODINGS)
    shares = [rows["nano", 0.1, name]["encoded"] for name in list(module.ENCODINGS)[:3]]
    assert shares == [1, 0.5, 0.4375]  # of 16 tokens: 16, 8 and 7
    assert all(row["accuracy"][0] > 0.5 for row in rows.values())
    assert {row["questions"] for row in rows.values()} == {2 * 8, 2 * 11}

    # Outcomes that are known: 7 and 4 of 8 answers are right, and all that are lost are on the second clip.
    world = module.World("nano")
    world.asked = [4, 4]
    for key in world.right:
        world.right[key], world.encoded[key] = ([4, 3] if key[2] == module.ALL else [4, 0]), [1.0, 0.5]
    first, second = world.rows()[:2]
    assert (first["accuracy"][0], second["accuracy"][0], second["encoded"]) == (0.875, 0.5, 0.75)
    assert (first["difference"], second["difference"]) == ([0, 0, 0], [-0.375, -0.75, 0])


def test_the_table_of_partial_encoding_matches_its_result() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "partial_encoding.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    assert load_benchmark("partial_encoding").table(result["rows"]) in page, "copy it from partial_encoding.py"
    assert result["commit"][:7] in page
