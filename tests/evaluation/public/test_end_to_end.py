"""lmms-eval itself, with nano, on five small benchmarks in their official formats: all tokens and a quarter, in one
process and in two. `nox -s eval` runs this in the environment of lmms-eval."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.evaluation.public.fixture import Fixture, write_benchmarks
from tests.helpers.models import work_of_encoders

from omnisift.evaluation.public.eval_run import read_answers, read_run
from omnisift.evaluation.public.lmms_hooks import MISSED, SCORE, task_name, write_task
from omnisift.evaluation.public.metadata import convert

pytestmark = [pytest.mark.slow, pytest.mark.evalenv]
CLIPS, ASKED = 3, 2
CHOICE = ("dailyomni", "omnivideobench", "videomme", "worldsense")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert find_spec("lmms_eval") is not None, "lmms-eval is not in this environment: nox -s eval"
    return tmp_path_factory.mktemp("eval")


@pytest.fixture(scope="module")
def benchmarks(folder: Path) -> dict[str, Fixture]:
    return write_benchmarks(folder / "benchmarks", CLIPS, ASKED)


@pytest.fixture(scope="module")
def tasks(folder: Path, benchmarks: dict[str, Fixture]) -> Path:
    """nano knows no letters, so it is asked the question alone and its word is looked up among the options."""
    for name, one in benchmarks.items():
        write_task(folder / "tasks", convert(name, one.metadata, one.videos), "question", "strict")
    return folder / "tasks"


def call(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in this environment, with the sources in front that this process has."""
    where = os.pathsep.join(path for path in sys.path if path.endswith("src"))
    environment = {**os.environ, "PYTHONPATH": where, "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, timeout=600)


def harness(out: Path, tasks: Path, arguments: str, *more: str, launcher: tuple[str, ...] = ()) -> dict[str, Any]:
    """All five tasks; returns the results file, with the tasks' answers below ``answers``."""
    names = ",".join(task_name(path.stem.removeprefix("omnisift_")) for path in tasks.glob("*.yaml"))
    done = call(
        *(*launcher, "-m", "lmms_eval", "--model", "omnisift", "--device", "cpu"),
        *("--model_args", f"pretrained=nano,records={out},{arguments}", "--tasks", names),
        *("--include_path", str(tasks), "--log_samples", "--output_path", str(out), *more),
    )
    files = sorted(out.rglob("*_results.json"))
    assert files, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads(files[-1].read_text())
    return result | {"answers": {name: read_answers(out, name) for name in (*CHOICE, "video_salmonn2")}}


@pytest.fixture(scope="module")
def full(folder: Path, tasks: Path) -> dict[str, Any]:
    return harness(folder / "full", tasks, "compressor=none")


@pytest.fixture(scope="module")
def quarter(folder: Path, tasks: Path) -> dict[str, Any]:
    return harness(folder / "quarter", tasks, "retain=0.25")


def requests(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in folder.glob("requests-*.jsonl") for line in path.read_text().splitlines()]


def test_every_question_of_five_benchmarks_is_answered_and_scored(full: dict[str, Any]) -> None:
    for name in CHOICE:
        answers = full["answers"][name]
        assert len(answers) == CLIPS * ASKED
        right = sum(answer["chosen"]["strict"] == answer["answer"] for answer in answers)
        assert full["results"][task_name(name)][f"{SCORE},none"] == pytest.approx(right / len(answers))
        assert right >= len(answers) / 2  # nano knows its world; chance is a quarter
    captions = full["answers"]["video_salmonn2"]
    assert [len(caption["prediction"].split()) > 10 for caption in captions] == [True] * CLIPS
    assert full["results"]["omnisift_video_salmonn2"][f"{MISSED},none"] < 0.5


def test_scores_are_split_by_the_groups_and_errors_clustered(full: dict[str, Any]) -> None:
    results = full["results"]["omnisift_videomme"]
    parts = [results["duration: short,none"], results["duration: long,none"]]
    assert sum(parts) / 2 == pytest.approx(results[f"{SCORE},none"])
    assert f"{SCORE}_stderr_clustered,none" in results
    assert "type: Comparative,none" in full["results"]["omnisift_dailyomni"]


def test_the_harness_counts_the_tokens_that_were_kept(
    folder: Path, full: dict[str, Any], quarter: dict[str, Any]
) -> None:
    for run, name in ((full, "full"), (quarter, "quarter")):
        lines = requests(folder / name)
        assert len(lines) == 4 * CLIPS * ASKED + CLIPS
        counts = [line["tokens"] for line in lines]
        assert run["efficiency"]["overall"]["total_input_tokens"] == sum(count["prompt_kept"] for count in counts)
        assert {(count["video"], count["audio"]) for count in counts} == {(96, 150)}  # the sound is heard
    assert {(c["tokens"]["video_kept"], c["tokens"]["audio_kept"]) for c in requests(folder / "quarter")} == {(24, 39)}
    saved = [run["efficiency"]["overall"]["total_input_tokens"] for run in (full, quarter)]
    assert saved[0] - saved[1] == (246 - 63) * (4 * CLIPS * ASKED + CLIPS)


def test_flops_of_each_question_are_noted(folder: Path, full: dict[str, Any], quarter: dict[str, Any]) -> None:
    lines = zip(*(sorted(requests(folder / name), key=order) for name in ("quarter", "full")), strict=True)
    for ours, whole in lines:
        gone = whole["tokens"]["prompt_kept"] - ours["tokens"]["prompt_kept"]
        each = (whole["flops"] - ours["flops"]) / gone
        assert gone == 183
        assert each == int(each) > 0  # the encoders' work is the same, and each token of the prompt costs as much


def test_consecutive_questions_share_the_encoding_of_their_clip(folder: Path, full: dict[str, Any]) -> None:
    for line in requests(folder / "full"):
        is_first = line["task"] == "omnisift_video_salmonn2" or line["document"] % ASKED == 0
        assert (line["seconds"]["encode_video"] > 0, line["seconds"]["encode_audio"] > 0) == (is_first, is_first)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_those_of_single_questions(benchmarks: dict[str, Fixture], batch_size: int) -> None:
    from lmms_eval.api.instance import Instance

    from omnisift.integrations.lmms_eval.model import OmniSift

    model = OmniSift(pretrained="nano", retain=0.25, device="cpu", batch_size=batch_size)
    clips = sorted(benchmarks["worldsense"].videos.rglob("*.mp4"))[:2]
    asked = [(str(clip), text) for clip in clips for text in ("How many shapes are there?", "Is a beep heard?")]
    model.task_dict = {"task": {"test": asked}}

    def messages(document: tuple[str, str]) -> list[dict[str, Any]]:
        content = [{"type": "video", "url": document[0]}, {"type": "text", "text": document[1]}]
        return [{"role": "user", "content": content}]

    instances = [
        Instance(
            "generate_until",
            ("", messages, {}, number, "task", "test"),
            number,
            {"task": "task", "doc_id": number, "repeats": 1},
        )
        for number in range(len(asked))
    ]
    with work_of_encoders(model.pipeline.host) as runs:
        answers = model.generate_until(instances)
    if batch_size == 1:
        assert runs == {"encode_video": 2, "encode_audio": 2}
    assert [answer.text for answer in answers] == [model.pipeline.ask(*pair).text for pair in asked]


def order(line: dict[str, Any]) -> tuple[str, int]:
    return line["task"], line["document"]


def test_two_processes_and_batches_of_two_answer_as_one(folder: Path, tasks: Path, quarter: dict[str, Any]) -> None:
    # With --cpu, accelerate 1.15 starts one process whatever the number asked for.
    launcher = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    launcher += ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
    both = harness(folder / "two", tasks, "retain=0.25", "--batch_size", "2", launcher=launcher)
    assert both["answers"] == quarter["answers"]
    counted = [run["efficiency"]["overall"]["total_input_tokens"] for run in (both, quarter)]
    assert counted[0] == counted[1]
    assert {path.name for path in (folder / "two").glob("requests-*")} == {"requests-0.jsonl", "requests-1.jsonl"}
    assert max(line["batch_size"] for line in requests(folder / "two")) == 2


def test_the_harness_compares_with_a_full_run_in_pairs(folder: Path, tasks: Path, full: dict[str, Any]) -> None:
    (samples,) = (folder / "full").rglob("*_samples_omnisift_worldsense.jsonl")
    run = harness(folder / "paired", tasks, "compressor=random,retain=0.25", "--baseline", str(samples))
    results = run["results"]["omnisift_worldsense"]
    assert results["paired_baseline_score"] == pytest.approx(
        100 * full["results"]["omnisift_worldsense"][f"{SCORE},none"]
    )


def test_the_command_runs_a_benchmark_and_draws_the_table(folder: Path, benchmarks: dict[str, Fixture]) -> None:
    one = benchmarks["worldsense"]
    asked = ("--benchmark", "worldsense", "--video-root", str(one.videos), "--metadata", str(one.metadata))
    asked += ("--wording", "question", "--rule", "strict", "--batch-size", "3", "--processes", "2")
    outs = [folder / "own-full", folder / "own-quarter"]
    for out, compressor in zip(outs, ("none", "omnisift"), strict=True):
        done = call("-m", "omnisift.cli", "eval", *asked, "--out", str(out), "--compressor", compressor, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["questions"] == str(CLIPS * ASKED)
    assert read_run(outs[1]).kept_together == pytest.approx(63 / 246)
    table = call("-m", "omnisift.cli", "eval", "report", *map(str, outs)).stdout
    assert "| WorldSense | nano | omnisift | 0.25 | 25.0 | 26.0 | 25.6 |" in table
    again = call("-m", "omnisift.cli", "eval", *asked, "--out", str(outs[0]))
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)


def test_a_broken_clip_ends_the_run_or_counts_as_wrong(folder: Path, benchmarks: dict[str, Fixture]) -> None:
    root = folder / "broken"
    items = benchmarks["videomme"].metadata.read_text().splitlines()[:3]
    (root / "videos" / "data").mkdir(parents=True)
    (root / "videomme.jsonl").write_text("\n".join(items))
    (root / "videos" / "data" / "clip0.mp4").write_bytes(b"no video")
    whole = benchmarks["videomme"].videos / "videos" / "data" / "clip1.mp4"
    (root / "videos" / "data" / "clip1.mp4").write_bytes(whole.read_bytes())
    asked = ("eval", "--benchmark", "videomme", "--video-root", str(root), "--wording", "question", "--rule", "strict")
    stopped = call("-m", "omnisift.cli", *asked, "--out", str(folder / "stopped"))
    assert stopped.returncode == 2
    assert "clip0.mp4" in stopped.stderr.splitlines()[-1]
    wrong = call("-m", "omnisift.cli", *asked, "--out", str(folder / "wrong"), "--bad-clip", "wrong")
    assert wrong.returncode == 0, wrong.stderr
    run = read_run(folder / "wrong")
    assert (run.unread, len(run.requests)) == (2, 3)
    assert [one.right for one in run.graded()][:2] == [False, False]
