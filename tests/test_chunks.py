"""Clips, chunks, frames and times from placeholder tokens and temporal ids."""

from __future__ import annotations

import pytest
import torch
from tests.helpers.oracle import clips_of
from tests.helpers.prompts import random_prompt

from omnisift.chunks import ChunkShapes, build_stream, has_clips, index_clips, segment_of, steps_in_chunk
from omnisift.tokens import Modality, TokenStream

LETTERS = {".": Modality.TEXT, "V": Modality.VIDEO, "A": Modality.AUDIO, "S": Modality.SUBTITLE, "D": 4}


def stream(
    letters: str, temporal: list[int], sample: list[int] | None = None, *, compress_audio: bool = False
) -> TokenStream:
    modality = torch.tensor([LETTERS[x] for x in letters], dtype=torch.int8)
    rows = torch.zeros(len(letters)) if sample is None else torch.tensor(sample)
    position = torch.tensor(temporal).expand(3, -1)
    return build_stream(torch.zeros(len(letters), 4), modality, position, rows, 0.04, compress_audio=compress_audio)


def test_a_pair_of_frames_and_its_audio_form_a_chunk():
    s = stream(".VVVVAAVVA.", [0, 1, 1, 26, 26, 1, 30, 51, 51, 51, 52])
    assert s.chunk.tolist() == [-1, 0, 0, 0, 0, 0, 0, 1, 1, 1, -1]
    assert s.frame.tolist() == [-1, 0, 0, 1, 1, -1, -1, 0, 0, -1, -1]
    assert s.clip.tolist() == [-1] + [0] * 9 + [-1]
    shapes = ChunkShapes.of(s)
    assert shapes.frame0.tolist() == [2, 2]
    assert shapes.frame1.tolist() == [2, 0]
    assert shapes.audio.tolist() == [2, 1]


def test_audio_before_the_first_frame_belongs_to_no_chunk_and_audio_after_the_last_to_the_last():
    s = stream("AVAVVA", [0, 5, 5, 7, 9, 99])
    assert s.chunk.tolist() == [-1, 0, 0, 0, 1, 1]
    assert s.clip.tolist() == [0] * 6


def test_further_modalities_belong_to_the_chunk_of_their_time():
    s = stream("VVSDAVVSAS", [0, 1, 1, 0, 1, 4, 5, 2, 4, 99])
    assert s.chunk.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 1, 1]
    assert s.clip.tolist() == [0] * 10
    assert s.frame.tolist() == [0, 1, -1, -1, -1, 0, 1, -1, -1, -1]
    shapes = ChunkShapes.of(s)
    assert shapes.text.tolist() == [2, 1]  # of which D is none
    assert (shapes.frame0.tolist(), shapes.frame1.tolist(), shapes.audio.tolist()) == ([1, 1], [1, 1], [1, 1])
    assert segment_of(s).tolist() == [0, 1, -1, -1, 2, 3, 4, -1, 5, -1]


def test_further_modalities_before_the_first_chunk_belong_to_it():
    """Audio there is in no chunk. In the second clip, the chunk before is of another clip."""
    assert stream("SADVS", [0, 1, 2, 5, 9]).chunk.tolist() == [0, -1, 0, 0, 0]
    s = stream("VVS.SSVV", [0, 1, 9, 10, 11, 12, 15, 16])
    assert s.chunk.tolist() == [0, 0, 0, -1, 1, 1, 1, 1]
    assert ChunkShapes.of(s).text.tolist() == [1, 2]


def test_further_modalities_make_no_clip():
    for compress_audio in (False, True):
        s = stream("SS.D.VS", [0, 1, 2, 3, 4, 5, 6], compress_audio=compress_audio)
        assert s.modality.tolist() == [0, 0, 0, 0, 0, 1, 3]
        assert s.clip.tolist() == [-1] * 5 + [0, 0]
        assert s.chunk.tolist() == [-1] * 5 + [0, 0]
    assert not has_clips(torch.tensor([0, 3, 4]), compress_audio=True)


def test_further_modalities_go_with_audio_alone():
    letters, temporal = "SAAASAAS", [0, 1, 30, 50, 51, 52, 101, 120]
    s = stream(letters, temporal, compress_audio=True)
    assert s.chunk.tolist() == [0, 0, 0, 0, 1, 1, 2, 2]
    assert ChunkShapes.of(s).text.tolist() == [1, 1, 1]
    assert stream(letters, temporal).modality.tolist() == [0] * 8


def test_plain_audio_becomes_text():
    s = stream(".AA.VV.A", [0, 1, 2, 3, 4, 4, 5, 6])
    assert s.modality.tolist() == [0, 0, 0, 0, 1, 1, 0, 0]
    assert s.clip.tolist() == [-1, -1, -1, -1, 0, 0, -1, -1]


def test_two_videos_in_one_prompt_are_grouped_separately():
    """Three frames each: the odd frame of the first does not pair with the first of the second."""
    s = stream("VVV.VVV", [0, 1, 2, 3, 4, 5, 6])
    assert s.chunk.tolist() == [0, 0, 1, -1, 2, 2, 3]
    assert s.frame.tolist() == [0, 1, 0, -1, 0, 1, 0]


def test_a_run_ends_where_the_row_of_the_batch_ends():
    s = stream("VVVV", [0, 1, 0, 1], sample=[0, 0, 1, 1])
    assert s.clip.tolist() == [0, 0, 1, 1]
    assert s.chunk.tolist() == [0, 0, 1, 1]


def test_frames_come_in_the_order_of_their_ids_at_any_position():
    s = stream("VVVV", [7, 5, 5, 7])
    assert s.frame.tolist() == [1, 0, 0, 1]


def test_time_counts_from_the_start_of_the_own_clip():
    s = stream(".AVV.V", [3, 10, 10, 35, 36, 60])
    assert s.time.tolist() == pytest.approx([0, 0, 0, 1.0, 0, 0])


def test_a_single_row_is_a_view():
    embeds = torch.zeros(3, 4)
    modality = torch.ones(3, dtype=torch.int8)
    s = build_stream(embeds, modality, torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3), 0.04)
    assert s.embeds.data_ptr() == embeds.data_ptr()


@pytest.mark.parametrize("letters", ["", "...", "AA"])
def test_nothing_to_compress(letters: str):
    s = stream(letters, list(range(len(letters))))
    assert (s.chunk == -1).all()
    assert len(ChunkShapes.of(s)) == 0


@pytest.mark.parametrize("seed", range(200))
def test_clips_and_chunks_equal_the_plain_loop(seed: int):
    prompt = random_prompt(seed)
    s = prompt.stream()
    assert segment_of(s).tolist() == loop_segments(prompt.modality, prompt.temporal, prompt.sample)
    clips = index_clips(prompt.modality, prompt.sample)
    for number, places in enumerate(clips_of(prompt.modality.tolist(), prompt.sample.tolist())):
        assert torch.nonzero(clips == number).flatten().tolist() == places


def loop_segments(modality, temporal, sample) -> list[int]:
    """3 * chunk + part, or -1; one token at a time."""
    result, chunk = [-1] * len(modality), 0
    for clip in clips_of(modality.tolist(), sample.tolist()):
        frames = sorted({int(temporal[i]) for i in clip if modality[i] == Modality.VIDEO})
        for i in clip:
            before = [k for k, t in enumerate(frames) if t <= temporal[i]]
            if modality[i] == Modality.VIDEO:
                result[i] = 3 * (chunk + before[-1] // 2) + before[-1] % 2
            elif before:
                result[i] = 3 * (chunk + before[-1] // 2) + 2
        chunk += (len(frames) + 1) // 2
    return result


def test_steps_are_fiftieths_of_the_chunk():
    letters = "VV" + "A" * 50 + "V" + "A" * 60
    s = stream(letters, [5, 30, *range(5, 55), 55, *range(55, 115)])
    steps = steps_in_chunk(s).tolist()
    assert steps[:2] == [0, 25]
    assert steps[2:52] == list(range(50))
    assert steps[52] == 0
    assert steps[53:] == [*range(50), *[49] * 10]  # the last chunk is as long as the one before it


def test_steps_stretch_with_the_chunk():
    """Frames eight seconds apart (a long clip at a capped number of frames)."""
    s = stream("VVAAA", [0, 200, 0, 100, 399])
    assert steps_in_chunk(s).tolist() == [0, 25, 0, 12, 49]


def test_steps_of_a_single_frame_assume_two_seconds():
    s = stream("VAA", [0, 0, 49])
    assert steps_in_chunk(s).tolist() == [0, 0, 49]
