"""Files that commit 6229157 wrote are read with the same result, their old keys and labels included."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
import transformers
import yaml
from packaging.version import Version
from tests.record import saved
from tests.record.saved import FILES

from omnisift import __version__

EXPECTED = saved.json_of("expected.json")
QUESTION = "What colour is the cross?"
MEASURED = {"seconds", "peak_memory_bytes", "memory_bytes", "joules", "environment", "total", "notices", "notes"}
"""Keys of printed objects whose values depend on the machine or are texts."""
LABELS = {"compressor", "label", "retain", "name", "about", "idea", "source_text", "question", "out", "path"}
"""Keys whose values are labels, which may be written in other words."""


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of the recorded ledgers and of the recorded training: three good, one that is none, one missing."""
    folder = tmp_path_factory.mktemp("saved") / "world"
    saved.write_dataset(folder, 3, 0, 4, lambda: None)
    clips = folder.with_name("clips")
    shutil.copytree(folder, clips)
    (clips / "bad.mp4").write_bytes(b"not a film")
    (clips / "gone.mp4").symlink_to("nowhere")
    return folder


def test_the_files_are_small() -> None:
    sizes = [path.stat().st_size for path in FILES.rglob("*") if path.is_file()]
    assert max(sizes) < 200_000
    assert sum(sizes) < 1_000_000


@pytest.mark.parametrize("name", EXPECTED["selectors"])
def test_selectors(name: str, tmp_path: Path) -> None:
    result, expected = saved.selector_values(saved.selector(name, tmp_path)), EXPECTED["selectors"][name]
    assert result["layout"] == expected["layout"]
    assert bool(result["label"]) == bool(expected["label"])
    for part in ("audio", "video"):
        if part in expected:
            torch.testing.assert_close(torch.tensor(result[part]), torch.tensor(expected[part]), atol=1e-4, rtol=0)


def test_an_exported_checkpoint_answers_with_its_own_selector() -> None:
    result, expected = saved.checkpoint_values(FILES / "checkpoint"), EXPECTED["checkpoint"]
    assert result["kept"] == expected["kept"]
    assert result["tokens"] == expected["tokens"]
    assert result["logits"] == pytest.approx(expected["logits"], abs=2e-3)


def test_a_training_recipe_with_every_key() -> None:
    path = FILES / "train" / "every-key.yaml"
    keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    with pytest.warns(FutureWarning, match="next release"):
        recipe = saved.load_train_recipe(path)
    assert saved.recipe_departures(recipe, keys) == []


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.23"), reason="the host's own files are of 5.23")
def test_an_interrupted_training_goes_on(clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notes of the run are of old keys; the checkpoint is sealed, loaded, and followed by a third step."""
    shutil.copytree(FILES / "train", tmp_path, dirs_exist_ok=True)
    shutil.copytree(FILES / "checkpoint", tmp_path / "checkpoint")
    shutil.copytree(FILES / "selectors" / "exported", tmp_path / "selectors" / "exported")
    shutil.copytree(clip_folder, tmp_path / "world")
    monkeypatch.chdir(tmp_path)
    sealed = Path("run/checkpoint-2")
    assert saved.is_complete(sealed)
    assert saved.newest_checkpoint(Path("run")) == sealed
    with pytest.warns(FutureWarning, match="next release"):
        recipe = saved.load_train_recipe(Path("recipe.yaml"))
    before = Path("run/log.jsonl").read_text(encoding="utf-8")
    report = saved.fine_tune(replace(recipe, max_steps=3)).to_dict()
    assert Path("run/log.jsonl").read_text(encoding="utf-8").startswith(before)
    old = saved.json_of("train-report.json")
    assert (report["steps"], report["finished"], report["samples"]) == (3, True, old["samples"])
    assert report["first_loss"] == old["first_loss"]
    assert report["last_loss"] == pytest.approx(5.0, abs=1.5)
    assert set(old) <= set(report)
    (sealed / "scheduler.pt").write_bytes(b"torn")
    assert not saved.is_complete(sealed)


def test_a_training_data_file() -> None:
    samples = saved.load_samples(FILES / "metadata.jsonl")
    assert len(samples) == saved.json_of("train-report.json")["samples"]


@pytest.mark.parametrize("task", ["caption", "qa", "moderate"])
def test_ledgers_go_on(task: str, clip_folder: Path, tmp_path: Path) -> None:
    """The same command finds every row done: settings, ids and questions of the old files are its own.

    Then the default method was ``omnisift``. It must be named now; the default of today is another one and is refused.
    """
    expected, out = saved.json_of("run-summary.json")[task], tmp_path / f"{task}.jsonl"
    root = clip_folder.with_name("clips")
    for name in (out.name, f"{out.name}.run"):
        text = (FILES / "ledger" / name).read_text(encoding="utf-8").replace("ROOT", str(root.resolve()))
        (tmp_path / name).write_text(text.replace('"omnisift": "0.1.0"', f'"omnisift": "{__version__}"'), "utf-8")
    before = out.read_bytes()
    more = {"caption": ["--limit", 4], "qa": ["--question", "What colour is the circle?"]}
    arguments = more.get(task, ["--rules", FILES / "ledger" / "rules.txt"])
    same = ("run", root, "--task", task, *arguments, "--out", out, "--retain", 0.25, "--json")
    output = saved.command(*same, "--compressor", "omnisift", folder=tmp_path)
    method = {"compressor": "omnisift", "compressor_reason": ""}
    assert json.loads(output) == expected | {"out": str(out), "left_out": 0} | method
    with pytest.raises(AssertionError):
        saved.command(*same, folder=tmp_path)
    assert out.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "suspects", "deaths"), [("together", {"001.mp4", "002.mp4"}, 0), ("alone", {"001.mp4"}, 2)]
)
def test_a_ledger_of_a_killed_process(name: str, suspects: set[str], deaths: int, tmp_path: Path) -> None:
    for suffix in ("", ".run"):
        shutil.copy(FILES / "ledger" / f"died-{name}.jsonl{suffix}", tmp_path)
    items = [saved.Item(f"00{n}.mp4", f"00{n}.mp4", Path(f"/00{n}.mp4"), "What?") for n in range(4)]
    with saved.ResultsFile(tmp_path / f"died-{name}.jsonl", {"task": "qa", "model": "fake"}) as ledger:
        assert [item.id for item in ledger.missing(items)] == ["001.mp4", "002.mp4", "003.mp4"]
        assert {item.id for item in items if ledger.lock.is_suspect(item.id)} == suspects
        assert ledger.lock.crashes("001.mp4") == deaths < saved.MAX_CRASHES
        assert ledger.summary.errors == {"NotMedia": 1}
        assert ledger.summary.seconds == 0.25


def test_a_benchmark_recipe_with_every_key() -> None:
    recipe = saved.load_recipe(FILES / "quality-recipe.yaml")
    assert (recipe.name, recipe.protocol, recipe.settings, recipe.clips) == (
        "training-free", "training-free", ("base", "silent"), 2)  # fmt: skip
    assert (recipe.retain, recipe.seeds, dict(recipe.train)) == (((0.25, 0.25), (0.25, 1.0)), (0, 1), {"steps": 150})
    assert len(list(recipe.rows())) == 2 * (1 + 2 * (1 + 2 + 1 + 1))


def test_results_of_the_controlled_benchmark() -> None:
    result = saved.read_result(FILES / "quality-results.jsonl")
    found = saved.result_values(result)
    assert list(found.values()) == list(EXPECTED["quality"].values())
    assert result.sessions[0]["minutes"] == 1.0
    assert result.clips == {"base": 2, "silent": 2}


def test_an_encoded_clip_and_a_lesson() -> None:
    clip = saved.Encoded.load(FILES / "encoded.safetensors")
    stream = clip.stream()
    assert (len(clip), tuple(clip.embeds.shape[2:]), clip.seconds_per_position) == (1, (128,), 0.04)
    assert [int((stream.modality == kind).sum()) for kind in (1, 2)] == [96, 150]
    assert sorted(stream.extras) == ["audio_attention", "audio_attention_window", "video_attention"]
    lesson = saved.DistillSample.load(FILES / "lesson.safetensors")
    assert lesson is not None
    assert lesson.embeds.shape[1] == 32
    assert lesson.seconds_per_position == 0.04


def test_a_journal_goes_on(tmp_path: Path) -> None:
    path = Path(shutil.copy(FILES / "nano-journal.jsonl", tmp_path))
    journal = saved.Journal(path, {"split": "test", "retain": [0.25], "captions": 0})
    assert list(journal.records) == [3]
    assert journal.records[3]["kept"]["omnisift@25"]["video"] == 24


@pytest.mark.parametrize(("name", "count"), [("choice", 4), ("captions", 2)])
def test_public_benchmarks(name: str, count: int) -> None:
    rows = saved.read_rows(FILES / f"public-{name}-rows.jsonl")
    assert [row.id for row in rows] == [str(number) for number in range(count)]
    assert {row.answer for row in rows} == {"B" if name == "choice" else "-"}
    outcome = saved.read_run(FILES / "public" / name)
    assert json.loads(json.dumps(saved.outcome_values(outcome))) == EXPECTED["public"][name]
    assert outcome.settings["reading"]["max_frames"] == 256


def test_a_trace_is_of_todays_schema() -> None:
    trace = saved.json_of("trace.json")
    schema = json.loads((files("omnisift.inspector") / "schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(trace, schema)
    assert [len(trace["methods"]), len(trace["tokens"]["modality"])] == [4, 246]
    assert [sum(one["selection"]["kept"]) for one in trace["methods"][1:]] == [63, 63, 63]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("printed")
    saved.command("make-clip", "clip.mp4", "--seed", 7, folder=folder)
    return folder


OMNISIFT = ("--compressor", "omnisift")
"""Then the default."""
PRINTED = {
    "ask.json": ("ask", "clip.mp4", QUESTION, "--json", "--retain", 0.25, *OMNISIFT),
    "trace.json": ("inspect", "clip.mp4", "--question", QUESTION, "--compare", "v_cast", "--compare", "stvp+random",
                   "--json", "--max-new-tokens", 4, *OMNISIFT),
    "profile-counted.json": ("profile", "--config", "7b", "--clip-seconds", 60, "--retain", 0.25, "--json"),
    "profile-measured.json": ("profile", "clip.mp4", "--repeats", 1, "--max-new-tokens", 4, "--json", *OMNISIFT),
    "methods.json": ("methods", "--json"),
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_printed_objects_keep_their_keys_and_numbers(name: str, folder: Path) -> None:
    """Scripts read what ``--json`` prints: every recorded key is there, and what is no time and no label is equal."""
    today = json.loads(saved.command(*PRINTED[name], folder=folder))
    assert departures(saved.json_of(name), today) == []


def departures(old: Any, new: Any, where: str = "$") -> list[str]:
    """Where ``new`` lacks a key of ``old`` or says something else; keys that came later are fine."""
    if isinstance(old, dict) and isinstance(new, dict):
        result = [f"{where}.{key} is gone" for key in old if key not in new]
        kept = [key for key in old if key in new and key not in MEASURED and key not in LABELS]
        return result + [line for key in kept for line in departures(old[key], new[key], f"{where}.{key}")]
    if isinstance(old, list) and isinstance(new, list):
        if len(old) > len(new):
            return [f"{where} has {len(new)} entries, recorded {len(old)}"]
        return [
            line for i, pair in enumerate(zip(old, new, strict=False)) for line in departures(*pair, f"{where}[{i}]")
        ]
    if isinstance(old, float) and isinstance(new, (int, float)):
        return [] if abs(old - new) <= 1e-3 * max(1.0, abs(old)) else [f"{where}: {new}, recorded {old}"]
    return [] if old == new else [f"{where}: {new!r}, recorded {old!r}"]


def test_departures_are_noticed() -> None:
    old = {"answer": "red", "tokens": {"video": 96, "share": 0.25}, "seconds": {"read": 1.0}, "rows": [1, 2]}
    new = {"answer": "blue", "tokens": {"share": 0.5}, "seconds": {"read": 2.0}, "rows": [1]}
    assert departures(old, old | {"more": 1}) == []
    assert len(departures(old, new)) == 4
