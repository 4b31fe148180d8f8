"""Every form of a training row is honoured or refused with file and line, and docs/training-data.md says which."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.row_forms import BEGIN, CASES, END, PAGE, described, read, table
from transformers import AutoProcessor
from typer.testing import CliRunner

from omnisift.cli.app import app
from omnisift.errors import UsageError
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.data import (
    Collator,
    Sample,
    Turn,
    encode_sample,
    load_samples,
    read_rows,
    save_folder,
    save_samples,
)
from omnisift.training.data.rows import FORMS
from omnisift.training.finetune import fine_tune, load_train_recipe
from omnisift.utils.assets import nano_path
from omnisift.utils.special_tokens import SpecialTokens

USER, ANSWER = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "blue"}


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(nano_path())


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_page_has_the_table(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert text.strip() == table(tmp_path).strip(), "run: python -m tests.helpers.row_forms"


@pytest.mark.parametrize("name", CASES)
def test_a_row_of_each_form_ends_no_run_and_is_collated(name: str, processor: Any, clip: Path, tmp_path: Path) -> None:
    """What `read_rows` takes becomes a batch with labels; nothing is left for the middle of a run."""
    odd = json.dumps(CASES[name]).replace("a.mp4", str(clip)).replace("a.wav", str(clip))
    path = written(tmp_path / "data.jsonl", [{"messages": [USER, ANSWER]}, odd + "\n"])
    rows = read_rows([path], SpecialTokens.of(processor.tokenizer))
    assert len(rows.samples) + len(rows.refused) == 2
    assert all(place == "data.jsonl:2" for place in rows.refused)
    assert all("\n" not in why for why in rows.refused.values())
    assert bool(rows.refused) is isinstance(read(CASES[name], tmp_path), str)
    collator = Collator(processor)
    batch = collator(rows.samples)
    assert not collator.skipped
    assert bool((batch["labels"] != IGNORE_INDEX).any(dim=1).all())


def test_the_clip_stands_where_its_tag_stands(processor: Any, clip: Path) -> None:
    collator = Collator(processor)
    turns = (Turn("user", "what see"), Turn("assistant", "red"), Turn("user", "what hear"), Turn("assistant", "beep"))
    for place in (None, (0, 4), (0, 8), (2, 0), (2, 4), (2, 9)):
        sample = Sample("x", clip, turns, place)
        row = encode_sample(processor, sample, collator.read(clip))
        words = processor.tokenizer.convert_ids_to_tokens(row["input_ids"][0].tolist())
        kept = [word for word in words if not word.startswith("<|") or word == "<|vision_bos|>"]
        number, character = place or (0, 0)
        texts = [f"{turn.role} {turn.text}" for turn in turns]
        cut = len(turns[number].role) + 1 + character
        texts[number] = f"{texts[number][:cut]} <|vision_bos|> {texts[number][cut:]}"
        assert kept == " ".join(texts).split()
        learned = row["input_ids"][0][row["labels"][0] != IGNORE_INDEX].tolist()
        expected = ["red", "<|im_end|>", "beep", "<|im_end|>"]
        assert processor.tokenizer.convert_ids_to_tokens(learned) == expected


def test_an_answer_that_is_not_learned_has_no_labels(processor: Any) -> None:
    turns = (Turn("user", "what"), Turn("assistant", "red", learned=False), Turn("user", "why"), Turn("assistant", "4"))
    row = encode_sample(processor, Sample("x", None, turns), None, system="be still")
    learned = row["input_ids"][0][row["labels"][0] != IGNORE_INDEX].tolist()
    assert processor.tokenizer.convert_ids_to_tokens(learned) == ["4", "<|im_end|>"]


@pytest.mark.parametrize("form", FORMS)
def test_places_and_flags_survive_a_conversion(form: str, tmp_path: Path) -> None:
    turns = (Turn("user", "a\nb"), Turn("assistant", "c", learned=False), Turn("user", "d e"), Turn("assistant", "f"))
    places = (None, (0, 1), (0, 3), (2, 0), (2, 1), (2, 3))
    samples = [Sample(str(place), tmp_path / "a.mp4", turns, place) for place in places]
    save_samples(samples, tmp_path / "data.jsonl", form)
    assert load_samples(tmp_path / "data.jsonl") == samples


def test_blanks_around_a_tag_cost_no_time(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": " " * 400_000 + "x"}, ANSWER]}
    assert len(load_samples(written(tmp_path / "data.jsonl", [row]))) == 1


ODD = [
    '{"messages": [{"role"\n',
    "3\n",
    {"messages": [USER]},
    {"messages": [ANSWER, USER, ANSWER]},
    {"messages": [{"role": "user", "content": "<|im_end|><|im_start|>system"}, ANSWER]},
    {"messages": [USER, {"role": "assistant", "content": ""}]},
    {"messages": [USER, ANSWER], "sourse": 1, "split": "train"},
    {"messages": [USER, ANSWER], "sourse": 2},
]


def test_train_and_data_check_leave_the_same_rows_out(tmp_path: Path, caplog: Any) -> None:
    """One odd row never ends a run; both name what they leave out, and keys that are not understood."""
    path = written(tmp_path / "data.jsonl", ODD)
    clean = tmp_path / "clean.jsonl"
    checked = CliRunner().invoke(app, ["data-check", str(path), "--clean", str(clean), "--json"])
    assert checked.exit_code == 0, checked.output
    found = json.loads(checked.stdout.splitlines()[-1])
    assert list(found["refused"]) == [f"data.jsonl:{number}" for number in range(1, 7)]
    assert found["unknown_keys"] == {"sourse": 2, "split": 1}
    assert (found["samples"], found["usable"], len(load_samples(clean))) == (2, 2, 2)
    shown = CliRunner().invoke(app, ["data-check", str(path)]).output
    assert "left out: 6 rows in all" in shown
    assert "keys that are not understood: 'sourse' (2 rows), 'split' (1 rows)" in shown
    values = {"model": "nano", "data": [str(path)], "output_dir": str(tmp_path / "run"), "retain": 0.25}
    values |= {"max_steps": 1, "selector": None, "compressor": "uniform", "language": "lora"}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    report = fine_tune(load_train_recipe(tmp_path / "recipe.yaml"))
    assert (report.finished, report.skipped) == (True, found["refused"])
    assert "keys that are not understood: 'sourse'" in caplog.text


def test_a_run_ends_if_no_row_is_left(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", ODD[:4])
    with pytest.raises(UsageError, match=r"data\.jsonl:1: not JSON .*none of the 4 rows can be used"):
        load_samples(path)
    good = written(tmp_path / "good.jsonl", ODD[-1:])
    assert len(read_rows([path, good]).samples) == 1


def test_a_line_of_other_bytes_ends_no_run(tmp_path: Path) -> None:
    line = json.dumps({"messages": [USER, ANSWER]}).encode()
    path = tmp_path / "data.jsonl"
    path.write_bytes(b"\n".join([line, line.replace(b"blue", b"caf\xe9"), b"", line]))
    rows = read_rows([path])
    assert (len(rows.samples), rows.refused) == (2, {"data.jsonl:2": "not UTF-8 text; correct or delete the line"})


def test_a_clip_alone_is_distilled_with_the_general_questions(clip: Path, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "<video>"}, ANSWER], "videos": [str(path)]} for path in
            (clip, Path(shutil.copy(clip, tmp_path / "b.mp4")))]  # fmt: skip
    path = written(tmp_path / "data.jsonl", rows)
    values = {"model": "nano", "data": [str(path)], "output_dir": str(tmp_path / "run"), "retain": 0.25}
    (tmp_path / "recipe.yaml").write_text(json.dumps(values | {"max_steps": 1, "distill_steps": 1}), encoding="utf-8")
    assert fine_tune(load_train_recipe(tmp_path / "recipe.yaml")).finished


def test_convert_names_what_it_leaves_out(tmp_path: Path) -> None:
    path = written(tmp_path / "data.jsonl", ODD)
    result = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out.jsonl")])
    assert result.exit_code == 0
    assert "4 samples as messages" in result.output
    assert "left out: data.jsonl:1: not JSON" in result.output


def test_the_system_of_a_recipe_is_checked(processor: Any) -> None:
    with pytest.raises(UsageError, match=r"the recipe's system contains <\|im_start\|>"):
        Collator(processor, system="<|im_start|>user")


def test_labels_before_a_clip_learn_like_those_after_it(processor: Any, clip: Path) -> None:
    """The columns of an answer don't depend on the side from which they are counted."""
    media = Collator(processor).read(clip)
    turns = (Turn("user", "hear"), Turn("assistant", "a red circle"), Turn("user", "see"), Turn("assistant", "beep"))
    late = encode_sample(processor, Sample("x", clip, turns, (2, 0)), media)
    alone = encode_sample(processor, Sample("x", None, turns[:2]), None)
    length = alone["labels"].shape[1]
    assert torch.equal(late["labels"][:, :length], alone["labels"])
    assert described(Sample("x", clip, turns, (2, 0))).count("▶") == 1


def test_lines_of_a_folder_are_checked_like_other_rows(tmp_path: Path) -> None:
    pair = {"question": "What is <video> here?", "answer": "A"}
    rows = [
        {"file_name": "a.mp4", "qa": [pair]},
        {"file_name": "a.mp4", "qa": [{**pair, "answer": "<video>"}]},
        {"file_name": "a.mp4", "caption": "A", "chosen": "B"},
        {"file_name": "a.mp4", "question": "Q", "answer": "A", "qa": [pair]},
    ]
    written(tmp_path / "metadata.jsonl", rows)
    read_from = read_rows([tmp_path])
    assert [described(sample) for sample in read_from.samples] == [
        "user: What is▶ here? / assistant: A",
        "user: ▶Q / assistant: A",
        "user: What is▶ here? / assistant: A",
    ]
    assert list(read_from.refused) == ["metadata.jsonl:2", "metadata.jsonl:3"]


def test_the_model_gets_no_images_of_a_clip_named_as_audio(processor: Any, clip: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "<audio>what"}, ANSWER], "audios": [str(clip)]}
    samples = load_samples(written(tmp_path / "data.jsonl", [row]))
    for form in FORMS:
        save_samples(samples, tmp_path / f"{form}.jsonl", form)
        assert load_samples(tmp_path / f"{form}.jsonl") == samples
    batch = Collator(processor)(samples)
    assert "pixel_values_videos" not in batch
    assert "input_features" in batch
    with pytest.raises(UsageError, match="named as audio"):
        save_folder(samples, clip.parent)


def test_a_folder_takes_no_system_turn(tmp_path: Path) -> None:
    """It has no place for one, and the turn would be lost."""
    turns = (Turn("system", "be still"), Turn("user", "what"), Turn("assistant", "red"))
    with pytest.raises(UsageError, match="without a system turn"):
        save_folder([Sample("x", tmp_path / "a.mp4", turns)], tmp_path)


@pytest.mark.parametrize("begin", ["", "[\n", "["])
def test_a_key_given_twice_refuses_its_row(begin: str, tmp_path: Path) -> None:
    """Readers differ in which of the two values they take."""
    good = json.dumps({"messages": [USER, ANSWER]})
    rows = [good, good.replace('"content"', '"content": "Why?", "content"', 1), good]
    path = tmp_path / "data.jsonl"
    path.write_text(begin + (",\n" if begin else "\n").join(rows) + ("]" if begin else ""), encoding="utf-8")
    found = read_rows([path])
    assert len(found.samples) == 2
    assert list(found.refused.values()) == ["the key 'content' is given twice; keep one of them"]


def test_an_odd_row_does_not_decide_how_its_file_is_read(tmp_path: Path) -> None:
    """A list in the first line is a row; bytes that are not UTF-8 in a list refuse their row alone."""
    good = json.dumps({"messages": [USER, ANSWER]})
    (tmp_path / "lines.jsonl").write_text(f"[1]\n{good}\n", encoding="utf-8")
    found = read_rows([tmp_path / "lines.jsonl"])
    assert (len(found.samples), list(found.refused)) == (1, ["lines.jsonl:1"])
    (tmp_path / "list.json").write_bytes(f"[{good}, ".encode() + good.encode().replace(b"blue", b"caf\xe9") + b"]")
    found = read_rows([tmp_path / "list.json"])
    assert (len(found.samples), list(found.refused)) == (1, ["list.json[1]"])


def test_rows_of_files_with_one_name_and_ids_given_twice_are_told_apart(processor: Any, tmp_path: Path) -> None:
    row = {"id": 7, "messages": [USER, ANSWER], "videos": ["gone.mp4"]}
    paths = [tmp_path / "a" / "data.jsonl", tmp_path / "b" / "data.jsonl"]
    for path in paths:
        path.parent.mkdir()
        written(path, ["3\n", row, row])
    found = read_rows(paths)
    assert list(found.refused) == [f"{path}:1" for path in paths]
    collator = Collator(processor)
    collator(found.samples)
    assert list(collator.skipped) == ["7", f"7 ({paths[0]}:3)", f"7 ({paths[1]}:2)", f"7 ({paths[1]}:3)"]


@pytest.mark.parametrize("command", [["data-check", "world", "--clean"], ["convert", "world"]])
def test_a_file_in_another_folder_names_the_same_clips(
    command: list[str], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("world", "other"):
        (tmp_path / folder).mkdir()
    shutil.copy(clip, tmp_path / "world" / "a.mp4")
    written(tmp_path / "world" / "metadata.jsonl", [{"file_name": "a.mp4", "caption": "a clip"}])
    result = CliRunner().invoke(app, [*command, "other/data.jsonl"])
    assert result.exit_code == 0, result.output
    (sample,) = load_samples(Path("other/data.jsonl"))
    assert sample.media is not None
    assert sample.media.is_file()
