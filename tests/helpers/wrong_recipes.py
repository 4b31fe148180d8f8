"""Wrong recipes, data files and rows: what a user or another program may write into them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

DEEP, DIGITS = "[" * 100_000, "9" * 5000
TORN: dict[str, bytes] = {
    "utf16": "model: nano\n".encode("utf-16"),
    "binary": bytes(range(256)),
    "latin1": "model: caf\xe9".encode("latin-1"),
    "null-bytes": b"model: \0\0",
    "deep": DEEP.encode(),
    "deep-mapping": b"{a: " * 20_000,
    "digits": f"model: {DIGITS}".encode(),
    "digits-key": f"{DIGITS}: 1".encode(),
    "tag": b"!!python/object/apply:os.system ['true']",
    "bomb": ("0: &a0 [x, x]\n" + "".join(f"{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 30))).encode(),
    "circle": b"a: &a [*a]",
    "date": b"model: 2020-99-99",
    "two-documents": b"a: 1\n---\nb: 2\n",
    "empty": b"",
    "list": b"- 1",
    "text": b"hello",
    "number": b"3",
    "tab": b"\tmodel: x",
    "unhashable": b"? [1, 2]\n: 3",
    "number-keys": b"1: 2",
    "cut": b'model: "nan',
}
"""Name -> content of a recipe file."""

NAN, INF = float("nan"), float("inf")
_TEXTS, _NUMBERS = ("", "\ud800", "a\0b", "x" * 5000), (True, -1, NAN, INF, 10**30, -(10**30), 10**400, 2**63)
_OF_ALL = (None, [], {}, [None], *_TEXTS, *_NUMBERS)


def train_values() -> dict[str, tuple[Any, ...]]:
    """Key of a recipe of `omnisift train` -> values; most are wrong, none may be more than one line."""
    from omnisift.training.finetune.recipe import TrainRecipe

    values = {field.name: _OF_ALL for field in fields(TrainRecipe)}
    values["lora_target_modules"] += ("(", "[", "*", "a{99999999999}")
    values["warmup_ratio"] += (1.5, -0.1)
    values["lora_dropout"] += (2.0,)
    values["dataloader_num_workers"] += (10_000,)
    values["weight_decay"] += (-0.5,)
    values["device"] += ("meta", "cuda:99")
    return values


MUST_FAIL = {
    ("seed", -1), ("seed", 2**63), ("dataloader_num_workers", -1), ("dataloader_num_workers", 10_000),
    ("warmup_ratio", "nan"), ("num_cycles", "inf"), ("num_train_epochs", "nan"), ("num_train_epochs", "inf"),
    ("weight_decay", "nan"), ("lora_target_modules", "("), ("per_device_train_batch_size", 10**30),
    ("max_steps", 2**63), ("learning_rate", "nan"), ("max_grad_norm", "nan"),
}  # fmt: skip

BENCH: dict[str, Any] = {
    "name": "small", "title": "Small", "clips": 4, "retain": [0.25], "rows": [{"method": "evs"}],
}  # fmt: skip
BENCH_VALUES: dict[str, tuple[Any, ...]] = {
    "name": ("../x", "a/b", "/etc/passwd", ".", "", "\ud800", 3, None, [], "x" * 5000, "a\0b"),
    "title": (3, [], "\ud800"),
    "about": (3, {}),
    "protocol": (3, [], "x"),
    "backbone": ([], "x", 3),
    "settings": ([], "base", {}, [3], 3, [[]]),
    "clips": (0, -1, "x", 2.5, NAN, INF, 10**30, True, None, [], "4"),
    "retain": ([], 0.5, [NAN], [0], [2], ["x"], [[0.5]], [[0.5, 0.5, 0.5]], [None], {}, [10**400], [[]]),
    "seeds": ([], [-1], [10**30], ["x"], [NAN], 3, {}, [True]),
    "train": ([], {"steps": -1}, {"steps": 10**30}, {"steps": True}, {"steps": "x"}, 3, "x"),
    "rows": (
        [], {}, [3], [None], [[]], [{}], [{"method": []}], [{"method": "nope"}], [{"method": "evs:mode=x"}],
        [{"method": "omnisift"}], [{"method": "omnisift", "selector": 3}],
        [{"method": "omnisift", "selector": "../x"}], [{"method": "evs", "label": []}], [{"method": "evs", "label": 3}],
        [{"method": "evs", "group": {}}], [{"method": "evs", "straight_through": "x"}], [{"method": "evs", "more": 1}],
        [{"method": "evs+evs+evs"}], [{"method": "\ud800"}], [{"method": "x" * 5000}],
    ),
    "other": (1,),
}  # fmt: skip
"""Key of a recipe of `omnisift bench-quality` -> wrong values."""

USER, GOOD = {"role": "user", "content": "What?"}, {"role": "assistant", "content": "blue"}


def talk(*turns: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(turns), **more}


ROWS: dict[str, Any] = {
    "role-list": talk({"role": [], "content": "a"}, GOOD),
    "role-object": talk({"role": {}, "content": "a"}, GOOD),
    "role-number": talk({"role": 3, "content": "a"}, GOOD),
    "role-null": talk({"role": None, "content": "a"}, GOOD),
    "role-unknown": talk({"role": "tool", "content": "a"}, GOOD),
    "content-list": talk({"role": "user", "content": ["a"]}, GOOD),
    "content-null": talk({"role": "user", "content": None}, GOOD),
    "content-surrogate": talk({"role": "user", "content": "\ud800"}, GOOD),
    "begins-with-assistant": talk(GOOD, USER, GOOD),
    "assistant-alone": talk(GOOD),
    "no-assistant": talk(USER),
    "turns-empty": talk(),
    "turns-object": {"messages": {}},
    "turns-text": {"messages": "x"},
    "turn-text": talk("x"),
    "turn-null": talk(None),
    "videos-number": talk(USER, GOOD, videos=3),
    "videos-object": talk(USER, GOOD, videos={"a": 1}),
    "videos-nested": talk(USER, GOOD, videos=[[]]),
    "videos-two": talk(USER, GOOD, videos=["a", "b"]),
    "videos-null-byte": talk(USER, GOOD, videos=["a\0b"]),
    "videos-surrogate": talk(USER, GOOD, videos=["\ud800.mp4"]),
    "id-list": talk(USER, GOOD, id=[]),
    "id-surrogate": talk(USER, GOOD, id="\ud800"),
    "image": talk(USER, GOOD, images=["x"]),
    "number": 3,
    "null": None,
    "text": "x",
    "list": [],
    "file-number": {"file_name": 3, "caption": "a"},
    "file-list": {"file_name": [], "caption": "a"},
    "file-null-byte": {"file_name": "a\0b", "caption": "a"},
    "file-surrogate": {"file_name": "\ud800", "caption": "a"},
    "caption-surrogate": {"file_name": "a.mp4", "caption": "\ud800"},
    "caption-number": {"file_name": "a.mp4", "caption": 3},
    "qa-text": {"file_name": "a.mp4", "qa": "x"},
    "qa-number": {"file_name": "a.mp4", "qa": [3]},
    "qa-null": {"file_name": "a.mp4", "qa": None},
    "qa-surrogate": {"file_name": "a.mp4", "qa": [{"question": "\ud800", "answer": "a"}]},
}
"""Name -> a wrong row of training data."""
DATA: dict[str, bytes] = {
    **{f"row:{name}": json.dumps(row).encode() for name, row in ROWS.items()},
    **{f"list:{name}": json.dumps([row]).encode() for name, row in ROWS.items()},
    "utf16": "{}".encode("utf-16"),
    "binary": bytes(range(256)),
    "latin1": '{"a": "\xe9"}'.encode("latin-1"),
    "deep-row": DEEP.encode(),
    "deep-object": b'{"a":' * 50_000,
    "digits": f'{{"messages": {DIGITS}}}'.encode(),
    "digits-list": f"[{DIGITS}]".encode(),
    "empty": b"",
    "blank": b" \n \n",
    "cut": b'{"messages": [{"role"',
    "two-in-a-line": b"{} {}",
    "lfs": b"version https://git-lfs.github.com/spec/v1\n",
}
"""Name -> content of a data file."""
