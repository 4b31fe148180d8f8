"""The benchmarks of small machines run: accuracy of quantised models, time to the first token, memory."""

import json
import sys

import pytest
from tests.helpers.benchmarks import load_benchmark

pytestmark = [pytest.mark.slow, pytest.mark.quant]


def test_accuracy_of_quantised_models(tmp_path, monkeypatch, capsys):
    module = load_benchmark("quantized")
    monkeypatch.setattr(module, "WORLDS", {"nano": "base"})
    monkeypatch.setattr(module, "SHARES", (1.0, 0.25))
    out, work = tmp_path / "out.json", tmp_path / "work.jsonl"
    for _ in range(2):  # the second run finds all answers in the working file
        module.main(["--clips", "2", "--out", str(out), "--work", str(work)])
    assert len(work.read_text(encoding="utf-8").splitlines()) == 1
    found = json.loads(out.read_text(encoding="utf-8"))
    nano = found["worlds"]["nano"]
    assert (nano["clips"], nano["questions"], found["method"]) == (2, 16, "resift")
    sizes = nano["bytes"]
    assert sizes["fp32"] == 2 * sizes["bf16"] > 3 * sizes["int8"]
    assert sizes["int8"] > 1.5 * sizes["nf4"] > 1.5 * sizes["int2"]
    assert sizes["int2"] < sizes["int4"]
    assert len(nano["rows"]) == len(module.WAYS) * 2
    # Two bits answer as well, but not as random weights would.
    assert all(row["accuracy"][0] > 0.7 for row in nano["rows"])
    assert module.Tables(found).accuracy("nano") in capsys.readouterr().out


def test_time_to_the_first_token(monkeypatch):
    module = load_benchmark("small_machine")
    made = module.measure_time(repeats=2, depth=1)
    rows = {(row["way"], row["share"], row["threads"]): row for row in made["rows"]}
    assert len(rows) == 3 * 2 * 2 + 1  # the slow way once
    for row in rows.values():
        assert 0 < row["prefill_s"] < row["total_s"]
        assert 0 < row["prefill_cpu_s"] < row["total_cpu_s"]
    assert rows[module.BASE, 0.25, 1]["prompt"] < 0.3 * rows[module.BASE, 1.0, 1]["prompt"]
    assert module.time_table(made).count("\n") == 2 + 3 * 2 + 1


def test_memory_by_step():
    module = load_benchmark("small_machine")
    sizes = module.measure_memory(sys.executable, None)["sizes"]
    names = list(sizes)
    assert (names[0], names[-1]) == ("interpreter", "second question")
    assert all(0 < row["anonymous"] < row["resident"] for row in sizes.values())
    # Libraries hold the memory, not the model.
    assert sizes["Transformers"]["resident"] > 0.8 * sizes["second question"]["resident"]
