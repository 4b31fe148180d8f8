"""Random training rows and texts: refused in one line, or learned with nothing but the template's special tokens."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tests.fuzz.conftest import Fuzz
from tests.helpers.row_forms import CASES
from tests.helpers.user_text import TEXTS, TOKENS
from transformers import AutoProcessor

import omnisift
from omnisift.errors import OmniSiftError
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.training.data import Collator, read_rows
from omnisift.utils.assets import nano_path
from omnisift.utils.special_tokens import SpecialTokens

pytestmark = [pytest.mark.slow, pytest.mark.fuzz]
VALUES = (
    None,
    True,
    False,
    0,
    1,
    0.5,
    "",
    "x",
    "<video>",
    [],
    ["a.mp4"],
    {},
    [[]],
    [None],
    "\ud800",
    "a\0b",
    "9" * 400,
)
PIECES = (*TOKENS, *(text for text, _ in TEXTS.values() if isinstance(text, str) and len(text) < 99))


def places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of everything in a row."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [place for key in keys for place in [(value, key), *places(value[key])]]


def changed(row: Any, rng: random.Random) -> Any:
    """A row with up to three values, keys or whole turns replaced, copied, renamed or left out."""
    row = copy.deepcopy(row)
    donors = places(copy.deepcopy(rng.choice(list(CASES.values()))))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        container, key = rng.choice(places(row) or [({"x": 1}, "x")])
        source, name = rng.choice(donors)
        donated = copy.deepcopy(source[name])
        change = rng.randrange(6)
        if change == 0:
            container[key] = rng.choice(VALUES)
        elif change == 1:
            container[key] = donated
        elif change == 2:
            del container[key]
        elif change == 3 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), donated)
        elif isinstance(container, dict):
            container[name if isinstance(name, str) else "extra"] = donated
        elif isinstance(container[key], str):
            container[key] = spliced(container[key], rng)
    return row


def spliced(text: str, rng: random.Random) -> str:
    """``text`` with a piece of a token, or a whole one, at a random place."""
    piece, cut = rng.choice(PIECES), rng.randrange(len(text) + 1)
    if rng.random() < 0.5:
        piece = piece[rng.randrange(len(piece) + 1) :]
    if rng.random() < 0.5:
        piece = piece[: rng.randrange(len(piece) + 1)]
    return text[:cut] + piece + text[cut:]


def test_random_rows(fuzz: Fuzz, clip: Path, tmp_path: Path) -> None:
    processor = AutoProcessor.from_pretrained(nano_path())
    special, collator = SpecialTokens.of(processor.tokenizer), Collator(processor)
    media = collator.read(clip)
    collator.read = lambda _path: media  # type: ignore[method-assign]
    good, path = CASES["text only"], tmp_path / "data.jsonl"
    for seed in fuzz:
        rng = random.Random(seed)
        with fuzz.case(f"seed {seed}"):
            lines = [json.dumps(row) for row in (good, changed(rng.choice(list(CASES.values())), rng), good)]
            if rng.random() < 0.1:
                lines[1] = lines[1][: rng.randrange(len(lines[1]) + 1)]
            path.write_text("\n".join(lines), encoding="utf-8")
            rows = read_rows([path], special)
            assert len(rows.samples) >= 2
            assert not any("\n" in line for line in [*rows.refused.values(), *rows.notes()])
            json.dumps(rows.to_dict()).encode()
            for sample in rows.samples:
                collator.skipped.clear()
                batch = collator([sample])
                assert not collator.skipped
                assert bool((batch["labels"] != IGNORE_INDEX).any())


def test_random_texts(fuzz: Fuzz, clip: Path) -> None:
    processor = AutoProcessor.from_pretrained(nano_path())
    media = Collator(processor).read(clip)
    numbers = {processor.tokenizer.convert_tokens_to_ids(token) for token in TOKENS} - {
        processor.tokenizer.unk_token_id
    }

    def tokens(question: str, system: str) -> list[int]:
        ids = omnisift.inputs(processor, media, question, system=system)["input_ids"][0].tolist()
        return [number for number in ids if number in numbers]

    plain = tokens("x", "x")
    for seed in fuzz:
        rng = random.Random(seed)
        question, system = "what is this", "be brief"
        for _ in range(rng.choice((1, 1, 2, 4))):
            question, system = spliced(question, rng), spliced(system, rng)
        with fuzz.case(f"seed {seed}"):
            try:
                found = tokens(question, system)
            except OmniSiftError as error:
                found = plain if len(str(error).splitlines()) == 1 else [-1]
            assert found == plain, ascii((question, system))
