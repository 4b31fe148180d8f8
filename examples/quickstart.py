"""Ask a question about a clip at a quarter of its video and audio tokens.

python examples/quickstart.py
"""

import tempfile
from pathlib import Path

import omnisift
from omnisift.world import make_scene, write_clip

with tempfile.TemporaryDirectory() as folder:
    clip = Path(folder) / "clip.mp4"
    write_clip(make_scene(seed=0, split="test"), clip)

    pipe = omnisift.load("nano", retain=0.25)
    answer = pipe.ask(clip, "What colour is the circle?")

print(answer)
print(f"read {answer.report.retained_ratio:.1%} of the video and audio tokens")
