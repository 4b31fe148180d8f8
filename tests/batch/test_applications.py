"""The examples based on batch runs, end to end with nano: search by caption, moderation by rules."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from omnisift.batch import ModelSettings
from omnisift.world import make_scene, write_clip

EXAMPLES = Path(__file__).parents[2] / "examples"
NANO = ModelSettings()


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("applications") / "clips"
    folder.mkdir()
    for seed in range(6):
        write_clip(make_scene(seed, split="test"), folder / f"{seed}.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.mark.parametrize(
    ("query", "first"), [("green cross with whistle", "0.mp4"), ("a magenta triangle that hums: hum", "2.mp4")]
)
def test_words_find_the_clip(clips: Path, query: str, first: str) -> None:
    result = example("search_captions").search(clips, query, NANO, None, top=3)
    assert result[0][0] == first
    assert len(result) == 3
    assert result[0][2] > result[1][2] >= result[2][2]


def test_the_index_is_reused_and_rebuilt_after_new_captions(clips: Path, monkeypatch) -> None:
    module = example("search_captions")
    made = []
    build = module.WordIndex.build
    monkeypatch.setattr(module.WordIndex, "build", lambda *arguments: made.append(1) or build(*arguments))
    folder = clips.with_name("clips.index")
    for query in ("blue", "red"):
        module.search(clips, query, NANO, None, top=1)
    assert len(made) <= 1
    assert not any(path.suffix in (".pkl", ".pickle") for path in folder.rglob("*"))
    write_clip(make_scene(9, split="test"), clips / "9.mp4")
    before = len(made)
    module.search(clips, "red", NANO, None, top=1)
    assert len(made) == before + 1


def tiny_bert(folder: Path) -> str:
    """An embedding model with random weights and the vocabulary of nano's world."""
    from transformers import BertConfig, BertModel, BertTokenizer

    from omnisift.world import vocabulary

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({word.lower() for word in vocabulary()})]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **size)).save_pretrained(folder)
    return str(folder)


def test_an_embedding_model_finds_the_caption_itself(clips: Path, tmp_path: Path) -> None:
    module = example("search_captions")
    model = tiny_bert(tmp_path / "bert")
    captions = module.captions(clips, NANO)
    for name, caption in list(captions.items())[:3]:
        result = module.search(clips, caption, NANO, model, top=2)
        assert result[0][0] == name
        assert result[0][2] == pytest.approx(1, abs=1e-5)  # the same vector alone and in a batch with longer texts
    index = module.MeaningIndex(model)
    assert np.linalg.norm(index.embed(["red", "blue circle with hum"]), axis=1) == pytest.approx(1, abs=1e-5)
    assert (clips.with_name("clips.index") / "vectors.npy").is_file()


def test_a_clip_that_can_not_be_read_is_not_clean(clips: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.txt"
    rules.write_text("buzz: Is a buzz heard?\nriddle: Where is the circle?\n")
    module = example("moderate")
    rows = {row["clip"]: row for row in module.moderate(clips, rules, NANO)}
    for seed in range(6):
        row = rows[f"{seed}.mp4"]
        truth = any(sound.name == "buzz" for sound in make_scene(seed, split="test").sounds)
        assert ("buzz" in row["hits"]) == truth, seed
        assert row["unclear"] == ["riddle"]
        assert set(row["answers"]) == {"buzz", "riddle"}
    assert module.verdict(rows["broken.mp4"]) == "LOOK  could not be read (NotMedia)"
    assert module.verdict(rows["0.mp4"]) == "HIT   buzz"
    assert module.verdict(rows["5.mp4"]) == "LOOK  no clear answer: riddle"
    assert module.verdict({"hits": [], "unclear": [], "answers": {}}) == "clean"
