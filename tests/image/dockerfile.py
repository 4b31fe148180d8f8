"""Read a Dockerfile and carry out its steps without docker: in a new Debian that `debootstrap` made, by `chroot`.

It understands what this repository's Dockerfile uses: ARG, FROM, RUN, COPY of files of the context or of an earlier
stage, ENV, WORKDIR, USER, ENTRYPOINT and CMD. It is not docker: there are no layers, the steps see the machine's
kernel, processes and network, and the base is Debian's own of the same release instead of the published image.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Step:
    """One instruction."""

    name: str
    rest: str


@dataclass
class Stage:
    """The state of one stage while its steps are carried out."""

    root: Path
    arguments: dict[str, str]
    variables: dict[str, str] = field(default_factory=lambda: {"PATH": PATH})
    folder: str = "/"
    user: str = "root"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)

    def run(self, words: Sequence[str], **extra: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with nothing of the caller's environment."""
        # `env` as the first program: chroot would look the command up on the caller's PATH.
        home = "/root" if self.user == "root" else f"/home/{self.user}"
        variables = {"HOME": home, **self.variables, **extra}
        pairs = [f"{name}={value}" for name, value in variables.items()]
        script = f"cd {shlex.quote(self.folder)} && exec {shlex.join(words)}"
        command = ["chroot", f"--userspec={self.user}", str(self.root)]
        command += ["/usr/bin/env", "-i", *pairs, "/bin/sh", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, check=False)


def steps(text: str) -> list[Step]:
    """The instructions, with continued lines joined and comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [Step(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def expand(text: str, values: Mapping[str, str]) -> str:
    """``${NAME}`` replaced by its value; raises KeyError for a name without one."""
    return re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], text)


def carry_out(path: Path, roots: Sequence[Path], arguments: Mapping[str, str], network: Mapping[str, str]) -> Stage:
    """Carry out all stages; the roots hold one new system for each.

    Args:
        path: the Dockerfile; its folder is the context.
        roots: folder of each stage, on one disk: what a stage copies of an earlier one is linked and takes no space.
        arguments: build arguments.
        network: variables with which this machine reaches its package registries; only RUN steps get them.

    Returns:
        The last stage, in which commands can be run.
    """
    free, stages, named = list(roots), [], {}
    defaults: dict[str, str] = {}
    for step in steps(path.read_text(encoding="utf-8")):
        if step.name == "FROM":
            stages.append(Stage(free.pop(0), {}))
            if " AS " in step.rest:
                named[step.rest.split(" AS ")[1].strip()] = stages[-1]
            continue
        if step.name == "ARG":
            name, _, value = step.rest.partition("=")
            known = stages[-1].arguments if stages else defaults
            known[name] = arguments.get(name, value)
            continue
        stage = stages[-1]
        rest = step.rest if step.name == "RUN" else expand(step.rest, {**stage.arguments, **stage.variables})
        if step.name == "RUN":
            done = stage.run(["/bin/sh", "-c", rest], **stage.arguments, **network)
            if done.returncode:
                raise RuntimeError(f"RUN {rest[:200]}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        elif step.name == "COPY":
            _copy(stage, rest.split(), path.parent, named)
        elif step.name == "ENV":
            stage.variables |= dict([rest.split("=", 1)])
        elif step.name == "WORKDIR":
            stage.folder = rest
            (stage.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif step.name == "USER":
            stage.user = rest
        elif step.name == "ENTRYPOINT":
            stage.entrypoint = json.loads(rest)
        elif step.name == "CMD":
            stage.command = json.loads(rest)
        else:
            raise ValueError(f"unknown instruction {step.name}")
    return stages[-1]


def _copy(stage: Stage, words: list[str], context: Path, named: Mapping[str, Stage]) -> None:
    source, copy = context, shutil.copy2
    if words[0].startswith("--from="):
        source, copy = named[words.pop(0).removeprefix("--from=")].root, os.link
    target = stage.root / (Path(stage.folder) / words[-1]).relative_to("/")
    for name in words[:-1]:
        origin = source / name.lstrip("/")
        if origin.is_dir():  # docker copies what is in it
            shutil.copytree(origin, target, symlinks=True, dirs_exist_ok=True, copy_function=copy)
        else:
            copy(origin, target)
