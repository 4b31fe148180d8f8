"""Attach a compressor to a model that you loaded with Transformers, and generate as usual.

    python examples/your_own_model.py

The model's class, weights and `generate` stay as they are. The end of the ``with`` block removes the hooks.
"""

import tempfile
from pathlib import Path

from transformers import AutoProcessor, Qwen2_5OmniThinkerForConditionalGeneration

import omnisift
from omnisift.world import make_scene, write_clip

checkpoint = omnisift.nano_path()  # or a folder or hub id of Qwen2.5-Omni
model = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(checkpoint).eval()
processor = AutoProcessor.from_pretrained(checkpoint)

with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "clip.mp4"
    write_clip(make_scene(seed=0, split="test"), clip)
    inputs = omnisift.inputs(processor, clip, "How many shapes are there?").to(model.device, model.dtype)

with omnisift.attach(model, retain=0.25) as attachment:
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)

kept = attachment.last
print(processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
print(f"video {kept.n_video} -> {kept.kept_video}, audio {kept.n_audio} -> {kept.kept_audio}")
