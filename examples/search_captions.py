"""Search clips by what is seen and heard in them: caption a folder, index the captions in files, answer a query.

    python examples/search_captions.py                           # generated clips, and a query about them
    python examples/search_captions.py CLIPS "a dog barks" --model Qwen/Qwen2.5-Omni-7B --device cuda --selector FOLDER
    python examples/search_captions.py CLIPS "a dog barks" --embed BAAI/bge-small-en-v1.5

Captions are written to CLIPS.jsonl once; an interrupted run resumes. Queries are matched by words with BM25 (from a
checkout: pip install -e '.[search]'), or with --embed by the vectors of a sentence-embedding model.
"""

import argparse
import json
import tempfile
from pathlib import Path

import bm25s
import numpy as np

from omnisift.batch import Caption, ModelSettings, ResultsFile, items_of, run
from omnisift.utils.atomic_io import atomic_folder
from omnisift.world import make_scene, write_clip


def captions(clips: Path, model: ModelSettings) -> dict[str, str]:
    """Return clip -> caption. Clips that can't be read have none."""
    out = clips.with_name(clips.name + ".jsonl")
    with ResultsFile(out, {"task": "caption", **model.to_dict()}) as results:
        items = items_of(clips)
        if results.missing(items):
            run(items, Caption(), model.load(), results, on_row=lambda row: print(row["clip"], row.get("answer", "?")))
    rows = map(json.loads, out.read_text(encoding="utf-8").splitlines())
    return {row["clip"]: row["answer"] for row in rows if "answer" in row}


class WordIndex:
    """BM25 over the words of the captions."""

    def build(self, folder: Path, texts: list[str]) -> None:
        index = bm25s.BM25()
        index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
        index.save(folder, show_progress=False)

    def scores(self, folder: Path, query: str) -> np.ndarray:
        words = bm25s.tokenize(query, return_ids=False, show_progress=False)[0]
        return bm25s.BM25.load(folder).get_scores(words)


class MeaningIndex:
    """Vectors of the captions: the mean over the tokens of a text, as most sentence-embedding models expect."""

    def __init__(self, model: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModel.from_pretrained(model, use_safetensors=True).eval()

    def embed(self, texts: list[str]) -> np.ndarray:
        import torch

        batch = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            states = self.model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(means, dim=-1).numpy()

    def build(self, folder: Path, texts: list[str]) -> None:
        batches = [self.embed(texts[i : i + 64]) for i in range(0, len(texts), 64)]
        np.save(folder / "vectors.npy", np.concatenate(batches), allow_pickle=False)

    def scores(self, folder: Path, query: str) -> np.ndarray:
        return np.load(folder / "vectors.npy", mmap_mode="r") @ self.embed([query])[0]


def search(clips: Path, query: str, model: ModelSettings, embed: str | None, top: int) -> list[tuple[str, str, float]]:
    """Return (clip, caption, score), best first. The index is rebuilt when the captions have changed."""
    caption_of = captions(clips, model)
    index = WordIndex() if embed is None else MeaningIndex(embed)
    folder, made_of = clips.with_name(clips.name + ".index"), json.dumps([embed, caption_of])
    note = folder / "made-of.json"
    if not note.is_file() or note.read_text(encoding="utf-8") != made_of:
        with atomic_folder(folder) as new:
            index.build(new, list(caption_of.values()))
            (new / note.name).write_text(made_of, encoding="utf-8")
    scores = index.scores(folder, query)
    best = np.argsort(-scores, kind="stable")[:top]
    names = list(caption_of)
    return [(names[i], caption_of[names[i]], float(scores[i])) for i in best]


def main() -> None:
    parser = argparse.ArgumentParser(description="Search a folder of clips by their captions.")
    parser.add_argument("clips", type=Path, nargs="?")
    parser.add_argument("query", nargs="?", default="green cross with whistle")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--selector")
    parser.add_argument("--embed", help="a sentence-embedding model: folder or hub id")
    parser.add_argument("--top", type=int, default=3)
    options = parser.parse_args()
    model = ModelSettings(model=options.model, device=options.device, selector=options.selector)
    with tempfile.TemporaryDirectory() as folder:
        clips = options.clips or Path(folder, "clips")
        if options.clips is None:
            clips.mkdir()
            for seed in range(8):
                write_clip(make_scene(seed, split="test"), clips / f"{seed}.mp4")
        print(f"query: {options.query}")
        for name, caption, score in search(clips, options.query, model, options.embed, options.top):
            print(f"{score:6.2f}  {name}  {caption}")


if __name__ == "__main__":
    main()
