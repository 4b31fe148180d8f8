"""Load a model once and ask it about media files: `load`, then `Pipeline.ask`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from omnisift.config import EncodingOptions, ReadOptions, option_names
from omnisift.errors import UsageError
from omnisift.media import Media, MediaFile
from omnisift.media.sampling import Sampling
from omnisift.media.subtitles import TextKind
from omnisift.media.work import MAX_DECODED_PIXELS, READ_TIMEOUT
from omnisift.pipeline.answering import answer_prompts
from omnisift.pipeline.devices import DeviceMap
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.held_prompt import HOLD_BYTES
from omnisift.pipeline.loading import Host, load_weights, plan_placement
from omnisift.pipeline.method import budget_with_text, compression_config, compressor_for
from omnisift.pipeline.model_source import find_model
from omnisift.pipeline.prompt import read_for
from omnisift.pipeline.report import Answer, with_reason
from omnisift.pipeline.windowed_clip import ALL_ENCODED, WindowedClip, check_encoding, open_clip
from omnisift.utils.names import AUTO
from omnisift.vgas import VGAS

if TYPE_CHECKING:
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from omnisift.compressors import Compressor
    from omnisift.streaming import Policy, StreamSession


def load(
    model: str | Path = "nano",
    *,
    compressor: str | None = AUTO,
    retain: float | None = None,
    retain_video: float | None = None,
    retain_audio: float | None = None,
    tokens: int | None = None,
    compress_audio: bool = False,
    retain_text: float | None = None,
    selector: str | Path | None = None,
    seed: int = 0,
    retain_encoded: float | None = None,
    still_threshold: float | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
    device_map: DeviceMap | None = None,
    max_length: int | None = None,
    quantization: str | QuantizationConfigMixin | None = None,
) -> Pipeline:
    """Load a model with a compressor, ready to be asked.

    All arguments, the model's configuration and the selector are checked before the model's weights are read.

    Args:
        model: ``nano`` (bundled), a checkpoint folder, or a hub id.
        compressor: name of a method as `make_compressor` takes it; None, ``full`` or ``none`` keeps every token.
            ``auto`` is ``omnisift`` if ``selector`` is given or the checkpoint has one, and ``resift`` for all other
            models and for ``nano``. The report says which, and why.
        retain: fraction of video and audio tokens kept together, split as `Budget` says; 0.25 if nothing is given.
        retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
        retain_audio: fraction of audio tokens kept.
        tokens: video and audio tokens kept of each clip, exactly, instead of a fraction.
        compress_audio: whether a file with audio alone is compressed too; else its audio is kept in full.
        retain_text: fraction of the tokens of subtitles that are kept; None keeps all that `Budget` allows.
        selector: folder of selector weights; None looks into the model's own checkpoint.
        seed: random seed, for methods that sample.
        retain_encoded: fraction of every frame's tokens that is encoded, chosen by their pixels; None for all.
        still_threshold: mean difference of 8-bit values up to which windows are not encoded again; None encodes all.
        device: ``auto`` (the first of cuda, mps, cpu that is here), ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.
        dtype: ``float32``, ``bfloat16``, ``float16``, a torch dtype, or ``auto`` for the dtype the checkpoint is
            stored in; None means float32 on a CPU and bfloat16 elsewhere.
        attn_implementation: attention implementation of Transformers; None means ``sdpa``.
        device_map: ``auto`` or a mapping of modules to devices, as `from_pretrained` takes it, instead of ``device``;
            needs accelerate.
        max_length: maximum tokens of the compressed prompt and its answer, or `TooBig`; None for the model's context.
        quantization: how the language model's linear layers are quantised: a name of docs/small-machines.md, or a
            configuration of Transformers. None loads the weights as they are stored, quantised or not.

    Returns:
        A pipeline in evaluation mode.

    Raises:
        UsageError: an argument is wrong, or this machine lacks the device or a package.
        BudgetError: a fraction or the number of tokens is out of range, or both are given.
        CompressorError: the method is unknown, or needs a selector that is not there.
        UnsupportedModel: the checkpoint is of another family.
        CheckpointError: the model is not found, or its weights are missing or unreadable.
    """
    given = retain, retain_video, retain_audio, tokens, compress_audio
    config = compression_config(compressor, *given, selector, seed)
    budget = budget_with_text(config, retain_text)
    encoding = EncodingOptions(retain_encoded=retain_encoded, still_threshold=still_threshold)
    encoding.check_encoding(compresses=not config.keeps_all)
    placement = plan_placement(device, dtype, attn_implementation, device_map, max_length, quantization)
    source = find_model(str(model))
    method = None if config.keeps_all else compressor_for(source, config.compressor, budget, selector, seed)
    host = load_weights(source, placement)
    # The selector was read in its stored dtype, before the model's was known.
    for module in method.modules() if method is not None else ():
        if isinstance(module, VGAS):
            module.to(device=host.device, dtype=host.dtype)  # type: ignore[call-arg]
    return Pipeline(host, method, encoding)


class Pipeline:
    """A loaded model and a compressor. Between questions the model carries no hooks.

    Several threads may ask it. Pipelines that share a host answer one question at a time, for a question's hooks are on
    the host; clips of other threads are decoded meanwhile.

    Args:
        host: a loaded model, as `load` makes it.
        compressor: the method that decides which tokens stay; None keeps every token.
        encoding: which video tokens the vision encoder computes; None means all.

    Raises:
        BudgetError: ``encoding.retain_encoded`` is out of range.
        UsageError: a value of ``encoding`` is out of range, nothing is compressed, or the method or the model's vision
            encoder needs all tokens.
    """

    def __init__(self, host: Host, compressor: Compressor | None, encoding: EncodingOptions | None = None):
        self.host = host
        self.encoding = encoding or EncodingOptions()
        check_encoding(host, compressor, self.encoding)
        self.compressor = compressor.eval() if compressor is not None else None

    @property
    def method(self) -> str:
        """The method and why it was chosen, for example ``resift (default)``; ``none`` without one."""
        return "none" if self.compressor is None else with_reason(self.compressor.label, self.compressor.reason)

    def __repr__(self) -> str:
        host, method = self.host, "none"
        if self.compressor is not None:
            method = f"{self.compressor.label}, retain {self.compressor.budget.words}"
        return (
            f"Pipeline({host.name!r} on {host.device}, {str(host.dtype).removeprefix('torch.')}; compressor {method})"
        )

    @property
    def keeps_audio(self) -> bool:
        """Whether it compresses, but keeps audio outside a video in full."""
        return self.compressor is not None and not self.compressor.budget.compress_audio

    def _repr_html_(self) -> str:
        """One line, for notebooks."""
        return f"<p>{escape(repr(self))}</p>"

    def with_compressor(
        self,
        compressor: str | None = AUTO,
        *,
        retain: float | None = None,
        retain_video: float | None = None,
        retain_audio: float | None = None,
        tokens: int | None = None,
        compress_audio: bool = False,
        retain_text: float | None = None,
        selector: str | Path | None = None,
        seed: int = 0,
        retain_encoded: float | None = None,
        still_threshold: float | None = None,
    ) -> Pipeline:
        """A pipeline of the same loaded model with another method or budget.

        Args:
            compressor: name of a method as `make_compressor` takes it; None, ``full`` or ``none`` keeps every token;
                ``auto`` as `load` takes it.
            retain: fraction of video and audio tokens kept together; 0.25 if nothing is given.
            retain_video: fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``.
            retain_audio: fraction of audio tokens kept.
            tokens: video and audio tokens kept of each clip, exactly, instead of a fraction.
            compress_audio: whether a file with audio alone is compressed too; else its audio is kept in full.
            retain_text: fraction of the tokens of subtitles that are kept; None keeps all that `Budget` allows.
            selector: folder of selector weights; None looks into the model's own checkpoint.
            seed: random seed, for methods that sample.
            retain_encoded: fraction of the tokens of every frame that are encoded, as `load` takes it.
            still_threshold: what counts as standing still, as `load` takes it.

        Raises:
            BudgetError: a fraction or the number of tokens is out of range, or both are given.
            CompressorError: the method is unknown, or needs a selector that is not there.
        """
        given = retain, retain_video, retain_audio, tokens, compress_audio
        config = compression_config(compressor, *given, selector, seed)
        budget = budget_with_text(config, retain_text)
        encoding = EncodingOptions(retain_encoded=retain_encoded, still_threshold=still_threshold)
        if config.keeps_all:
            return Pipeline(self.host, None, encoding)
        method = compressor_for(self.host, config.compressor, budget, selector, seed)
        return Pipeline(self.host, method, encoding)

    def read(
        self,
        path: MediaFile | Media,
        *,
        fps: float = 2.0,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        max_decoded_pixels: int = MAX_DECODED_PIXELS,
        read_timeout: float = READ_TIMEOUT,
        text: TextKind = None,
    ) -> Media:
        """Decode a clip at the image sizes that this model takes, to ask about it more than once.

        Args:
            path: path of a media file or a file object, as `omnisift.read` takes them; a `Media` is decoded already
                and returned as it is.
            fps: frames sampled per second; lowered for the whole clip where ``max_frames`` caps it.
            max_frames: maximum number of frames; None means 256, or 768 with ``qwen`` sampling.
            max_pixels: maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit.
            sampling: ``time``, or ``qwen`` for the index rule of published results.
            max_decoded_pixels: maximum pixels of all frames that are decoded for the clip.
            read_timeout: maximum seconds to read the clip.
            text: ``subtitles`` reads the lines of the file beside the clip, or else of its first text track, and puts
                them into the prompt at their times; None reads none.

        Returns:
            The decoded frames and waveform.

        Raises:
            MediaError: the file cannot be read as asked.
            UsageError: an argument is out of range.
        """
        reading = _reading(fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text)
        return read_for(self.host.processor, path, **reading)

    def encode(
        self,
        path: MediaFile | Media,
        *,
        fps: float = 2.0,
        max_frames: int | None = None,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        max_decoded_pixels: int = MAX_DECODED_PIXELS,
        read_timeout: float = READ_TIMEOUT,
        text: TextKind = None,
        hold_bytes: int = HOLD_BYTES,
    ) -> EncodedClip:
        """Decode a clip whose encoder outputs are kept: the first question computes them, later ones reuse them.

        It also holds the keys and values of the compressed prompt up to the question, so that later questions with the
        same method and budget cost their own tokens alone: `Report.cached_tokens` says so. Any pipeline with the same
        host can be asked about the result.

        Args:
            path, fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text: as in `read`.
            hold_bytes: maximum bytes of keys and values that the clip holds on the device; longer prompts are read for
                each question. 0 holds none.

        Raises:
            MediaError: the file cannot be read as asked.
            UsageError: an argument is out of range.
        """
        begin = time.perf_counter()
        reading = _reading(fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text)
        clip = open_clip(self.host, self.compressor, path, reading, self.encoding, hold_bytes)
        if isinstance(clip, WindowedClip):
            clip.close()
            return clip
        return EncodedClip(self.host, clip, time.perf_counter() - begin, hold_bytes)

    def stream(
        self,
        *,
        keep: Policy | None = None,
        fps: float = 2.0,
        max_pixels: int | None = None,
        audio: bool | None = None,
        system: str | None = None,
        peak: float | None = None,
    ) -> StreamSession:
        """Open a stream: feed it with pieces as they come, and ask about it at any moment.

        The default method is ``resift:causal=true`` here, which needs no later frames.

        Args:
            keep: which older tokens stay; None means ``MemoryBank()``, which is bounded.
            fps: images per second.
            max_pixels: maximum pixels per image; None means the paper's 320 x 28 x 28 or the processor's limit.
            audio: whether the stream has sound; None means yes if the model takes audio.
            system: a system prompt; None sends none.
            peak: the largest value of the whole stream's spectrogram before its floor, where it is known; None takes
                the largest value so far.

        Raises:
            CompressorError: the method looks at the whole clip, or does not fit the policy.
            UnsupportedModel: the model can't read a prompt part by part.
            UsageError: an argument is out of range.
        """
        # Both packages use parts of the other, so neither is loaded with it.
        from omnisift.streaming import KeepAll, MemoryBank, StreamSession

        if self.encoding != ALL_ENCODED:
            raise UsageError("a stream encodes all tokens: leave retain_encoded and still_threshold out")
        method = self.compressor
        if keep is None:
            keep = MemoryBank() if method is not None else KeepAll()
        options: dict[str, Any] = {"fps": fps, "max_pixels": max_pixels, "audio": audio}
        return StreamSession(self.host, method, keep, **options, system=system, peak=peak)

    def ask(
        self,
        media: MediaFile | Media | EncodedClip,
        question: str,
        *,
        fps: float = 2.0,
        max_frames: int = 256,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        max_decoded_pixels: int = MAX_DECODED_PIXELS,
        read_timeout: float = READ_TIMEOUT,
        text: TextKind = None,
        max_new_tokens: int = 256,
        system: str | None = None,
        on_stage: Callable[[str], None] | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question about a clip, with greedy decoding.

        Args:
            media: a file with video, audio or both, as its path or a file object; or what `read`, `encode` or
                `Media.from_arrays` returned, which are sampled already and skip the stages that are done.
            question: a question in the model's language.
            fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text: as in `read`.
            max_new_tokens: maximum number of generated tokens.
            system: a system prompt; None sends none, as in the paper's evaluation.
            on_stage: called with the name of each stage when it begins, and with ``window 3 of 225`` before those of a
                window.
            on_text: called with each piece of the answer as it is generated.

        Returns:
            The answer and its report.

        Raises:
            MediaError: the file cannot be read as asked; `TooBig` also if the prompt exceeds the model's context.
            UsageError: the question is empty, an argument is out of range, or the clip was encoded by another model.
        """
        reading = _reading(fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "system": system, "on_stage": on_stage}
        prompts = [(media, question)]
        options |= {"on_text": on_text}
        (answer,) = answer_prompts(self.host, self.compressor, self.encoding, prompts, reading, **options)
        return answer

    def ask_batch(
        self,
        prompts: Sequence[tuple[MediaFile | Media | EncodedClip, str]],
        *,
        fps: float = 2.0,
        max_frames: int = 256,
        max_pixels: int | None = None,
        sampling: Sampling = "time",
        max_decoded_pixels: int = MAX_DECODED_PIXELS,
        read_timeout: float = READ_TIMEOUT,
        text: TextKind = None,
        max_new_tokens: int = 256,
        system: str | None = None,
        on_stage: Callable[[str], None] | None = None,
    ) -> list[Answer]:
        """Answer several questions together; `ask` is a batch of one.

        Prompts of clips with equal modalities share one call of ``generate``. Questions about an `EncodedClip` share
        its encoding, so only the first of them runs the encoders. All clips are in memory at once.

        Args:
            prompts: (clip, question) pairs; clips as in `ask`.
            fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text, max_new_tokens, system,
                on_stage: as in `ask`, for all prompts; the two limits hold for each clip.

        Returns:
            One answer per prompt, in their order. The seconds of a shared call are divided evenly among its prompts,
            and each report has the peak memory of the call.

        Raises:
            MediaError: a file cannot be read as asked; `TooBig` also if a prompt exceeds the model's context.
            UsageError: a question is empty, an argument is out of range, or a clip was encoded by another model.
        """
        reading = _reading(fps, max_frames, max_pixels, sampling, max_decoded_pixels, read_timeout, text)
        options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "system": system, "on_stage": on_stage}
        return answer_prompts(self.host, self.compressor, self.encoding, prompts, reading, **options)


def _reading(*values: Any) -> dict[str, Any]:
    """Values of the fields of `ReadOptions`, in their order, by their names, and ``text``."""
    return dict(zip((*option_names(ReadOptions), "text"), values, strict=True))
