"""The documentation is correct: its links, commands, options, make targets, imports and tables are checked."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

import omnisift
from omnisift.budget import Budget, from_rho
from omnisift.chunks import ChunkShapes
from omnisift.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SITE = [page for page in PAGES if page.parent == ROOT / "docs"]
COMMANDS = typer.main.get_command(app).commands
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|tmp|root|home|Users|opt|mnt)\b|[A-Z]:\\")

each_page = pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])


def fences(text: str, *languages: str) -> list[str]:
    """Code blocks of the given languages."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return [body for language, body in blocks if language in languages]


def prose(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that MkDocs and GitHub generate for a heading."""
    return re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.strip().lower()))


def shell_lines(text: str) -> list[list[str]]:
    """Commands in shell blocks, split into words, without comments and prompts."""
    lines = "\n".join(fences(text, "bash", "sh", "console")).replace("\\\n", " ").splitlines()
    lines = [line.removeprefix("$ ") for line in lines if line.strip()]
    return [
        shlex.split(line, comments=True)
        for line in lines
        if line.startswith(("omnisift", ".venv", ".nox", "make", "python"))
    ]


@each_page
def test_no_path_of_anyones_machine(page: Path) -> None:
    assert MACHINE_PATH.findall(page.read_text(encoding="utf-8")) == []


@each_page
def test_internal_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}"


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    for words in shell_lines(page.read_text(encoding="utf-8")):
        if Path(words[0]).name != "omnisift" or words[1].startswith("-"):
            continue
        assert words[1] in COMMANDS, f"{page.name}: omnisift {words[1]}"
        command = COMMANDS[words[1]]
        command = getattr(command, "commands", {}).get(words[2] if len(words) > 2 else "", command)
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        options = words[2 : words.index("--")] if "--" in words else words[2:]  # words after it are for another program
        asked = {word.split("=")[0] for word in options if word.startswith("--")}
        assert asked <= known, f"{page.name}: omnisift {words[1]} has no {sorted(asked - known)}"


@each_page
def test_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z0-9-]+)", text))
    named |= {words[1] for words in shell_lines(text) if words[0] == "make" and len(words) > 1 and "=" not in words[1]}
    assert named <= targets


NOXFILE = (ROOT / "noxfile.py").read_text(encoding="utf-8")
SESSIONS = set(re.findall(r"^@nox\.session(?:\((?:name=\"(\w+)\")?.*)?\ndef (\w+)", NOXFILE, re.MULTILINE))
SESSIONS = {name or function for name, function in SESSIONS}


@each_page
def test_nox_sessions_and_scripts_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"\bnox -s (\w+)", text)) | set(re.findall(r"\.nox/(\w+)", text)) <= SESSIONS
    if page.name in ("CHANGELOG.md", "log.md"):  # they name what there was
        return
    for script in re.findall(r"\bbenchmarks/[\w/]+\.\w+", text):
        assert (ROOT / script).exists(), f"{page.name}: {script}"


def test_messages_name_nox_sessions() -> None:
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        found |= set(re.findall(r"environment_hint\(\"(\w+)\"\)", path.read_text(encoding="utf-8")))
    assert {"eval", "vllm"} <= found <= SESSIONS


@each_page
def test_python_blocks_parse_and_import_public_names(page: Path) -> None:
    for block in fences(page.read_text(encoding="utf-8"), "python", "py"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "omnisift":
                assert {alias.name for alias in node.names} <= set(omnisift.__all__)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "omnisift":
                assert node.attr in omnisift.__all__ or (ROOT / "src" / "omnisift" / node.attr).exists()


@each_page
def test_public_names_in_prose_exist(page: Path) -> None:
    for name in re.findall(r"`omnisift\.([A-Za-z_]+)\b", page.read_text(encoding="utf-8")):
        packages = {path.stem for path in (ROOT / "src" / "omnisift").iterdir()}
        assert name in {*omnisift.__all__, *packages, "__all__", "__version__"}, f"{page.name}: omnisift.{name}"


def test_every_page_is_in_the_menu() -> None:
    # Only the menu: the file has tags that MkDocs alone can read.
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    assert {page.name for page in SITE} <= set(re.findall(r"[\w/-]+\.md", nav))


def chunk_report(budget: Budget, n_video: int, n_audio: int = 50) -> tuple[int, int, str]:
    """Kept video, kept audio and measured ratio of one chunk."""
    shapes = ChunkShapes(*(torch.tensor([n]) for n in (n_video // 2, n_video // 2, n_audio, 0)))
    counts = budget.counts(shapes)
    video, audio = int(counts.frame0 + counts.frame1), int(counts.audio)
    return video, audio, f"{100 * (video + audio) / (n_video + n_audio):.1f} %"


BUDGETS = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")


def test_the_table_of_splits_matches_the_code() -> None:
    rows = re.findall(
        r"^\| (\d+) \| (0\.\d+) \| (0\.\d+) \| (0\.\d+) \| (\d+) \+ (\d+) \| ([\d.]+ %) \|$", BUDGETS, re.MULTILINE
    )
    assert len(rows) == 9
    for n, retain, video_rate, audio_rate, video, audio, ratio in rows:
        budget = Budget(retain=float(retain))
        assert budget.rates(int(n), 50) == pytest.approx((float(video_rate), float(audio_rate)), abs=5.1e-5)
        assert chunk_report(budget, int(n)) == (int(video), int(audio), ratio)


def test_the_table_of_rhos_matches_the_code() -> None:
    rows = re.findall(r"^\| (\d+) \| ([\d.]+ %) \| ([\d.]+ %) \| ([\d.]+ %) \|$", BUDGETS, re.MULTILINE)
    assert len(rows) == 3
    for n, *ratios in rows:
        for (video, audio), ratio in zip(((0.67, 0.4), (0.77, 0.5), (0.7, 0.3)), ratios, strict=True):
            assert chunk_report(from_rho(video, audio), int(n))[2] == ratio


def test_every_compressor_is_in_the_table_of_methods() -> None:
    from omnisift.compressors import COMPRESSORS

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == set(COMPRESSORS)


def test_the_architecture_page_names_code_that_exists() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    drawing = (ROOT / "docs/figures/architecture.svg").read_text(encoding="utf-8")
    package = ROOT / "src" / "omnisift"
    named = [*re.findall(r"`([\w/]+\.py)`", page), *re.findall(r">([\w/]+\.py)<", drawing)]
    assert len(named) > 20
    assert [name for name in named if not (package / name).is_file()] == []
    for symbol, file in re.findall(r"\| `(?:Pipeline\.)?(\w+)`[^|]*\| `([\w/]+\.py)` \|", page):
        assert re.search(rf"^\s*(class|def) {symbol}\b", (package / file).read_text(encoding="utf-8"), re.M), symbol
