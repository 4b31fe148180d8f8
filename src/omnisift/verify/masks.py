"""Decisions of a device compared with those of a CPU."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from omnisift.tokens import Modality, TokenStream
from omnisift.verify.subject import Failed, Subject

FLOAT32_AGREEMENT, HALF_AGREEMENT = 0.999, 0.9
"""Least share of tokens on which masks of two devices agree, for methods without scores."""
FLOAT32_TIE, HALF_TIE = 1e-5, 2**-6
"""Scores closer than this share of the largest are a tie."""


def masks_equal_cpu(subject: Subject) -> str:
    """Compare the decision of every method on the device with its decision on a CPU, on the same embeddings."""
    stream = subject.stream()
    host = replace(
        stream, embeds=stream.embeds.cpu(), extras={name: value.cpu() for name, value in stream.extras.items()}
    )
    exact = replace(host, embeds=host.embeds.float())
    is_half = stream.embeds.dtype != torch.float32
    swapped: dict[str, int] = {}
    for name in subject.methods:
        compressor = subject.compressor(name)
        with torch.inference_mode():
            there = compressor(stream)
            compressor.cpu()
            here = compressor(host)
            # Scores in float32 are needed only where the decisions differ.
            is_equal = torch.equal(there.keep.cpu(), here.keep)
            scores = None if is_equal else compressor.float()(exact).scores
        nn.Module.to(subject.selector, stream.embeds.device, stream.embeds.dtype)  # the methods share it
        swapped[name] = compare_masks(name, there.keep.cpu(), here.keep, scores, stream, is_half=is_half)
    total = sum(swapped.values())
    where = ", ".join(f"{name} {count}" for name, count in swapped.items() if count)
    return f"{len(swapped)} methods, {len(stream):,} tokens, {total} swapped between ties" + (where and f" ({where})")


def compare_masks(
    name: str, there: Tensor, here: Tensor, scores: Tensor | None, stream: TokenStream, *, is_half: bool
) -> int:
    """Check two decisions of one method by the rule of `masks_equal_cpu`.

    Both keep the same number of tokens. A token that only one of them keeps must tie with a token of its modality that
    only the other keeps, by the scores in float32. Where a swap is no tie, or the method has no scores, the masks must
    agree on `FLOAT32_AGREEMENT` of the tokens, in half precision on `HALF_AGREEMENT`: one tie can move a budget between
    frames, or change which tokens a greedy choice takes next.

    Args:
        name: of the method, for the message.
        there: [L] bool: the decision of the device.
        here: [L] bool: the decision of the CPU.
        scores: [L] float: those of the CPU in float32; None if the method has none.
        stream: the tokens.
        is_half: whether the embeddings are in half precision.

    Returns:
        Number of tokens that only one of them keeps.

    Raises:
        Failed: the rule is broken.
    """
    count, expected = int(there.sum()), int(here.sum())
    if count != expected:
        raise Failed(f"{name} keeps {count} tokens here and {expected} on a CPU")
    swapped = int((there != here).sum())
    if not swapped or (scores is not None and _are_ties(there, here, scores, stream, is_half=is_half)):
        return swapped
    agreement = 1 - swapped / int((stream.chunk >= 0).sum())
    if agreement < (HALF_AGREEMENT if is_half else FLOAT32_AGREEMENT):
        raise Failed(f"{name} agrees with a CPU on {agreement:.2%} of the tokens only, and the others are no ties")
    return swapped


def _are_ties(there: Tensor, here: Tensor, scores: Tensor, stream: TokenStream, *, is_half: bool) -> bool:
    tie = (HALF_TIE if is_half else FLOAT32_TIE) * float(scores[scores.isfinite()].abs().max())
    for modality in (Modality.VIDEO, Modality.AUDIO):
        of_kind = (there != here) & (stream.modality == int(modality))
        if _largest_gap(scores[of_kind & there], scores[of_kind & here]) > tie:
            return False
    return True


def _largest_gap(left: Tensor, right: Tensor) -> float:
    """Largest distance between two sets of equal size, paired in order."""
    if not len(left) or len(left) != len(right):
        return 0.0 if len(left) == len(right) else float("inf")
    gap = (left.sort().values - right.sort().values).abs().max()
    return float("inf") if bool(gap.isnan()) else float(gap)
