"""Load a model once and ask it about media files: `load`, then `Pipeline.ask`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.budget import Budget
from omnisift.compressors import FULL, make_compressor, needs_selector
from omnisift.config import CompressionConfig
from omnisift.errors import UsageError
from omnisift.media import Media
from omnisift.media.reading import Sampling
from omnisift.models import attach
from omnisift.pipeline.ask_batch import count_rows
from omnisift.pipeline.clip_info import notices_of, source_of
from omnisift.pipeline.devices import DeviceMap
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.loading import Host, load_selector, load_weights, plan_placement, read_selector
from omnisift.pipeline.model_source import ModelSource, find_model
from omnisift.pipeline.prompt import build_inputs, read_for
from omnisift.pipeline.report import Answer, Report, Seconds, Tokens
from omnisift.pipeline.stopwatch import Stopwatch, peak_memory, reset_peak_memory
from omnisift.pipeline.streaming import text_streamer
from omnisift.utils.questions import check_question
from omnisift.vgas import VGAS

if TYPE_CHECKING:
    from omnisift.compressors import Compressor
    from omnisift.models import Compression


def load(
    model: str | Path = "nano",
    *,
    compressor: str | None = "omnisift",
    retain: float | None = None,
    retain_video: float | None = None,
    retain_audio: float | None = None,
    selector: str | Path | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
) -> Pipeline:
    """Load a model with a compressor, ready to be asked.

    All arguments, the model's configuration and the selector are checked before the model's weights are read.

    Args:
        model: ``nano`` (bundled), a checkpoint folder, or a hub id.
        compressor: name of a method as `make_compressor` takes it; None, ``full`` or ``none`` keeps every token.
        retain: fraction of video and audio tokens kept together, split as `Budget` says; 0.25 if nothing is given.
        retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
        retain_audio: fraction of audio tokens kept.
        selector: folder of selector weights; None looks into the model's own checkpoint.
        seed: random seed, for methods that sample.
        device: ``auto`` (cuda, then mps, then cpu: the first that this machine has), ``cpu``, ``cuda``, ``cuda:1`` or
            ``mps``.
        dtype: ``float32``, ``bfloat16``, ``float16``, a torch dtype, or ``auto`` for the dtype the checkpoint is
            stored in; None means float32 on a CPU and bfloat16 elsewhere.
        attn_implementation: attention implementation of Transformers; None means ``sdpa``.
        device_map: ``auto`` or a mapping of modules to devices, as `from_pretrained` takes it, instead of ``device``;
            needs accelerate.

    Returns:
        A pipeline in evaluation mode.

    Raises:
        UsageError: an argument is wrong, or this machine lacks the device.
        BudgetError: a retain fraction is outside (0, 1] or ambiguous.
        CompressorError: the method is unknown, or needs a selector that is not there.
        UnsupportedModel: the checkpoint is of another family.
        CheckpointError: the model is not found, or its weights are missing or unreadable.
    """
    config = CompressionConfig(
        compressor=compressor or FULL,
        retain=retain,
        retain_video=retain_video,
        retain_audio=retain_audio,
        selector=None if selector is None else str(selector),
        seed=seed,
    )
    config.check()
    placement = plan_placement(device, dtype, attn_implementation, device_map)
    source = find_model(str(model))
    method = None if config.keeps_all else compressor_for(source, config.compressor, config.budget, selector, seed)
    host = load_weights(source, placement)
    # The selector was read in its stored dtype, before the model's was known.
    for module in method.modules() if method is not None else ():
        if isinstance(module, VGAS):
            module.to(device=host.device, dtype=host.dtype)  # type: ignore[call-arg]
    return Pipeline(host, method)


def compressor_for(
    model: Host | ModelSource, name: str, budget: Budget, selector: str | Path | None = None, seed: int = 0
) -> Compressor:
    """Make the method called ``name``, with the selector of ``model`` where it needs one.

    Args:
        model: a loaded host; or what `find_model` returned, to check the method before the weights are read.
        name: as `make_compressor` takes it.
        budget: how many tokens stay.
        selector: folder of selector weights; None looks into the model's checkpoint.
        seed: random seed, for methods that sample.

    Raises:
        CompressorError: the method is unknown, or needs a selector that is not there.
        CheckpointError: the selector is incomplete, or of another width than the model.
    """
    vgas = None
    if not needs_selector(name):
        pass
    elif isinstance(model, Host):
        vgas = load_selector(model, selector)
    else:
        vgas = read_selector(
            model.name, model.source, selector, model.hidden_size, local_files_only=model.local_files_only
        )
    return make_compressor(name, budget, selector=vgas, seed=seed)


class Pipeline:
    """A loaded model and a compressor. Between questions the model carries no hooks.

    Pipelines that share a host answer one question at a time: during a question its hooks are on the host, so questions
    from several threads need a lock.

    Args:
        host: a loaded model, as `load` makes it.
        compressor: the method that decides which tokens stay; None keeps every token.
    """

    def __init__(self, host: Host, compressor: Compressor | None):
        self.host = host
        self.compressor = compressor.eval() if compressor is not None else None

    def __repr__(self) -> str:
        host, method = self.host, "none"
        if self.compressor is not None:
            method = f"{self.compressor.label}, retain {self.compressor.budget.words}"
        return (
            f"Pipeline({host.name!r} on {host.device}, {str(host.dtype).removeprefix('torch.')}; compressor {method})"
        )

    def _repr_html_(self) -> str:
        """One line, for notebooks."""
        return f"<p>{escape(repr(self))}</p>"

    def with_compressor(
        self,
        compressor: str | None,
        *,
        retain: float | None = None,
        retain_video: float | None = None,
        retain_audio: float | None = None,
        selector: str | Path | None = None,
        seed: int = 0,
    ) -> Pipeline:
        """A pipeline of the same loaded model with another method or budget.

        Args:
            compressor: name of a method as `make_compressor` takes it; None, ``full`` or ``none`` keeps every token.
            retain: fraction of video and audio tokens kept together; 0.25 if nothing is given.
            retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
            retain_audio: fraction of audio tokens kept.
            selector: folder of selector weights; None looks into the model's own checkpoint.
            seed: random seed, for methods that sample.

        Raises:
            BudgetError: a retain fraction is outside (0, 1] or ambiguous.
            CompressorError: the method is unknown, or needs a selector that is not there.
        """
        config = CompressionConfig(
            compressor=compressor or FULL,
            retain=retain,
            retain_video=retain_video,
            retain_audio=retain_audio,
            selector=None if selector is None else str(selector),
            seed=seed,
        )
        config.check()
        if config.keeps_all:
            return Pipeline(self.host, None)
        return Pipeline(self.host, compressor_for(self.host, config.compressor, config.budget, selector, seed))

    def read(
        self,
        path: str | Path,
        *,
        fps: float = 2.0,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
    ) -> Media:
        """Decode a clip at the image sizes that this model takes, to ask about it more than once.

        Args:
            path: path of a media file.
            fps: frames sampled per second; lowered for the whole clip where ``max_frames`` caps it.
            max_frames: maximum number of frames; None means 256, or 768 with ``qwen`` sampling.
            max_pixels: maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit.
            sampling: ``time``, or ``qwen`` for the index rule of published results.

        Returns:
            The decoded frames and waveform.

        Raises:
            MediaError: the file cannot be read as asked.
            UsageError: an argument is out of range.
        """
        return read_for(
            self.host.processor, path, fps=fps, max_frames=max_frames, max_pixels=max_pixels, sampling=sampling
        )

    def encode(
        self,
        path: str | Path,
        *,
        fps: float = 2.0,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
    ) -> EncodedClip:
        """Decode a clip whose encoder outputs are kept: the first question computes them, later ones reuse them.

        Any pipeline with the same host can be asked about the result. Arguments as in `read`.

        Raises:
            MediaError: the file cannot be read as asked.
            UsageError: an argument is out of range.
        """
        begin = time.perf_counter()
        media = self.read(path, fps=fps, max_frames=max_frames, max_pixels=max_pixels, sampling=sampling)
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
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question about a clip, with greedy decoding.

        Args:
            media: path of a file with video, audio or both; or what `read` or `encode` returned, which are sampled
                already and skip the stages that are done.
            question: a question in the model's language.
            fps: frames sampled per second; lowered for the whole clip where ``max_frames`` caps it.
            max_frames: maximum number of frames.
            max_pixels: maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit.
            sampling: ``time``, or ``qwen`` for the index rule of published results.
            max_new_tokens: maximum number of generated tokens.
            system: a system prompt; None sends none, as in the paper's evaluation.
            on_stage: called with the name of each stage when it begins.
            on_text: called with each piece of the answer as it is generated.

        Returns:
            The answer and its report.

        Raises:
            MediaError: the file cannot be read as asked.
            UsageError: the question is empty, an argument is out of range, or the clip was encoded by another model.
        """
        stage = on_stage or (lambda _name: None)
        check_question(question)
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens must be at least 1, got {max_new_tokens}")
        stage("read")
        begin = time.perf_counter()
        clip = media
        if not isinstance(clip, (Media, EncodedClip)):
            clip = self.read(clip, fps=fps, max_frames=max_frames, max_pixels=max_pixels, sampling=sampling)
        stage("process")
        read_at = time.perf_counter()
        with self._prepare(clip, question, system) as inputs:
            processed_at = time.perf_counter()
            text, generated, compression, watch = self._generate(inputs, max_new_tokens, stage, on_text)
        source = clip.media if isinstance(clip, EncodedClip) else clip
        (tokens,) = count_rows(self.host.thinker.config, inputs, [generated], compression)
        seconds = Seconds(read=read_at - begin, process=processed_at - read_at, **watch.spent)
        return Answer(text, self._report(source, tokens, seconds))

    @contextmanager
    def _prepare(self, clip: Media | EncodedClip, question: str, system: str | None) -> Iterator[dict[str, Any]]:
        """Yield the inputs of the ``generate`` call that runs in the block."""
        if not isinstance(clip, EncodedClip):
            inputs = build_inputs(self.host.processor, clip, question, system)
            yield dict(inputs.to(self.host.device, self.host.dtype))
            return
        if clip.host is not self.host:
            raise UsageError("this clip was encoded by another model; encode it with this one")
        with clip.prepare(question, system, self.compressor) as prepared:
            yield prepared

    @torch.inference_mode()
    def _generate(
        self,
        inputs: dict[str, Any],
        max_new_tokens: int,
        stage: Callable[[str], None],
        on_text: Callable[[str], None] | None,
    ) -> tuple[str, int, Compression | None, Stopwatch]:
        thinker, tokenizer = self.host.thinker, self.host.processor.tokenizer
        streamer = text_streamer(tokenizer, on_text) if on_text is not None else None
        stage("prefill")
        reset_peak_memory(self.host.device)
        attaching = attach(thinker, self.compressor) if self.compressor is not None else nullcontext(None)
        with attaching as attachment, Stopwatch(thinker, self.compressor, stage) as watch:
            output = thinker.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                streamer=streamer,
                **self.host.stop_tokens,
            )
        generated = output[0, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(generated, skip_special_tokens=True).strip()
        return text, int(generated.shape[0]), attachment.last if attachment is not None else None, watch

    def _report(self, media: Media, tokens: Tokens, seconds: Seconds) -> Report:
        return Report(
            model=self.host.name,
            compressor="none" if self.compressor is None else self.compressor.label,
            budget=None if self.compressor is None else self.compressor.budget,
            tokens=tokens,
            seconds=seconds,
            source=source_of(media),
            peak_memory_bytes=peak_memory(self.host.device),
            notices=notices_of(media, is_nano=self.host.is_nano, compressing=self.compressor is not None),
        )
