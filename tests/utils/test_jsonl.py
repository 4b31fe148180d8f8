"""JSON lines: a cut line is dropped, a failed write leaves the file as it was, and a wrong line is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from omnisift.errors import UsageError
from omnisift.utils import jsonl
from omnisift.utils.jsonl import JsonLines, parse_jsonl, write_jsonl

RECORDS = [{"id": 1, "text": "é\u2028"}, {"id": 2}]


def test_what_is_appended_is_read_back_with_line_numbers(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "a.jsonl")
    assert list(lines.records()) == []
    for record in RECORDS:
        lines.append(record)
    assert list(lines.records()) == [(1, RECORDS[0]), (2, RECORDS[1])]
    assert "é" in lines.path.read_text(encoding="utf-8")  # not escaped, so that grep finds it
    write_jsonl(tmp_path / "b.jsonl", iter(RECORDS))
    assert (tmp_path / "b.jsonl").read_bytes() == lines.path.read_bytes()
    assert list(parse_jsonl(lines.path.read_text(encoding="utf-8"), "a")) == list(lines.records())


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
def test_a_cut_line_is_skipped_and_cut_off(tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_BLOCK", block)
    lines = JsonLines(tmp_path / "a.jsonl")
    write_jsonl(lines.path, RECORDS)
    complete = lines.path.read_bytes()
    first = complete.index(b"\n") + 1
    for length in range(len(complete) + 1):
        lines.path.write_bytes(complete[:length])
        whole = 0 if length < first else first if length < len(complete) else length
        assert len(list(lines.records())) == (whole >= first) + (whole == len(complete))
        lines.prepare()
        assert lines.path.read_bytes() == complete[:whole]


def test_a_write_that_fails_leaves_the_file_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = JsonLines(tmp_path / "a.jsonl", compact=True)
    lines.append({"id": 1, "x": 2})
    assert lines.path.read_bytes() == b'{"id":1,"x":2}\n'

    def full_disk(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        lines.append({"id": 2})
    assert lines.path.read_bytes() == b'{"id":1,"x":2}\n'


def test_a_file_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    lines, record = JsonLines(tmp_path / "a.jsonl"), {"id": b"\xff.mp4".decode(errors="surrogateescape")}
    lines.append(record)
    assert list(lines.records()) == [(1, record)]


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"id": 1}\n\n{"id"\n')
    with pytest.raises(UsageError, match=r"a\.jsonl:3: not JSON \(Expecting ':' delimiter\)"):
        list(JsonLines(path).records())
    path.write_bytes(b'"\xff"\n')
    with pytest.raises(UsageError, match=r"a\.jsonl:1: not JSON \(not UTF-8\)"):
        list(JsonLines(path).records())
    with pytest.raises(UsageError, match="typed:2: not JSON"):
        list(parse_jsonl("1\nnothing", "typed"))


def test_deep_and_long_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for text, reason in (("[" * 100_000, "nested too deeply"), ("9" * 5000, "too many digits")):
        path.write_text(text + "\n")
        with pytest.raises(UsageError, match=rf"a\.jsonl:1: not JSON \(.*{reason}"):
            list(JsonLines(path).records())
        with pytest.raises(UsageError, match=rf"typed:1: not JSON \(.*{reason}"):
            list(parse_jsonl(text, "typed"))


def test_appending_waits_for_another_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl, "_LOCK_SECONDS", 0.05)
    held, other = JsonLines(tmp_path / "a.jsonl"), JsonLines(tmp_path / "link.jsonl")
    held.hold()
    other.path.symlink_to("a.jsonl")
    held.append({"id": 1})
    with pytest.raises(UsageError, match="another process is writing"):
        other.append({"id": 2})
    held.close()
    other.append({"id": 2})
    assert [record for _, record in held.records()] == [{"id": 1}, {"id": 2}]
