"""Ask one question about every clip of a folder, with vLLM under Ray Data and a quarter of the tokens.

    .nox/vllm/bin/python examples/serving/ray_data.py                      # generated clips, nano
    .nox/vllm/bin/python examples/serving/ray_data.py CLIPS "What happens?" --model FOLDER --ray HEAD:6379 --engines 4

It uses Ray's own vLLM processor: Ray's workers read the clips, and each of `--engines` holds a model. A clip that can't
be read gets a line that says so. For a run that survives kills and resumes, use `omnisift run --ray`.
"""

import argparse
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.data.llm import build_processor, vLLMEngineProcessorConfig
from transformers import AutoProcessor
from vllm.platforms import current_platform

from omnisift import nano_path
from omnisift.batch.ray_driver import cluster
from omnisift.errors import MediaError
from omnisift.pipeline.prompt import prompt_text, read_for
from omnisift.serving.full_checkpoint import wrap_as_full_checkpoint
from omnisift.serving.media_limits import as_vllm_video
from omnisift.serving.vllm import ARCHITECTURE
from omnisift.world import make_scene, write_clip


class Reader:
    """Reads clips in Ray's workers; a clip that can't be read gets ``problem`` instead of a prompt."""

    def __init__(self, model: str, question: str) -> None:
        self.processor, self.question = AutoProcessor.from_pretrained(model), question

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            media = read_for(self.processor, row["clip"])
        except MediaError as error:
            return {**row, "problem": str(error), "prompt": "", "data": None}
        data = {"video": [as_vllm_video(media)]} if media.has_video else {"audio": [media.waveform]}
        return {**row, "problem": "", "prompt": prompt_text(self.processor, media, self.question), "data": data}


def make_processor(model: str, retain: float, engines: int, **vllm: Any) -> Any:
    """Return Ray's processor, which turns rows with prompt and data into rows with an answer."""
    overrides = {"architectures": [ARCHITECTURE], "omnisift": {"retain": retain}}
    config = vLLMEngineProcessorConfig(
        model_source=model,
        engine_kwargs={"hf_overrides": overrides, "mm_processor_cache_gb": 0, **vllm},
        chat_template_stage=False,  # done by `prompt_text`
        tokenize_stage=False,
        detokenize_stage=False,
        batch_size=8,
        concurrency=engines,
        log_engine_metrics=False,
        placement_group_config={"bundles": [{"CPU": 1} if current_platform.is_cpu() else {"CPU": 1, "GPU": 1}]},
    )
    return build_processor(
        config,
        preprocess=lambda row: {
            "clip": row["clip"],
            "prompt": row["prompt"],
            "multimodal_data": row["data"],
            "sampling_params": {"temperature": 0, "max_tokens": 64},
        },
        postprocess=lambda row: {
            "clip": row["clip"], "answer": row["generated_text"].strip(), "read": row["num_input_tokens"]
        },
    )  # fmt: skip


def answer_lines(clips: Path, question: str, model: str, retain: float, engines: int, **vllm: Any) -> list[str]:
    """Return one line per clip; the cluster must be connected."""
    paths = sorted(str(path) for path in clips.iterdir() if path.is_file())
    rows = ray.data.from_items([{"clip": path} for path in paths])
    read = rows.map(Reader, fn_constructor_args=(model, question), concurrency=1).materialize()
    unreadable = read.filter(expr="problem != ''").take_all()
    processor = make_processor(model, retain, engines, **vllm)
    answered = processor(read.filter(expr="problem == ''")).take_all()
    texts = {row["clip"]: f"LOOK: {row['problem']}" for row in unreadable}
    texts |= {row["clip"]: f"{row['answer']}  ({row['read']} tokens read)" for row in answered}
    return [f"{Path(path).name}  {texts[path]}" for path in paths]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="?", type=Path)
    parser.add_argument("question", nargs="?", default="which colour is the cross ?")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--retain", type=float, default=0.25)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--ray", default="local", help="local, auto or HOST:PORT")
    options = parser.parse_args()
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1")}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with tempfile.TemporaryDirectory() as folder:
        model, clips, vllm = options.model, options.clips, {}
        if model == "nano":  # only a thinker: vLLM needs a full model
            model = f"{folder}/nano"
            wrap_as_full_checkpoint(nano_path(), Path(model))
            vllm = {"dtype": "float32", "max_model_len": 4096, "enforce_eager": True}
        if clips is None:
            clips = Path(folder) / "clips"
            clips.mkdir()
            for seed in range(3):
                write_clip(make_scene(seed, split="test"), clips / f"{seed}.mp4")
            (clips / "broken.mp4").write_bytes(b"not a video")
        with cluster(options.ray, options.engines + 1):
            lines = answer_lines(clips, options.question, model, options.retain, options.engines, **vllm)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
