"""Find the clips of a data set that training would skip or learn little from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from omnisift.errors import MediaError, NotFound
from omnisift.media import read
from omnisift.training.data.samples import Sample

KINDS = ("missing", "broken", "too long", "silent", "no video", "damaged")
UNUSABLE = frozenset({"missing", "broken", "too long"})
"""Kinds whose clips can't be used; clips of the other kinds can be learned from."""
SILENCE = 1e-4
"""An audio track whose largest sample is below this (-80 dB) is digital silence."""


@dataclass
class Findings:
    """Result of `check_samples`."""

    samples: int
    """Number of samples."""
    clips: int
    """Number of different clips."""
    found: dict[str, dict[str, str]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    """Kind -> clip -> description of the problem."""
    clean: list[Sample] = field(default_factory=list)
    """The samples whose clips can be used."""


def check_samples(
    samples: Sequence[Sample], max_seconds: float | None = None, step: Callable[[], None] | None = None
) -> Findings:
    """Read every clip once, at low resolution and with all of its audio, and list the problems.

    Args:
        samples: what `load_samples` returned.
        max_seconds: longer clips are ``too long``; None allows any length.
        step: called after each clip.

    Returns:
        The problems per kind, and the usable samples.
    """
    clips = sorted({sample.media for sample in samples if sample.media is not None})
    findings, unusable = Findings(len(samples), len(clips)), set()
    for clip in clips:
        for kind, problem in _problems(clip, max_seconds).items():
            findings.found[kind][str(clip)] = problem
            if kind in UNUSABLE:
                unusable.add(clip)
        if step is not None:
            step()
    findings.clean = [sample for sample in samples if sample.media not in unusable]
    return findings


def _problems(clip: Path, max_seconds: float | None) -> dict[str, str]:
    """Kind -> description."""
    try:
        media = read(clip, max_frames=16, min_pixels=784, max_pixels=16 * 784)
    except NotFound as error:
        return {"missing": str(error)}
    except MediaError as error:
        return {"broken": str(error)}
    problems = {}
    if max_seconds is not None and media.seconds > max_seconds:
        problems["too long"] = f"{media.seconds:.1f} s, more than {max_seconds:g} s"
    if media.waveform is None:
        problems["silent"] = "no audio track"
    elif float(np.abs(media.waveform).max(initial=0.0)) < SILENCE:
        problems["silent"] = "an audio track of digital silence"
    if not media.has_video:
        problems["no video"] = "no video; audio alone is compressed only with compress_audio"
    if media.bad_packets:
        problems["damaged"] = f"{media.bad_packets} packets could not be decoded"
    return problems
