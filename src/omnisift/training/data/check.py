"""Which clips of a data set would not be learned from, before training finds out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnisift.errors import MediaError, NotFound
from omnisift.media import read
from omnisift.training.data.samples import Sample

KINDS = ("missing", "broken", "too long", "silent", "no picture", "damaged")
UNUSABLE = frozenset({"missing", "broken", "too long"})
"""Kinds that a clean list leaves out; the others can be learned from."""
QUIET = 1e-4
"""A track whose loudest sample is below this (-80 dB) is digital silence."""


@dataclass
class Findings:
    """What a check found."""

    samples: int
    clips: int
    """Different clips."""
    found: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    """Kind -> clip -> what was found."""
    clean: list[Sample] = field(default_factory=list)
    """The samples whose clips can be used."""


def check_samples(
    samples: Sequence[Sample], max_seconds: float | None = None, step: Callable[[], None] | None = None
) -> Findings:
    """Read each clip once (two pictures a second at their smallest, and all of the sound); ``step`` after each."""
    clips = sorted({sample.media for sample in samples if sample.media is not None})
    findings, bad = Findings(len(samples), len(clips)), set()
    for clip in clips:
        for kind, what in _problems(clip, max_seconds).items():
            findings.found[kind][str(clip)] = what
            if kind in UNUSABLE:
                bad.add(clip)
        if step is not None:
            step()
    findings.clean = [sample for sample in samples if sample.media not in bad]
    return findings


def _problems(clip: Path, max_seconds: float | None) -> dict[str, str]:
    """Kind -> one sentence."""
    try:
        media = read(clip, max_frames=16, min_pixels=784, max_pixels=16 * 784)
    except NotFound as error:
        return {"missing": str(error)}
    except MediaError as error:
        return {"broken": str(error)}
    found = {}
    if max_seconds is not None and media.seconds > max_seconds:
        found["too long"] = f"{media.seconds:.1f} s, more than {max_seconds:g} s"
    if media.waveform is None:
        found["silent"] = "no sound track"
    elif float(np.abs(media.waveform).max(initial=0.0)) < QUIET:
        found["silent"] = "a sound track of digital silence"
    if not media.has_video:
        found["no picture"] = "sound alone is never compressed"
    if media.bad_packets:
        found["damaged"] = f"{media.bad_packets} packets could not be decoded"
    return found
