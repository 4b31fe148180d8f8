"""The rows of the record, the file that holds them, and how a row of today is compared with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.record import seams

FILE = Path(__file__).parent / "record.npz"
CLIPS = 200
TOP = 8
"""Highest logits that are recorded of each answer's first token."""
SCALE = 10_000
"""Logits are stored as whole multiples of 1 / SCALE."""
TOLERANCE = 0.001
"""Largest difference of a logit. Between instruction sets it is a tenth of this, where a row is not unstable."""

VARIANTS = (
    "omnisift:estimator=gumbel",
    "random:scope=clip",
    "uniform:mode=pool",
    "stvp:mode=spatial",
    "stvp:mode=temporal",
    "stvp:adaptive=true",
    "evs:mode=frame",
    "omnipack:attention=true",
    "omnizip:rebounded=true",
    "omnizip:contextual=0.1,members=5",
    "visionzip:contextual=0.2",
    "routed:scope=clip",
    "routed:swing=1",
)
"""Each option of each method that has options."""
PAIRS = ("stvp+random", "v_cast+divprune", "random+omnisift")
RETAIN = (0.25, 0.10)
TIED = (1, 2, 5, 40)
"""Numbers of different tokens in the clips on which scores tie."""
MORE_RETAIN = (("dycoke", 0.5),)
"""DyCoke keeps a third of the video at least, so the other budgets only record that it refuses."""


@dataclass(frozen=True)
class Row:
    """One method at one budget; no method stands for all tokens."""

    method: str | None
    retain: float = 1.0
    selector: str | None = None

    @property
    def key(self) -> str:
        """As the record calls it: ``omnisift[selector-exact]@0.25``."""
        if self.method is None:
            return "all tokens"
        return f"{self.method}{f'[{self.selector}]' if self.selector else ''}@{self.retain:g}"


def rows() -> Iterator[Row]:
    """All rows of the record."""
    yield Row(None)
    for retain in RETAIN:
        for method in (*seams.registered(), *VARIANTS, *PAIRS):
            yield Row(method, retain)
        for selector in (seams.EXACT, *seams.MADE_UP):
            yield Row("omnisift", retain, selector)
    for method, retain in MORE_RETAIN:
        yield Row(method, retain)


def observe(row: Row, number: int) -> seams.Observed | str:
    """The row on one clip. Methods that draw take the clip's number as their seed."""
    if row.method is None:
        return seams.observe(number, None)
    return seams.observe(number, seams.compressor(row.method, row.selector, row.retain, number))


def ties(row: Row) -> list[str]:
    """What the row keeps of each tied clip, as hexadecimal digits; or the name of the error."""
    result = [seams.observe_ties(kinds, seams.compressor(str(row.method), row.selector, row.retain, kinds))
             for kinds in TIED]  # fmt: skip
    return [one if isinstance(one, str) else np.packbits(one).tobytes().hex() for one in result]


def all_ties() -> dict[str, list[str]]:
    """`ties` of each row that has a method."""
    return {row.key: ties(row) for row in rows() if row.method is not None}


def digest(positions: np.ndarray) -> int:
    """32 bits of the positions and their number."""
    content = repr(positions.shape).encode() + np.ascontiguousarray(positions, dtype="<i8").tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:4], "little")


class Record:
    """What all rows were on all clips. Arrays are [rows, clips, ...]; ``about`` says how they were made."""

    def __init__(self, about: dict[str, Any], keys: Sequence[str], answers: Sequence[str], arrays: dict[str, Any]):
        self.about = about
        self.keys = list(keys)
        self.answers = list(answers)
        self.arrays = arrays

    @classmethod
    def of(cls, about: dict[str, Any], keys: Sequence[str], result: Sequence[Sequence[seams.Observed | str]]) -> Record:
        """From observations [rows][clips]."""
        shape = (len(keys), len(result[0]))
        some = next(o for row in result for o in row if not isinstance(o, str))
        width = int((some.modality > 0).sum())
        answers: dict[str, int] = {}
        arrays = {
            "error": np.zeros(shape, bool),
            "keep": np.zeros((*shape, -(-width // 8)), np.uint8),
            "counts": np.zeros((*shape, 2), np.uint16),
            "positions": np.zeros(shape, np.uint32),
            "top": np.zeros((*shape, TOP), np.uint16),
            "logits": np.zeros((*shape, TOP), np.int32),
            "answer": np.zeros(shape, np.uint16),
            "unstable": np.zeros(shape, bool),
        }
        for r, row in enumerate(result):
            for c, observed in enumerate(row):
                text = observed if isinstance(observed, str) else observed.text
                arrays["answer"][r, c] = answers.setdefault(text, len(answers))
                if isinstance(observed, str):
                    arrays["error"][r, c] = True
                    continue
                media = observed.modality > 0
                arrays["keep"][r, c] = np.packbits(observed.keep[media])
                arrays["counts"][r, c] = counts(observed)
                arrays["positions"][r, c] = digest(observed.positions)
                top = np.argsort(-observed.logits, kind="stable")[:TOP]
                arrays["top"][r, c] = top
                arrays["logits"][r, c] = np.rint(observed.logits[top].astype(np.float64) * SCALE)
        return cls(about, keys, list(answers), arrays)

    def save(self, path: Path) -> None:
        """One compressed file without pickled objects."""
        texts = json.dumps({"about": self.about, "keys": self.keys, "answers": self.answers})
        packed = {**self.arrays, **{n: np.packbits(self.arrays[n], axis=1) for n in ("error", "unstable")}}
        packed["logits"] = np.diff(packed["logits"], axis=2, prepend=0)
        np.savez_compressed(path, texts=np.frombuffer(texts.encode(), np.uint8), **packed)

    @classmethod
    def load(cls, path: Path = FILE) -> Record:
        """Read what `save` wrote."""
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        texts = json.loads(arrays.pop("texts").tobytes())
        arrays["logits"] = np.cumsum(arrays["logits"], axis=2)
        for name in ("error", "unstable"):
            arrays[name] = np.unpackbits(arrays[name], axis=1)[:, : arrays["answer"].shape[1]].astype(bool)
        return cls(texts["about"], texts["keys"], texts["answers"], arrays)

    def answer(self, row: int, clip: int) -> str:
        """The answer's text, or the name of the error."""
        return self.answers[self.arrays["answer"][row, clip]]

    def differing(self, other: Record) -> np.ndarray:
        """[rows, clips] bool: another mask, position, answer, most likely token or logits than in ``other``."""
        here, there = self.arrays, other.arrays
        texts = np.array(self.answers)[here["answer"]] != np.array(other.answers)[there["answer"]]
        masks = (here["keep"] != there["keep"]).any(axis=2)
        apart = self.logits_apart(other) > TOLERANCE / 2
        return texts | masks | apart | (here["positions"] != there["positions"]) | (here["top"] != there["top"])[..., 0]

    def logits_apart(self, other: Record) -> np.ndarray:
        """[rows, clips]: largest difference of the recorded logits, rank by rank."""
        return np.abs(self.arrays["logits"] - other.arrays["logits"]).max(axis=2) / SCALE

    def differences(self, key: str, clip: int, observed: seams.Observed | str) -> list[str]:
        """In words, each way in which an observation of today departs from the record; empty if it does not."""
        row, arrays = self.keys.index(key), self.arrays
        expected = self.answer(row, clip)
        if arrays["error"][row, clip] or isinstance(observed, str):
            got = observed if isinstance(observed, str) else "no error"
            return [] if arrays["error"][row, clip] and got == expected else [f"expected {expected!r}, got {got!r}"]
        result = []
        if counts(observed) != (count := tuple(arrays["counts"][row, clip].tolist())):
            result.append(f"kept (video, audio) {counts(observed)}, recorded {count}")
        if not observed.keep[observed.modality == 0].all():
            result.append("text was dropped")
        if arrays["unstable"][row, clip]:
            return result
        media = observed.keep[observed.modality > 0]
        keep = np.unpackbits(arrays["keep"][row, clip])[: len(media)].astype(bool)
        if (media != keep).any():
            result.append(f"{(media != keep).sum()} of {len(media)} tokens in another state than recorded")
        if digest(observed.positions) != arrays["positions"][row, clip]:
            result.append("other position ids")
        top, values = arrays["top"][row, clip], arrays["logits"][row, clip] / SCALE
        apart = float(np.abs(observed.logits[top] - values).max())
        if not apart <= TOLERANCE:
            result.append(f"logits differ by {apart:.4f}")
        elif observed.logits.argmax() != top[0] and values[0] - values[1] > 2 * TOLERANCE:
            result.append("another most likely token")
        if observed.text != expected:
            result.append(f"answer {observed.text!r}, recorded {expected!r}")
        return result


def counts(observed: seams.Observed) -> tuple[int, int]:
    """Kept (video, audio) tokens."""
    return tuple(int(observed.keep[observed.modality == kind].sum()) for kind in (1, 2))  # type: ignore[return-value]
