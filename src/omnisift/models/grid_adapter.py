"""`GridAdapter`: families whose processor describes each video by its grid of frames, rows and columns."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS
from omnisift.errors import UnsupportedCall
from omnisift.models.adapter import Adapter, Prompt
from omnisift.models.attention_probe import AttentionProbe
from omnisift.models.encoder_probes import AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME, AudioProbe, VideoProbe
from omnisift.models.layout import (
    Layout,
    Places,
    audio_in_order,
    audio_in_runs,
    lay_out,
    repeated_videos,
)
from omnisift.tokens import Modality


class GridAdapter(Adapter):
    """Reads clips from ``video_grid_thw``, however timestamps split them, and audio from the runs that it shares."""

    rotary_rows: ClassVar[int] = 3
    geometry: ClassVar[frozenset[str]] = frozenset({"grid_thw"})
    supplies: ClassVar[frozenset[str]] = frozenset({AUDIO_CLIP, AUDIO_WINDOW, VIDEO_FRAME})
    audio_probe: ClassVar[type[AudioProbe] | None] = None
    """Reads the attention of the audio encoder; None for families without audio, where it is zero on all tokens."""
    seconds_argument: ClassVar[str | None] = None
    """Argument of the host with the seconds of a frame, one for each video. Where there is none, it is
    `Attachment.frame_seconds`; without that the frames of a video share the time of its audio, or a frame counts as a
    second where there is none, and only the order of frames matters."""
    audio_apart: ClassVar[bool] = False
    """Whether the audio of a video follows it as an item of its own; else it lies in one run with the video."""

    def layout(self, prompt: Prompt) -> Layout:
        """Lay the video tokens on their grids."""
        is_video = prompt.modality == Modality.VIDEO
        grids = self._grids(prompt) if bool(is_video.any()) else torch.zeros(0, 3, dtype=torch.int64)
        if grids is None:
            return self.layout_without_grids(prompt)
        videos = repeated_videos(grids.prod(dim=1), is_video.sum(dim=1))
        places = Places.in_grids(int(is_video.sum()), grids[videos])
        owner = (audio_in_order if self.audio_apart else audio_in_runs)(prompt.modality, places)
        seconds = self.known_seconds(prompt, len(grids))
        seconds = self._even_seconds(owner, grids[videos]) if seconds is None else seconds[videos]
        time = self.frame_time(places.frame, seconds[places.clip])
        return lay_out(prompt.modality, places, time, owner, self.audio_step, compress_audio=prompt.compress_audio)

    def layout_without_grids(self, prompt: Prompt) -> Layout:  # noqa: ARG002
        """Return the layout of a prompt whose grids are unknown, where something else tells it."""
        raise UnsupportedCall(
            "a video without video_grid_thw: pass it, and let the compressor be attached while generate encodes"
        )

    def frame_time(self, frame: Tensor, seconds: Tensor) -> Tensor:
        """Compute when frames are.

        Args:
            frame: [N] int64: number of the frame in its clip.
            seconds: [N] float32: seconds of each frame of that clip.

        Returns:
            [N] int64: microseconds since the start of the clip.
        """
        return (frame * seconds.double() * MICROSECONDS).round().long()

    def attention_probes(self, needs: frozenset[str]) -> list[AttentionProbe]:
        """Return probes of the last layers of the two encoders."""
        probes: list[AttentionProbe] = []
        audio, video = needs & {AUDIO_CLIP, AUDIO_WINDOW}, needs & {VIDEO_FRAME}
        if audio and self.audio_probe is not None:
            probes.append(self.audio_probe.on(self.parts.audio_encoder, audio))
        if video:
            probes.append(VideoProbe.on(self.parts.vision_encoder, video))
        return probes

    @property
    def audio_step(self) -> float:
        """Microseconds from one audio token to the next. Families without audio have no rate."""
        return MICROSECONDS / float(getattr(self.config, "position_id_per_seconds", 1))

    def _grids(self, prompt: Prompt) -> Tensor | None:
        """[V, 3] int64: frames, rows and columns of tokens of each video that was encoded; None if unknown."""
        patches = prompt.tensor("video_grid_thw")
        if patches is None:
            patches = prompt.encoded_with("grid_thw")
        return None if patches is None else self.token_grids(patches)

    def token_grids(self, patches: Tensor) -> Tensor:
        """[V, 3] int64: frames, rows and columns of tokens, from those of patches."""
        merge = int(self.config.vision_config.spatial_merge_size)
        return patches // torch.tensor([1, merge, merge])

    def step_seconds(self, prompt: Prompt, count: int) -> Tensor:
        """[V] float32: seconds of a frame of each of ``count`` videos, one where they are unknown."""
        seconds = self.known_seconds(prompt, count)
        return torch.ones(count) if seconds is None else seconds

    def known_seconds(self, prompt: Prompt, count: int) -> Tensor | None:
        """[V] float32: seconds of a frame of each of ``count`` videos; None if the call does not say."""
        if not count:
            return None
        seconds = None if self.seconds_argument is None else prompt.tensor(self.seconds_argument)
        if seconds is None and prompt.frame_seconds is not None:
            seconds = torch.tensor(prompt.frame_seconds, dtype=torch.float32)
            if not bool((seconds.isfinite() & (seconds > 0)).all()):
                raise UnsupportedCall(f"frame_seconds must be above 0, got {list(prompt.frame_seconds)}: correct it")
        if seconds is None:
            return None
        # `generate` repeats each value for beams, but not the grids that its encoder ran with.
        values = seconds.float().flatten()
        times, rest = divmod(len(values), count)
        if rest or not times:
            name = self.seconds_argument or "frame_seconds"
            raise UnsupportedCall(f"{len(values)} {name} for {count} videos: pass one for each video")
        return values[::times]

    def _even_seconds(self, owner: Tensor, grids: Tensor) -> Tensor:
        """[W] float32: seconds of a frame of each clip, if its frames share the time of its audio; else one."""
        counts = torch.bincount(owner[owner >= 0], minlength=len(grids))
        even = counts * (self.audio_step / MICROSECONDS) / grids[:, 0].clamp(min=1)
        return torch.where(counts > 0, even, 1.0) if self.audio_apart else torch.ones(len(grids))
