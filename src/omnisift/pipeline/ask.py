"""The product's main job: a media file and a question in, an answer at a part of the tokens out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.budget import Budget
from omnisift.compressors import make_compressor, needs_selector
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.media.reading import Sampling
from omnisift.models import attach
from omnisift.pipeline.clip_info import notices_of, source_of
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.loading import Host, load_host, load_selector
from omnisift.pipeline.prompt import build_inputs, moved, read_for
from omnisift.pipeline.report import Answer, Report, Seconds, Tokens
from omnisift.pipeline.stopwatch import Stopwatch, peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from omnisift.compressors import Compressor
    from omnisift.models import Compression


def load(
    model: str = "nano",
    *,
    compressor: str | None = "omnisift",
    retain: float | None = None,
    retain_video: float | None = None,
    retain_audio: float | None = None,
    selector: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    dtype: str | None = None,
    attn: str | None = None,
) -> Pipeline:
    """Load a model with a compressor, ready to be asked.

    Args:
        model: ``nano`` (bundled), a checkpoint folder, or a hub id.
        compressor: name of a compressor, or None to let the model read every token.
        retain: fraction of video and audio tokens kept together, split as `Budget` says; 0.25 if nothing is given.
        retain_video: fraction of video tokens kept; give it with ``retain_audio`` instead of ``retain``.
        retain_audio: fraction of audio tokens kept.
        selector: folder of selector weights; None looks into the model's own checkpoint.
        seed: for compressors that draw.
        device: where to run, ``cpu`` or ``cuda``.
        dtype: ``float32``, ``bfloat16`` or ``float16``; None chooses by device.
        attn: attention implementation of Transformers, ``sdpa`` if None.

    Raises:
        OmniSiftError: one line that says what is wrong and what to do.
    """
    budget = Budget.from_options(retain, retain_video, retain_audio)
    host = load_host(model, device, dtype, attn)
    if compressor is None:
        return Pipeline(host, None)
    return Pipeline(host, compressor_for(host, compressor, budget, selector, seed))


def compressor_for(
    host: Host, name: str, budget: Budget, selector: str | Path | None = None, seed: int = 0
) -> Compressor:
    """The method called ``name``, with the selector of ``host`` if it needs one; arguments as in `load`."""
    vgas = load_selector(host, selector) if needs_selector(name) else None
    return make_compressor(name, budget, selector=vgas, seed=seed)


class Pipeline:
    """A loaded model and a compressor. Ask it as often as you like; the model is untouched between questions."""

    def __init__(self, host: Host, compressor: Compressor | None):
        self.host = host
        self.compressor = compressor.eval() if compressor is not None else None

    def read(self, path: str | Path, **how: Any) -> Media:
        """Decode a clip at sizes that this model takes, to ask about it more than once; ``how`` as `ask` has it.

        Raises:
            MediaError: the file can't be read as asked.
        """
        return read_for(self.host.processor, path, **how)

    def hold(self, path: str | Path, **how: Any) -> EncodedClip:
        """Decode a clip to ask about it more than once; the first question prepares and encodes it for all later ones.

        ``how`` as `ask` has it. Any pipeline with this host can be asked about it.

        Raises:
            MediaError: the file can't be read as asked.
        """
        begin = time.perf_counter()
        media = self.read(path, **how)
        return EncodedClip(self.host, media, time.perf_counter() - begin)

    def ask(
        self,
        media: str | Path | Media | EncodedClip,
        question: str,
        *,
        fps: float = 2.0,
        max_frames: int = 256,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        max_new_tokens: int = 256,
        system: str | None = None,
        on_stage: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer ``question`` about the file ``media``.

        Args:
            media: path of a file with picture, sound or both; or what `read` or `hold` made of it, then sampling is
                settled. What a held clip does not need again takes no time.
            question: in the model's language.
            fps: pictures sampled per second; lowered over the whole clip where ``max_frames`` caps it.
            max_frames: most pictures kept.
            max_pixels: most pixels per picture; None means the paper's 320 x 28 x 28 or the processor's limit.
            sampling: ``time``, or ``qwen`` for the index rule of published results.
            max_new_tokens: most tokens written; greedy decoding.
            system: a system prompt; None sends none, as the paper's evaluation does.
            on_stage: called with the name of each stage as it begins.

        Raises:
            MediaError: the file can't be read as asked.
            UsageError: the question is empty, or the clip is held by another model.
        """
        stage = on_stage or (lambda _name: None)
        if not question.strip():
            raise UsageError("the question is empty; ask something in plain words")
        stage("read")
        begin = time.perf_counter()
        clip = media
        if not isinstance(clip, (Media, EncodedClip)):
            clip = self.read(clip, fps=fps, max_frames=max_frames, max_pixels=max_pixels, sampling=sampling)
        stage("process")
        read_at = time.perf_counter()
        inputs = self._inputs(clip, question, system)
        processed_at = time.perf_counter()
        with clip.encoding(self.compressor) if isinstance(clip, EncodedClip) else nullcontext():
            text, generated, compression, watch = self._generate(inputs, max_new_tokens, stage)
        source = clip.media if isinstance(clip, EncodedClip) else clip
        tokens = self._count(inputs, generated, compression)
        seconds = Seconds(read=read_at - begin, process=processed_at - read_at, **watch.spent)
        return Answer(text, self._report(source, tokens, seconds))

    def _inputs(self, media: Media | EncodedClip, question: str, system: str | None) -> dict[str, Any]:
        if isinstance(media, EncodedClip):
            if media.host is not self.host:
                raise UsageError("this clip is held by another model; hold it with this one")
            return media.inputs(question, system)
        inputs = build_inputs(self.host.processor, media, question, system)
        return moved(inputs, next(self.host.thinker.parameters()))

    @torch.inference_mode()
    def _generate(
        self, inputs: dict[str, Any], max_new_tokens: int, stage: Callable[[str], None]
    ) -> tuple[str, int, Compression | None, Stopwatch]:
        thinker = self.host.thinker
        stage("prefill")
        reset_peak_memory(next(thinker.parameters()).device)
        plug = attach(thinker, self.compressor) if self.compressor is not None else nullcontext(None)
        with plug as attachment, Stopwatch(thinker, self.compressor, stage) as watch:
            output = thinker.generate(
                **inputs, max_new_tokens=max_new_tokens, do_sample=False, **_end_tokens(thinker, self.host.processor)
            )
        written = output[0, inputs["input_ids"].shape[1] :]
        text = self.host.processor.tokenizer.decode(written, skip_special_tokens=True).strip()
        return text, int(written.shape[0]), attachment.last if attachment is not None else None, watch

    def _count(self, inputs: dict[str, Any], generated: int, compression: Compression | None) -> Tokens:
        config, ids = self.host.thinker.config, inputs["input_ids"]
        video = int((ids == config.video_token_id).sum())
        audio = int((ids == config.audio_token_id).sum())
        if compression is None:
            return Tokens(video, video, audio, audio, ids.shape[1], generated)
        left_alone = audio - compression.n_audio
        return Tokens(
            video, compression.kept_video, audio, compression.kept_audio + left_alone, ids.shape[1], generated
        )

    def _report(self, media: Media, tokens: Tokens, seconds: Seconds) -> Report:
        return Report(
            model=self.host.name,
            compressor="none" if self.compressor is None else self.compressor.label,
            retain="all" if self.compressor is None else self.compressor.budget.words,
            tokens=tokens,
            seconds=seconds,
            source=source_of(media),
            peak_memory_bytes=peak_memory(next(self.host.thinker.parameters()).device),
            notices=notices_of(media, is_nano=self.host.is_nano, compressing=self.compressor is not None),
        )


def _end_tokens(thinker: Any, processor: Any) -> dict[str, int]:
    """The end of a turn. Full-size checkpoints leave it to the class around the thinker, so the tokenizer says it."""
    if thinker.generation_config.eos_token_id is not None:
        return {}
    return {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
