"""The Dockerfile: what it may not do, and, without docker, its steps carried out in a new Debian."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.image.dockerfile import Stage, carry_out, expand, steps

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"
STEPS = steps(DOCKERFILE.read_text(encoding="utf-8"))
SOURCES = sorted(
    name
    for step in STEPS
    if step.name == "COPY" and not step.rest.startswith("--from")
    for name in step.rest.split()[:-1]
)
"""What the image is made of."""
RELEASE = "bookworm"
"""Debian 12, the base of the image."""
FOLDER = Path(tempfile.gettempdir()) / "omnisift-image-test"
"""Holds everything that the steps make, and is deleted after them."""
MOST = 6 * 10**9
"""Bytes of a disk of its own, on which the steps are carried out."""
SCHEMA = "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
DECLARED = "import torch" + "".join(
    f"; torch.library.define('torchvision::{op}', '{SCHEMA}')" for op in ("nms", "qnms")
)


def test_it_ends_as_a_user_without_rights_and_names_its_base() -> None:
    assert [step.rest for step in STEPS if step.name == "USER"] == ["omnisift"]
    assert [step.name for step in STEPS[-3:]] == ["USER", "ENTRYPOINT", "CMD"]
    (base,) = [step.rest for step in STEPS if step.name == "ARG" and step.rest.startswith("BASE=")]
    assert re.fullmatch(r"BASE=debian:\d+\.\d+-slim", base)
    assert {step.rest.split(" AS ")[0] for step in STEPS if step.name == "FROM"} == {"${BASE}"}
    assert not [step for step in STEPS if step.name == "ADD"]


def test_it_copies_what_is_there_and_the_context_holds_nothing_else() -> None:
    assert all((ROOT / name).exists() for name in SOURCES)
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[1] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == SOURCES


def test_it_holds_no_secret_and_caches_nothing() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert not re.search(r"(?i)token|password|secret|hf_[a-z]{3}", text)
    assert text.count("apt-get install") == text.count("rm -rf /var/lib/apt/lists/*")
    assert all("--no-cache-dir" in step.rest for step in STEPS if "pip install" in step.rest)


def test_arguments_are_replaced() -> None:
    assert expand("a ${B}", {"B": "c"}) == "a c"
    with pytest.raises(KeyError):
        expand("${B}", {})


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes in one file, mounted below ``folder``, which is deleted at the end.

    Whatever goes wrong inside, this machine's disk loses no more than that. Needs root and loop devices.
    """
    disk, place = folder / "disk.img", folder / "disk"
    subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)  # of a run that was killed
    shutil.rmtree(folder, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        with disk.open("wb") as file:
            file.truncate(size)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(disk), str(place)], check=True, capture_output=True)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False, capture_output=True)
        shutil.rmtree(folder)


def copy_system(source: Path, target: Path) -> None:
    """Copy a system with its devices; `shutil.copytree` would read ``/dev/zero`` without an end."""
    subprocess.run(["cp", "--archive", str(source), str(target)], check=True, capture_output=True)


needs_root = pytest.mark.skipif(
    bool(os.geteuid()) or not all(map(shutil.which, ("debootstrap", "mkfs.ext4", "mount"))),
    reason="needs root, mkfs.ext4 and debootstrap: apt-get install debootstrap",
)


@pytest.mark.slow
@needs_root
def test_a_disk_that_is_full_stops_the_steps_and_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "image"
    with small_disk(folder, 32 << 20) as disk:
        (disk / "system").mkdir()
        os.mknod(disk / "system/zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
        copy_system(disk / "system", disk / "copy")
        assert stat.S_ISCHR((disk / "copy/zero").stat().st_mode)
        with pytest.raises(OSError, match="No space left"):
            (disk / "large").write_bytes(bytes(64 << 20))
    assert not folder.exists()


@pytest.fixture(scope="module")
def image() -> Iterator[Stage]:
    """The last stage, after all steps. It takes some minutes and Debian's package registry."""
    with small_disk(FOLDER, MOST) as disk:
        yield _image(disk)


def _image(folder: Path) -> Stage:
    roots = [folder / "build", folder / "last"]
    subprocess.run(["debootstrap", "--variant=minbase", RELEASE, str(roots[0])], check=True, capture_output=True)
    shutil.rmtree(roots[0] / "var/cache/apt/archives")
    # What docker gives to each build as well: how names are resolved. And this machine's certificate, if it has one.
    # Debian's package of certificates would overwrite that one in its usual place.
    certificate = os.environ.get("PIP_CERT")
    for name, copy in {"/etc/resolv.conf": "etc/resolv.conf", "/etc/hosts": "etc/hosts", certificate: "ca.crt"}.items():
        if name is not None:
            shutil.copy(name, roots[0] / copy)
    copy_system(*roots)
    network = {"PIP_CERT": "/ca.crt"} if certificate else {}
    arguments: dict[str, str] = {}
    wheel = cpu_wheel()
    if wheel is not None:
        shutil.copytree(wheel.parent, roots[0] / "wheels")
        network["PIP_FIND_LINKS"] = "/wheels"
        arguments["TORCH_INDEX"] = "https://pypi.org/simple"
    context = folder / "context"
    context.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, context / name)
    shutil.copy(DOCKERFILE, context)
    constraints = context / "constraints.txt"
    constraints.write_text(for_a_cpu(constraints.read_text(encoding="utf-8"), wheel), encoding="utf-8")
    stage = carry_out(context / "Dockerfile", roots, arguments, network)
    if wheel is not None:
        # PyPI's torchvision is compiled for CUDA, so that its operators are missing; the library calls none of them.
        (site,) = (stage.root / "opt/omnisift/lib").glob("python3.*/site-packages")
        (site / "torchvision_operators.pth").write_text(DECLARED, encoding="utf-8")
    return stage


def cpu_wheel() -> Path | None:
    """PyTorch's build for a CPU among the wheels of this machine, for one that can't reach PyTorch's own index."""
    folder = os.environ.get("PIP_FIND_LINKS")
    return None if folder is None else next(iter(Path(folder).glob("torch-*+cpu-cp311-*_x86_64.whl")), None)


def for_a_cpu(constraints: str, wheel: Path | None) -> str:
    """The constraints without CUDA, whose packages need 9 GB; with the version of ``wheel`` where there is one."""
    lines = []
    for line in constraints.splitlines():
        name = line.partition("==")[0]
        if name.startswith(("nvidia-", "cuda-", "triton")):
            lines.append(f"{name}==0")  # which does not exist: pip ends instead of downloading it
        elif wheel is None or name not in ("torch", "torchvision"):
            lines.append(line)
    if wheel is not None:
        lines.append(f"torch=={wheel.name.split('-')[1].partition('+')[0]}")
    return "\n".join(lines) + "\n"


def test_constraints_for_a_cpu() -> None:
    text = '# a\nnumpy==2.0\ntorch==2.15.0; python_version >= "3.11"\ntorchvision==0.29.2\nnvidia-nccl-cu13==2.30.7\n'
    assert for_a_cpu(text, None) == text.replace("2.30.7", "0")
    wheel = Path("torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl")
    assert for_a_cpu(text, wheel) == "# a\nnumpy==2.0\nnvidia-nccl-cu13==0\ntorch==2.13.0\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@needs_root
def test_the_steps_make_a_system_that_answers(image: Stage) -> None:
    assert image.user == "omnisift"
    assert image.run(["id", "-u"]).stdout.strip() == "1000"
    shown = image.run([*image.entrypoint, *image.command])
    assert shown.returncode == 0, shown.stderr
    assert "Usage: omnisift" in shown.stdout
    (image.root / "data").chmod(0o777)  # docker mounts the user's folder there
    for command in (["make-clip", "clip.mp4", "--seed", "0"], ["ask", "clip.mp4", "What colour is the circle?"]):
        done = image.run([*image.entrypoint, *command])
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert image.run(["pip", "list"]).returncode == 0
    assert image.run(["touch", "/opt/omnisift/x"]).returncode != 0
