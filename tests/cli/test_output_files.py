"""What commands write: all or nothing, on a full disk too, and never over or beside what belongs to the user."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from omnisift.errors import UsageError
from omnisift.world.dataset import write_dataset

ROOT = Path(__file__).parents[2]
LATIN = os.fsdecode(b"caf\xe9")
"""A name that is not UTF-8."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips with captions and questions."""
    folder = tmp_path_factory.mktemp("data") / "world"
    write_dataset(folder, 3, 0, 2, lambda: None)
    return folder


def commands(data: Path, out: Path) -> dict[str, list[object]]:
    """Name -> a command that writes ``out`` or ``out`` with an ending."""
    clip, train = data / "clip-000000.mp4", ["train", ROOT / "recipes/train/nano.yaml", "--out", out]
    for setting in (f"data=[{data}]", "max_steps=1", "save_steps=1", "selector=null", "estimator=straight_through"):
        train += ["--set", setting]
    return {
        "make-clip": ["make-clip", f"{out}.mp4"],
        "demo": ["demo", "--out", f"{out}.mp4"],
        "make-dataset": ["make-dataset", out, "--clips", 2],
        "inspect page": ["inspect", clip, "-o", f"{out}.html"],
        "inspect svg": ["inspect", clip, "--svg", f"{out}.svg"],
        "inspect all": ["inspect", clip, "-o", f"{out}.html", "--png", f"{out}.png", "--svg", f"{out}.svg"],
        "export": ["export", "nano", "-o", out],
        "export merged": ["export", "nano", "-o", out, "--as", "merged"],
        "distill": ["distill", "--media", data, "--steps", 1, "--questions", 1, "-o", out],
        "convert": ["convert", data, f"{out}.jsonl"],
        "data-check": ["data-check", data, "--clean", f"{out}.jsonl"],
        "run": ["run", data, "--task", "caption", "--out", f"{out}.jsonl"],
        "train": train,
    }


NAMES = list(commands(Path(), Path()))


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file can grow over ``limit`` bytes in the block, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file, folder and link below a folder, with its content."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def check_one_line(code: int, err: str) -> None:
    assert code == 2, err
    last = err.strip().splitlines()[-1]
    assert last.startswith("error (")
    assert "Traceback" not in err
    assert ".omnisift-" not in err


@pytest.mark.parametrize("limit", [0, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_one_line_and_leaves_nothing(
    omnisift, data: Path, tmp_path: Path, name: str, limit: int
) -> None:
    command = commands(data, tmp_path / "out")[name]
    with small_files(limit):
        code, _, err = omnisift(*command)
    check_one_line(code, err)
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.name != "metadata.jsonl"}
    kept = {"run": {"out.jsonl", "out.jsonl.run"}, "train": {"recipe.json", "run.lock"}}.get(name, set())
    small = {
        path for path in left if path.stat().st_size <= limit and (path.name in kept or "tensorboard" in path.parts)
    }
    assert left - small == set()
    assert not list(tmp_path.rglob(".omnisift-*"))


@pytest.mark.parametrize("name", ["make-clip", "inspect page", "inspect all", "convert", "data-check", "export"])
def test_a_full_disk_leaves_the_old_file(omnisift, data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for suffix in (".mp4", ".html", ".png", ".svg", ".jsonl"):
        out.with_suffix(suffix).write_text("old")
    out.mkdir()
    (out / "config.json").write_text("old")
    before = contents(tmp_path)
    with small_files(1000):
        code, _, err = omnisift(*commands(data, out)[name], "--force")
    check_one_line(code, err)
    assert contents(tmp_path) == before


def decoys(out: Path) -> list[Path]:
    """Names of a user's own files next to ``out`` that commands have used, or could use, for temporaries."""
    pid = os.getpid()
    endings = [".mp4", ".html", ".png", ".svg", ".jsonl", ""]
    files = [f"{out.name}{end}{more}" for end in endings for more in (".part", ".old", ".tmp", ".bak", "~")]
    files += [f"{out.name}.{pid}.part{end}" for end in endings]
    return [out.with_name(name) for name in files]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["files", "folders"])
@pytest.mark.parametrize("name", NAMES)
def test_files_beside_an_output_stay(omnisift, data: Path, tmp_path: Path, name: str, kind: str) -> None:
    paths = decoys(tmp_path / "out")
    for path in paths:
        if kind == "folders":
            path.mkdir()
        (path / "mine.txt" if kind == "folders" else path).write_text("mine")
    before = contents(tmp_path)
    code, _, err = omnisift(*commands(data, tmp_path / "out")[name])
    assert code == 0, err
    after = contents(tmp_path)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize("name", ["export", "distill"])
def test_an_old_folder_is_replaced_and_its_neighbours_stay(omnisift, data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    for folder in (out, tmp_path / "out.old", tmp_path / "out.part"):
        folder.mkdir()
        (folder / "config.json").write_text("old")
    code, _, err = omnisift(*commands(data, out)[name], "--force")
    assert code == 0, err
    assert (out / "model.safetensors").is_file()
    assert all((tmp_path / f"out.{end}" / "config.json").read_text() == "old" for end in ("old", "part"))


@pytest.mark.parametrize("name", ["make-clip", "inspect page", "inspect svg", "convert", "export", "distill"])
def test_a_link_stays_and_what_it_names_is_replaced(omnisift, data: Path, tmp_path: Path, name: str) -> None:
    real, out = tmp_path / "real", tmp_path / "out"
    real.mkdir()
    (real / "config.json").write_text("old")
    command = commands(data, out)[name]
    if name in ("export", "distill"):
        link, target = out, real
    else:
        link, target = Path(str(next(a for a in command if str(a).startswith(f"{out}.")))), real / "file"
        target.write_text("old")
    link.symlink_to(target)
    code, _, err = omnisift(*command, "--force")
    assert code == 0, err
    assert link.is_symlink()
    written = target / "model.safetensors" if target.is_dir() else target
    assert written.stat().st_size > 1000


@pytest.mark.parametrize("target", ["/dev/full", "/dev/null", "pipe", "folder"])
@pytest.mark.parametrize("name", ["make-clip", "inspect page", "convert"])
def test_an_output_that_is_no_file_is_refused(omnisift, data: Path, tmp_path: Path, name: str, target: str) -> None:
    out = tmp_path / "out"
    command = commands(data, out)[name]
    link = Path(str(next(a for a in command if str(a).startswith(f"{out}."))))
    if target == "pipe":
        os.mkfifo(link)
    elif target == "folder":
        link.mkdir()
    else:
        link.symlink_to(target)
    check_one_line(*omnisift(*command, "--force")[::2])
    assert link.is_symlink() == target.startswith("/dev")
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("foreign", ["model", "selector", "log.jsonl", "checkpoint-7"])
def test_a_new_training_run_replaces_nothing(omnisift, data: Path, tmp_path: Path, foreign: str) -> None:
    out = tmp_path / "out"
    (out / foreign).mkdir(parents=True)
    (out / foreign / "mine.txt").write_text("mine")
    code, _, err = omnisift(*commands(data, out)["train"])
    check_one_line(code, err)
    assert contents(out) == {foreign: "folder", f"{foreign}/mine.txt": b"mine"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "foreign", ["checkpoint-7", "checkpoint-0", "checkpoint-best", "checkpoint-1-old", "checkpoint-"]
)
def test_a_resumed_training_run_deletes_nothing_foreign(omnisift, data: Path, tmp_path: Path, foreign: str) -> None:
    out = tmp_path / "out"
    command = commands(data, out)["train"]
    assert omnisift(*command)[0] == 0
    shutil.rmtree(out / "model")
    (out / foreign).mkdir()
    (out / foreign / "mine.txt").write_text("mine")
    code, _, err = omnisift(*command, "--set", "max_steps=4")
    if foreign[11:].isdigit():
        check_one_line(code, err)
    else:
        assert code == 0, err
    assert (out / foreign / "mine.txt").read_text() == "mine"


def test_make_dataset_does_not_replace_other_data(omnisift, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "holiday.mp4", "caption": "me"}\n')
    before = contents(tmp_path)
    check_one_line(*omnisift("make-dataset", tmp_path, "--clips", 1)[::2])
    assert contents(tmp_path) == before


def test_the_cache_of_clips_deletes_only_its_own_files(tmp_path: Path) -> None:
    from omnisift.training.data.cache import ClipCache

    for name in ("model.safetensors", f"{'0' * 32}.safetensors"):
        (tmp_path / name).write_bytes(b"0" * 100)
    ClipCache(tmp_path, max_bytes=0)._shrink()
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_written_is_one_line(omnisift, data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    check_one_line(*omnisift(*commands(data, folder / "out")[name])[::2])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        OSError(28, "No space left on device"),
        PermissionError(13, "Permission denied", "/x"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore lines"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        ValueError("Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits"),
        type("SafetensorError", (Exception,), {})("Error while serializing: I/O error: No space left (os error 28)"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:20]}",
)
def test_failures_of_the_machine_are_one_line(omnisift, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("omnisift.cli.screen.console_for", fail)
    code, _, err = omnisift("methods")
    check_one_line(code, err)
    assert err.count("\n") == 1


def test_a_fault_of_the_program_keeps_its_traceback(omnisift, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnisift.cli.screen.console_for", lambda **_: [][0])
    with pytest.raises(IndexError):
        omnisift("methods")


def in_shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = f'omnisift() {{ "{sys.executable}" -m omnisift.cli "$@"; }}; set -o pipefail; {line}'
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "check": False}
    return subprocess.run(["bash", "-c", command], **options)


def test_a_full_disk_behind_stdout_is_one_line(tmp_path: Path) -> None:
    done = in_shell("omnisift methods --json > /dev/full", tmp_path)
    check_one_line(done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_error(tmp_path: Path) -> None:
    done = in_shell("omnisift methods --json | true", tmp_path)
    assert (done.returncode, done.stderr) == (1, "")


NAMED: dict[str, Callable[[Path, Path], list[object]]] = {
    "make-clip": lambda clip, out: ["make-clip", f"{out}.mp4"],
    "ask": lambda clip, out: ["ask", clip, "What is heard?"],
    "ask json": lambda clip, out: ["ask", clip, "What is heard?", "--json"],
    "ask missing": lambda clip, out: ["ask", f"{out}.mp4", "What is heard?"],
    "inspect": lambda clip, out: ["inspect", clip, "-o", f"{out}.html", "--svg", f"{out}.svg", "--png", f"{out}.png"],
    "inspect json": lambda clip, out: ["inspect", clip, "--json"],
    "run": lambda clip, out: ["run", clip.parent, "--task", "caption", "--out", f"{out}.jsonl"],
    "run json": lambda clip, out: ["run", clip, "--task", "caption", "--out", f"{out}.jsonl", "--json"],
    "run question": lambda clip, out: ["run", clip, "--task", "qa", "--question", LATIN, "--out", f"{out}.jsonl"],
    "run list": lambda clip, out: ["run", out, "--task", "caption", "--out", f"{out}.jsonl"],
    "distill": lambda clip, out: [
        "distill",
        "--media",
        clip.parent,
        "--steps",
        1,
        "--questions",
        1,
        "-o",
        f"{clip.parent}-s",
    ],
    "distill out": lambda clip, out: ["distill", "--media", clip.parent, "--steps", 1, "--questions", 1, "-o", out],
    "export": lambda clip, out: ["export", "nano", "-o", out],
    "export merged": lambda clip, out: ["export", "nano", "-o", out, "--as", "merged"],
    "model": lambda clip, out: ["ask", clip, "What?", "--model", out],
    "selector": lambda clip, out: ["ask", clip, "What?", "--selector", out],
    "make-dataset": lambda clip, out: ["make-dataset", out, "--clips", 1],
    "data-check": lambda clip, out: ["data-check", clip.parent, "--clean", f"{out}.jsonl"],
    "convert": lambda clip, out: ["convert", clip.parent, f"{out}.jsonl"],
    "profile": lambda clip, out: ["profile", clip],
    "train recipe": lambda clip, out: ["train", out],
    "train": lambda clip, out: commands(clip.parent, clip.parent / "run")["train"],
    "bench-quality": lambda clip, out: ["bench-quality", out],
    "bench-report": lambda clip, out: ["bench-report", "--results", out],
    "eval": lambda clip, out: ["eval", "--benchmark", "worldsense", "--video-root", out],
    "eval report": lambda clip, out: ["eval", "report", out],
    "demo": lambda clip, out: ["demo", "--out", f"{out}.mp4"],
}
"""Name -> a command on a clip and with an output whose names are not UTF-8."""
REFUSED = {"ask missing", "run question", "run list", "distill out", "model", "selector", "train recipe"}
REFUSED |= {"bench-quality", "bench-report", "eval", "eval report"}


@pytest.mark.parametrize("name", NAMED)
def test_names_that_are_not_utf8(omnisift, data: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    clip, out = folder / f"{LATIN}.mp4", folder / f"out-{LATIN}"
    shutil.copy(data / "clip-000000.mp4", clip)
    shutil.copy(data / "clip-000001.mp4", folder / "other.mp4")
    row = '{{"file_name": "{}", "qa": [{{"question": "What?", "answer": "That"}}]}}\n'
    (folder / "metadata.jsonl").write_text(row.format("caf\\udce9.mp4") + row.format("other.mp4"))
    command = NAMED[name](clip, out)
    if name == "run list":
        out.write_bytes(b"caf\xe9.mp4\n")
    code, _, err = omnisift(*command)
    assert (code, "Traceback" in err) == (2 if name in REFUSED else 0, False), err
    if code:
        assert err.strip().splitlines()[-1].startswith("error (")
        assert "error (UnicodeEncodeError)" not in err or name == "distill out"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("name", ["inspect all", "make-dataset", "distill", "export merged", "train"])
def test_a_signal_leaves_no_temporary_files(data: Path, tmp_path: Path, name: str, number: int) -> None:
    """The signal comes when the first temporary folder is seen; writing is slowed down."""
    slow = "import os, time\nfsync = os.fsync\nos.fsync = lambda file: (time.sleep(1), fsync(file))\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "omnisift.cli", *map(str, commands(data, work / "out")[name])]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(work.rglob(".omnisift-*")):
        time.sleep(0.005)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    assert process.returncode in (128 + number, 0)
    assert not list(work.rglob(".omnisift-*"))


def test_a_thread_that_fails_is_one_line(omnisift, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        def write() -> None:
            raise OSError(28, "No space left on device")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        raise UsageError("the rest")

    monkeypatch.setattr("omnisift.cli.screen.console_for", fail)
    before = threading.excepthook
    code, _, err = omnisift("methods")
    assert code == 2
    assert [line.split(":")[0] for line in err.splitlines()] == ["warning", "error (UsageError)"]
    assert threading.excepthook is before
