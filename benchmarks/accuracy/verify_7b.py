"""Compare the released 7B checkpoint in this library with the released code, and measure its gain, on a GPU.

    python benchmarks/accuracy/verify_7b.py --model FOLDER_OR_HUB_ID --reference RELEASED_CHECKOUT [--clip FILE ...]

Loads the checkpoint with its selector (FlashAttention 2, bfloat16), answers a question on each clip with all tokens and
at 35 % and 25 % (paper Table 6), and prints one JSON line: how many keep decisions equal those of the released
function, and prefill seconds and peak memory as in the paper's Table 3 (prefill = encoders + compression + language
model). Without ``--clip`` it generates one. The released function is imported at run time from the checkout that you
name; this project contains none of it. The script needs about 30 GB of GPU memory. It was never run with the released
weights; the tests compare with a plain loop of the same rules, on random weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omnisift import Modality, OmniSiftError, Selection, TokenStream, attach, from_rho
from omnisift.compressors.omnisift import OmniSiftCompressor
from omnisift.errors import UsageError
from omnisift.pipeline import Pipeline, load
from omnisift.pipeline.prompt import build_inputs, read_for
from omnisift.vgas import VGAS

SETTINGS = {"35%": (0.67, 0.4), "25%": (0.77, 0.5)}
QUESTION = "Describe what is seen and heard."
PAPER = {"full": (4.76, 27.59), "35%": (2.76, 22.91)}
"""Prefill seconds and GB of Table 3; its GPU is not stated."""


def import_released(checkout: Path) -> Callable[..., tuple[Tensor, Tensor, int, int]]:
    """The pruning function of a checkout of the released code."""
    file = checkout / "omnisift" / "compression_units.py"
    if not file.is_file():
        raise UsageError(f"no released code at {checkout}: expected {file}; give the root of its checkout")
    spec = importlib.util.spec_from_file_location("released_compression_units", file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} can't be imported; give a checkout of the released code")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result: Callable[..., tuple[Tensor, Tensor, int, int]] = module.similarity_pruning
    return result


class UnfusedSelector(nn.Module):
    """The selector one chunk at a time through torch's own attention module, as the released class computes it."""

    def __init__(self, selector: VGAS) -> None:
        super().__init__()
        self.selector = selector

    def forward(self, video: Tensor, audio: Tensor) -> Tensor:
        s = self.selector
        v, a = s.v_norm(s.v_proj(video))[None], s.a_norm(s.a_proj(audio))[None]
        x = s.post_attn_norm(s.cross_attn(a, v, v)[0] + a)
        return torch.sigmoid(s.score_head(x))[0, :, 0]


class Witness(OmniSiftCompressor):
    """The method of this library; it also calls the released function on the same prompt and counts equal decisions."""

    def __init__(self, selector: VGAS, rho: tuple[float, float], released: Callable[..., Any]) -> None:
        super().__init__(from_rho(*rho), selector)
        self.rho, self.released = rho, released
        self.tokens = self.equal = self.kept = self.kept_released = 0

    def forward(self, stream: TokenStream) -> Selection:
        result = super().forward(stream)
        device = stream.embeds.device
        kinds = stream.modality.to(device).long()[None]
        rotary = stream.position.clone()
        rotary[0] //= 40_000  # microseconds to temporal ids of 40 ms
        unfused = UnfusedSelector(self.selector) if self.selector is not None else None
        _, keep, _, _ = self.released(
            unfused, stream.embeds[None].clone(), kinds, int(Modality.AUDIO), int(Modality.VIDEO),
            rotary[:, None].to(device), merging_ratio_a=self.rho[1], merging_ratio_v=self.rho[0],
        )  # fmt: skip
        media = kinds[0] > 0
        self.tokens += int(media.sum())
        self.equal += int((result.keep == keep[0])[media].sum())
        self.kept += int(result.keep[media].sum())
        self.kept_released += int(keep[0][media].sum())
        return result


def inputs_of(pipeline: Pipeline, clip: Path) -> dict[str, Any]:
    """Model inputs of a clip, sampled as for the published results."""
    processor = pipeline.host.processor
    media = read_for(processor, clip, fps=2.0, max_frames=256, sampling="qwen")
    return build_inputs(processor, media, QUESTION).to(pipeline.host.device, pipeline.host.dtype)


def prefill(pipeline: Pipeline, clip: Path, compressor: OmniSiftCompressor | None, rounds: int) -> dict[str, float]:
    """Median seconds and peak GB from processed inputs to the first token's logits."""
    inputs = inputs_of(pipeline, clip)
    seconds = []
    torch.cuda.reset_peak_memory_stats()
    attachment = attach(pipeline.host.thinker, compressor) if compressor is not None else None
    try:
        for _ in range(rounds + 1):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            pipeline.host.thinker.generate(**inputs, max_new_tokens=1, do_sample=False)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - begin)
    finally:
        if attachment is not None:
            attachment.detach()
    return {
        "prefill_s": round(statistics.median(seconds[1:]), 3),
        "gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }


def verify(pipeline: Pipeline, clips: list[Path], released: Callable[..., Any], rounds: int) -> dict[str, Any]:
    """The content of the JSON line."""
    inner = pipeline.compressor
    if not isinstance(inner, OmniSiftCompressor) or inner.selector is None:
        raise UsageError("the checkpoint was loaded without a selector; give the released one")
    result: dict[str, Any] = {"benchmark": "verify_7b", "clips": len(clips), "paper_table_3": PAPER}
    for clip in clips:
        result[clip.name] = {"full": prefill(pipeline, clip, None, rounds)}
        for name, rho in SETTINGS.items():
            witness = Witness(inner.selector, rho, released).eval()
            with attach(pipeline.host.thinker, witness):
                inputs = inputs_of(pipeline, clip)
                pipeline.host.thinker.generate(**inputs, max_new_tokens=1, do_sample=False)
            plain = OmniSiftCompressor(from_rho(*rho), inner.selector).eval()
            result[clip.name][name] = {
                **prefill(pipeline, clip, plain, rounds),
                "tokens": witness.tokens, "kept": witness.kept, "kept_released": witness.kept_released,
                "decisions_equal": round(witness.equal / max(1, witness.tokens), 6),
            }  # fmt: skip
    return result


def make_clip(folder: Path) -> Path:
    """A clip of nano's world, for when none is named: six seconds, so much shorter than the paper's."""
    from omnisift.world import make_scene, write_clip

    path = folder / "invented.mp4"
    write_clip(make_scene(0, split="test"), path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of the released checkpoint")
    parser.add_argument("--reference", required=True, type=Path, help="checkout of the released code")
    parser.add_argument("--clip", type=Path, action="append", default=[], help="a media file; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--attn", default="flash_attention_2")
    options = parser.parse_args()
    try:
        released = import_released(options.reference)
        if not torch.cuda.is_available():
            raise UsageError("verify-7b needs an NVIDIA GPU and a torch that sees it; this torch sees none")
        missing = [str(clip) for clip in options.clip if not clip.is_file()]
        if missing:
            raise UsageError(f"no clip at {', '.join(missing)}; give media files that exist")
        pipeline = load(
            options.model, compressor="omnisift", device="cuda", dtype="bfloat16", attn_implementation=options.attn
        )
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            clips = options.clip or [make_clip(Path(folder))]
            result = verify(pipeline, clips, released, options.rounds)
    except OmniSiftError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps({**result, "gpu": torch.cuda.get_device_name(), "torch": torch.__version__}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
