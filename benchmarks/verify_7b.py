"""On a GPU: is a full-size checkpoint compressed as the released implementation does it, and what is gained?

    make verify-7b MODEL=<OmniSIFT-7B folder or hub id> REFERENCE=<checkout of the released code> ARGS="--clip a.mp4"

It loads the checkpoint with its selector, asks once with FlashAttention, takes the token stream the compressor saw,
and hands the same stream to the released pruning function (read from REFERENCE, which needs nothing but torch for it).
Then it measures prefill (encoders, compression and language model, as in the paper's Table 3) and peak memory with all
tokens and at rho 0.67 / 0.4 ("35 %"). One JSON line; exit code 1 if more than ``--tolerance`` of the tokens differ: in
bfloat16 equal scores are common and the released code leaves their order to the device, in float32 nothing may differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import transformers
from torch import Tensor

import omnisift
from omnisift.errors import UsageError
from omnisift.tokens import Modality, Selection, TokenStream
from omnisift.vgas import VGAS

RHO_VIDEO, RHO_AUDIO = 0.67, 0.4
RETAIN = {"retain_video": 0.33, "retain_audio": 0.6}
QUESTION = "What happens in this video?"


@dataclass
class Seen:
    """What the compressor was given, and what it answered."""

    stream: TokenStream | None = None
    selection: Selection | None = None

    def note(self, _module: Any, arguments: tuple[TokenStream], answer: Selection) -> None:
        self.stream, self.selection = arguments[0], answer


def released_pruning(checkout: Path) -> Callable[..., Any]:
    """The released function, from its own file."""
    file = checkout / "omnisift" / "compression_units.py"
    if not file.is_file():
        raise UsageError(f"no omnisift/compression_units.py in {checkout}; give a checkout of the released code")
    spec = importlib.util.spec_from_file_location("released_compression_units", file)
    module = ModuleType("none") if spec is None else importlib.util.module_from_spec(spec)
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} can't be read as Python; give a checkout of the released code")
    spec.loader.exec_module(module)
    return module.similarity_pruning


def unfused_scores(selector: VGAS, video: Tensor, audio: Tensor) -> Tensor:
    """[A] scores of one chunk ([K, D], [A, D]) through torch's own attention module as released, not the fused path."""
    if selector.config.time_embedding:
        raise UsageError(
            "this selector has a time embedding, which the released code does not know; give its own weights"
        )
    context = selector.v_norm(selector.v_proj(video))[None]
    asking = selector.a_norm(selector.a_proj(audio))[None]
    mixed, _ = selector.cross_attn(asking, context, context)
    return torch.sigmoid(selector.score_head(selector.post_attn_norm(mixed + asking)))[0, :, 0]


@torch.inference_mode()
def released_mask(prune: Callable[..., Any], selector: VGAS, stream: TokenStream) -> Tensor:
    """[L] bool: what the released function keeps of the same stream."""
    device = stream.embeds.device
    kinds = stream.modality.to(device, torch.int64)
    _, keep, _, _ = prune(
        lambda video, audio: unfused_scores(selector, video, audio),
        stream.embeds.clone()[None],
        kinds[None],
        int(Modality.AUDIO),
        int(Modality.VIDEO),
        stream.position.to(device)[:, None],
        merging_ratio_a=RHO_AUDIO,
        merging_ratio_v=RHO_VIDEO,
    )
    mask: Tensor = keep[0]
    return mask


def compare(prune: Callable[..., Any], pipeline: omnisift.Pipeline, clip: Path) -> dict[str, Any]:
    """Ask once, then put both masks beside each other."""
    seen = Seen()
    handle = pipeline.compressor.register_forward_hook(seen.note)
    try:
        pipeline.ask(clip, QUESTION, max_new_tokens=1)
    finally:
        handle.remove()
    if seen.stream is None or seen.selection is None:
        raise UsageError(f"{clip} gave no video tokens; give a clip with picture and sound")
    released = released_mask(prune, pipeline.compressor.selector, seen.stream)
    ours, kinds = seen.selection.keep, seen.stream.modality.to(released.device)
    parts = {"video": kinds == Modality.VIDEO, "audio": kinds == Modality.AUDIO}
    return {
        name: {
            "tokens": int(part.sum()),
            "kept": int(ours[part].sum()),
            "kept_released": int(released[part].sum()),
            "differ": int((ours != released)[part].sum()),
        }
        for name, part in parts.items()
    }


def measure(pipeline: omnisift.Pipeline, clip: Path, runs: int) -> dict[str, Any]:
    """Medians over ``runs`` questions, after one to warm up."""
    pipeline.ask(clip, QUESTION, max_new_tokens=1)
    reports = [pipeline.ask(clip, QUESTION, max_new_tokens=1).report for _ in range(runs)]
    prefill = [r.seconds.encode + r.seconds.compress + r.seconds.prefill for r in reports]
    return {
        "prefill_s": round(statistics.median(prefill), 4),
        "encode_s": round(statistics.median(r.seconds.encode for r in reports), 4),
        "compress_s": round(statistics.median(r.seconds.compress for r in reports), 4),
        "peak_gb": round(max(r.peak_memory_bytes or 0 for r in reports) / 1e9, 3),
        "retained_ratio": round(reports[0].tokens.retained_ratio, 4),
    }


def verify(options: argparse.Namespace, clip: Path) -> dict[str, Any]:
    """Masks, then speed with all tokens and with compression."""
    place = {"device": options.device, "dtype": options.dtype, "attn": options.attn}
    prune = released_pruning(options.reference)
    sifted = omnisift.load(options.model, compressor="omnisift", selector=options.selector, **RETAIN, **place)
    masks = compare(prune, sifted, clip)
    full = type(sifted)(sifted.host, None)  # the same weights, read whole
    return {
        "benchmark": "verify_7b",
        "model": options.model,
        "attention": sifted.host.thinker.config._attn_implementation,
        "masks": masks,
        "full": measure(full, clip, options.runs),
        "omnisift": measure(sifted, clip, options.runs),
        "dtype": str(next(sifted.host.thinker.parameters()).dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu",
        "versions": {
            "omnisift": omnisift.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="checkpoint folder or hub id with selector weights")
    parser.add_argument("--reference", required=True, type=Path, help="checkout of the released code")
    parser.add_argument(
        "--clip", type=Path, help="a media file (default: a generated clip, far too small to show a gain)"
    )
    parser.add_argument("--selector", help="folder of selector weights, if the model has none of its own")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", help="default: bfloat16 on a GPU")
    parser.add_argument("--attn", default="flash_attention_2")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tolerance", type=float, default=0.005, help="share of tokens that may differ (0 in float32)")
    return parser.parse_args()


def main() -> int:
    options = parse()
    with tempfile.TemporaryDirectory() as folder:
        clip = options.clip
        if clip is None:
            from omnisift.world import make_scene, write_clip

            clip = Path(folder) / "clip.mp4"
            write_clip(make_scene(1, split="test"), clip)
        result = verify(options, clip)
    result["clip"] = clip.name
    print(json.dumps(result))
    differ, tokens = (sum(part[key] for part in result["masks"].values()) for key in ("differ", "tokens"))
    return int(differ > options.tolerance * tokens)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except omnisift.OmniSiftError as error:
        sys.exit(f"{type(error).__name__}: {error}")
