"""The blind control keeps its own anchors, chooses sound by the donor's, and keeps the same numbers."""

import pytest
import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor
from omnisift.errors import CompressorError
from omnisift.lab.benchmark.evidence import masks
from omnisift.lab.benchmark.prompts import answer, prepare
from omnisift.lab.benchmark.shuffled_video_control import ShuffledVideoControl


def test_blind(world):
    thinker, processor = world.host.thinker, world.host.processor
    prompts = prepare(thinker, processor, world.media, ["What is this?"])
    own = prompts.clip_embeds[0][prompts.clip_ids[0] == thinker.config.video_token_id]
    sighted = make_compressor("omnisift", Budget(retain_video=0.25, retain_audio=0.25), selector=world.selector)
    video, audio = masks(answer(thinker, prompts, sighted)[1])
    strange = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)) * own.std()
    blind_video, blind_audio = masks(answer(thinker, prompts, ShuffledVideoControl(sighted, strange))[1])
    assert (blind_video == video).all()
    assert blind_audio.sum() == audio.sum()
    assert (blind_audio != audio).any()
    same = masks(answer(thinker, prompts, ShuffledVideoControl(sighted, own))[1])[1]
    assert (same == audio).all(), "with its own clip as donor nothing changes"
    with pytest.raises(CompressorError, match="95 video tokens"):
        answer(thinker, prompts, ShuffledVideoControl(sighted, own[:-1]))
