"""One line on a model that you loaded yourself: attach a compressor, generate as always, detach.

    python examples/your_own_model.py

The model class, its weights and its `generate` are untouched; leaving the ``with`` block removes the hooks.
"""

import tempfile
from pathlib import Path

from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

import omnisift
from omnisift.assets import nano_path
from omnisift.media import read
from omnisift.pipeline.prompt import build_inputs, pixel_limits
from omnisift.world import make_scene, write_clip

checkpoint = nano_path()  # or a folder with Qwen2.5-Omni
model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoint).eval()
processor = AutoProcessor.from_pretrained(checkpoint)

with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "clip.mp4"
    write_clip(make_scene(seed=0, split="test"), clip)
    least, most = pixel_limits(processor)
    media = read(clip, fps=2.0, min_pixels=least, max_pixels=most)

inputs = build_inputs(processor, media, "How many shapes are there?")
compressor = omnisift.make_compressor("uniform", omnisift.Budget(retain=0.25))

with omnisift.attach(model, compressor) as attachment:
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)

kept = attachment.last
print(processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(f"video {kept.n_video} -> {kept.kept_video}, audio {kept.n_audio} -> {kept.kept_audio}")
