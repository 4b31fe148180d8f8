"""`StreamSession`: pieces of a stream go in as they come, and questions are answered at any moment."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from omnisift.budget import Budget
from omnisift.compressors import Compressor
from omnisift.errors import TooBig, UsageError
from omnisift.media.image import scale_image, smart_size
from omnisift.media.lines import Line
from omnisift.media.pieces import Piece
from omnisift.models import adapter_for
from omnisift.models.attachment import check_unattached, model_lock
from omnisift.models.short_prompt import VIDEO_MARKS
from omnisift.models.window_attention import batched_windows
from omnisift.pipeline.clip_format import frame_factor, frame_limits, hears
from omnisift.pipeline.context import context_length
from omnisift.pipeline.encoded_clip import PromptRow
from omnisift.pipeline.generation import Generated, generate
from omnisift.pipeline.loading import Host
from omnisift.pipeline.prompt import check_prompt
from omnisift.streaming.assembler import Assembler, Images, Unit
from omnisift.streaming.cache import StreamCache
from omnisift.streaming.checks import check_context, check_kept, check_piece, check_stream, clean_line, stream_method
from omnisift.streaming.encoder import KeptUnit, UnitEncoder
from omnisift.streaming.layout import StreamLayout
from omnisift.streaming.lines import UnitLines, WaitingLines, free_position, reach
from omnisift.streaming.policies import Clock, HeldTokens, Policy
from omnisift.streaming.question import question_row
from omnisift.streaming.report import StreamAnswer, StreamReport
from omnisift.streaming.short_clip import last_position
from omnisift.streaming.state import State
from omnisift.tokens import Modality
from omnisift.utils.questions import check_max_new_tokens

_WAITING_PIECES = 4096
"""Pieces that wait for the first image; the oldest are left out."""


class StreamSession:
    """A stream of one model, which `Pipeline.stream` opens. As a context manager it closes at the end of the block.

    Pieces are put in their places by time (`omnisift.Piece`); each complete unit of a few seconds is encoded,
    compressed, and read into the language model's cache, where a policy decides what stays. A question reads its own
    tokens alone and leaves nothing behind. Threads may feed and ask at once: they wait for each other.

    Args:
        host: the model, without an attachment.
        compressor: the method; None keeps every token. The default method is made causal.
        keep: which older tokens stay.
        fps: images per second.
        max_pixels: maximum pixels per image; None means that of `Pipeline.ask`.
        audio: whether the stream has sound; None means yes if the model takes audio.
        system: a system prompt; None sends none.
        peak: the largest value of the whole stream's spectrogram before its floor, which files can know; None takes the
            largest value so far.

    Raises:
        CompressorError: the method looks at the whole clip, or does not fit the policy.
        UnsupportedModel: the model can't read a prompt part by part.
        UsageError: an argument is out of range.
    """

    def __init__(
        self,
        host: Host,
        compressor: Compressor | None,
        keep: Policy,
        *,
        fps: float = 2.0,
        max_pixels: int | None = None,
        audio: bool | None = None,
        system: str | None = None,
        peak: float | None = None,
    ) -> None:
        self.host, self.policy, self.system = host, keep, system
        self.compressor = stream_method(compressor, keep)
        self.has_audio = hears(host.processor) if audio is None else audio
        check_stream(host, self.compressor, fps, audio=self.has_audio, peak=peak)
        self.fps = float(fps)
        if system is not None:
            check_prompt(host.processor, "x", system)
        self._limits = frame_limits(host.processor, max_pixels)
        self._peak = peak
        self._state: State | None = None
        self._waiting: list[Piece] = []
        self._lines = WaitingLines()
        self._turns: list[tuple[str, str]] = []
        self._closed = self._is_asked = False

    def __enter__(self) -> StreamSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free what the session holds. It takes no more pieces or questions."""
        with self._lock:
            self._closed, self._state, self._waiting, self._lines = True, None, [], WaitingLines()

    @property
    def _lock(self) -> AbstractContextManager[Any]:
        return model_lock(self.host.thinker)

    # --- pieces

    @torch.no_grad()
    def feed(self, piece: Piece | Line) -> int:
        """Take the next piece; when it completes a unit, the unit is encoded and read before this returns.

        Args:
            piece: an image, samples, or both; or a line of text, which the unit reads in which it begins, or the next
                one if it comes late.

        Returns:
            Units that were read.

        Raises:
            UsageError: the piece is wrong, or the session is closed.
            TooBig: the stream has more tokens or positions than the model's context: the unit and its lines are
                missing, so choose another policy. Or a line is too long.
        """
        if isinstance(piece, Line):
            line = clean_line(piece, self.host.processor)
            with self._lock:
                self._check_open()
                if line is not None:
                    self._lines.add(line)
                return 0
        check_piece(piece)
        with self._lock:
            self._check_open()
            if self._state is None:
                if piece.image is None:
                    self._waiting.append(copy.deepcopy(piece))
                    del self._waiting[:-_WAITING_PIECES]
                    return 0
                self._state = self._begin(piece.image)
            pieces, self._waiting = [*self._waiting, piece], []
            count = 0
            for part in pieces:
                self._state.assembler.add(part)
                for unit in self._state.assembler.ready():
                    count += self._commit(self._state, unit)
            return count

    def _begin(self, image: Images) -> State:
        """Fix the size of images by the first, and read the prompt before the stream."""
        host = self.host
        lowest, highest = self._limits
        size = smart_size(*image.shape[:2], factor=frame_factor(host.processor), min_pixels=lowest, max_pixels=highest)
        layout = StreamLayout(host, self.fps, size, has_audio=self.has_audio, system=self.system)
        language_model: Any = adapter_for(host.thinker).parts.language_model
        check_unattached(language_model, type(host.thinker).__name__)
        cache = StreamCache(language_model, keeps_read=self.policy.moves and host.dtype.itemsize < 4)
        encoder = UnitEncoder(host, self.compressor, layout, self._peak)
        following = host.processor.feature_extractor.n_fft if self.has_audio else 0
        assembler = Assembler(
            self.fps, layout.unit_images, layout.unit_samples, following, lambda found: scale_image(found, size)
        )
        none = torch.zeros(0, dtype=torch.int64)
        state = State(layout, assembler, encoder, cache, HeldTokens.empty(), none, lines=self._lines)
        self.policy.check(self._clock(state), self._context)
        ids, positions = layout.before
        cache.append(language_model.get_input_embeddings()(ids.to(host.device)), positions)
        cache.fix()
        return state

    def _commit(self, state: State, unit: Unit) -> bool:
        """Read a unit that is no gap into the cache, after the policy decided what stays; returns whether it did.

        Where something fails, or is interrupted, the unit is missing, and the session is as before. Its lines wait for
        the next one, unless it has too many tokens, for so would the next one.
        """
        if not unit.images:
            return False
        waiting = state.waiting(unit.number)
        try:
            self._append(state, unit, waiting)
        except TooBig as error:
            state.lines.drop(len(waiting))
            lost = f"; {len(waiting)} line(s) of text are left out with it" if waiting else ""
            raise TooBig(f"{error}{lost}") from None
        return True

    def _append(self, state: State, unit: Unit, waiting: list[Line]) -> None:
        """Read a unit with the lines that wait for it."""
        encoder, cache = state.encoder.fork(), state.cache.fork()
        lines = state.unit_lines(unit.number, waiting, self.host.processor, self._context)
        kept = self._encoded(encoder, unit, lines)
        begin = time.perf_counter()
        held, read, start = self._after_policy(state, cache, unit.number)
        self._read(state, cache, kept, start)
        # What is known of the new tokens.
        offset = kept.position_ids[0] - state.layout.origin
        new = HeldTokens(
            unit=torch.full_like(offset, unit.number),
            offset=offset,
            time=offset + start,
            modality=kept.modality,
            score=kept.score,
            rank=kept.rank,
            size=kept.size,
        )
        lead = state.lead_of(unit.number) - kept.tokens.length
        if lines is not None:
            lead = free_position(kept.tokens, state.layout)
        elif len(held) < len(state.held):
            # What was dropped takes no positions.
            lead = min(lead, reach(held, start + kept.tokens.length))
        state.lead = lead
        state.lines.drop(len(waiting))
        state.encoder, state.cache, state.last = encoder, cache, kept.tokens
        state.next, state.start = unit.number + 1, start + kept.tokens.length
        state.held, state.read = held.followed_by(new), torch.cat([read, new.time])
        state.units += 1
        state.seconds["encode"] += encoder.encode_seconds
        state.seconds["compress"] += encoder.compress_seconds
        state.seconds["read"] += time.perf_counter() - begin

    def _encoded(self, encoder: UnitEncoder, unit: Unit, lines: UnitLines | None) -> KeptUnit:
        """Encode and compress a unit with its lines."""
        with batched_windows(self.host.thinker):
            kept = encoder.encode(unit, lines)
        if self.compressor is not None:
            check_kept(kept, self.compressor, self.policy)
        return kept

    def _after_policy(self, state: State, cache: StreamCache, unit: int) -> tuple[HeldTokens, Tensor, int]:
        """Drop and move tokens of a cache before a unit is read, so that every unit is read at low positions.

        Returns:
            New values of `State.held` and ``read``, and where the unit begins.
        """
        held, read = state.held, state.read
        plan = self.policy.plan(held, self._clock(state, unit))
        if not bool(plan.keep.all()):
            index = torch.nonzero(plan.keep)[:, 0]
            cache.select(index)
            held, read = held.rows(index), read[index]
        if plan.time is not None:
            held = replace(held, time=plan.time)
            cache.move((plan.time - read) * state.layout.moving(held.modality))
        return held, read, plan.start

    def _clock(self, state: State, unit: int = 0) -> Clock:
        layout = state.layout
        sizes = state.encoder.sizes
        return Clock(unit, float(layout.unit_seconds), layout.unit_ids, state.start_of(unit), sizes, layout.gap_ids)

    def _read(self, state: State, cache: StreamCache, kept: KeptUnit, start: int) -> None:
        """Let the language model read what is kept of a unit, which begins at ``start``, as `HeldTokens.time`."""
        positions = kept.position_ids + start * state.layout.moving(kept.modality)
        check_context(self._context, len(cache) + len(kept.modality), int(positions.max()) + 1)
        side_inputs = dict[str, Any]()
        if kept.media.marked:
            marks = (kept.modality == Modality.VIDEO).unsqueeze(0).to(self.host.device)
            side_inputs = {VIDEO_MARKS: marks, **kept.media.marked}
        cache.append(kept.media.embeds.to(self.host.dtype), positions, side_inputs)

    @property
    def _context(self) -> int | None:
        return self.host.max_length or context_length(self.host.thinker.config)

    # --- questions

    @torch.no_grad()
    def ask(
        self,
        question: str,
        *,
        follow_up: bool = False,
        max_new_tokens: int = 256,
        on_text: Callable[[str], None] | None = None,
    ) -> StreamAnswer:
        """Answer a question about the stream so far, with greedy decoding. Pieces of an unfinished unit are seen.

        The stream itself never sees a question: later answers are those of a stream that was not asked.

        Args:
            question: a question in the model's language.
            follow_up: whether it follows the questions and answers since the last one that did not, or since `forget`.
            max_new_tokens: maximum number of generated tokens.
            on_text: called with each piece of the answer as it is generated; it may close the session, not use it.

        Raises:
            UsageError: the question is empty, an argument is out of range, no image came yet, or the session is closed.
            TooBig: stream, question and answer exceed the model's context.
        """
        check_prompt(self.host.processor, question, self.system)
        check_max_new_tokens(max_new_tokens)
        begin = time.perf_counter()
        with self._lock:
            self._check_open()
            state = self._state
            if state is None:
                raise UsageError("no image came yet: feed the stream before asking about it")
            turns = self._turns if follow_up else []
            row, end = self._prompt(state, turns, question, max_new_tokens)
            options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "on_stage": lambda _: None}
            self._is_asked = True
            try:
                (answer,) = generate(self.host, None, [row], **options, on_text=on_text)
            finally:
                self._is_asked = False
            self._turns = [*turns, (question, answer.text)]
            return self._answer(answer, end, begin, time.perf_counter())

    def _prompt(
        self, state: State, turns: list[tuple[str, str]], question: str, max_new_tokens: int
    ) -> tuple[PromptRow, float]:
        """A question behind the stream, and the seconds of the stream that it is about."""
        cache, number = state.cache, state.assembler.unit - 1
        unfinished, tokens = state.assembler.unfinished(), state.last or state.layout.unit
        start, lead = state.start_of(state.assembler.unit) - tokens.length, state.lead_of(state.assembler.unit)
        if unfinished is not None:
            lines = state.seen_lines(unfinished.number, self.host.processor, self._context)
            kept = self._encoded(state.encoder.fork(), unfinished, lines)
            cache, number, tokens = cache.fork(), unfinished.number, kept.tokens
            start, lead = state.start_of(number), state.lead_of(number) - tokens.length
            lead = lead if lines is None else free_position(tokens, state.layout)
            self._read(state, cache, kept, start)
        else:
            cache, lead = self._with_late_lines(state, lead)
        if number < 0:
            raise UsageError("no image came yet: feed the stream before asking about it")
        moved = tokens.position_ids + start * state.layout.moving(tokens.modality)
        free = state.layout.origin + start + tokens.length + lead
        ids, positions = state.layout.after(turns, question, last_position(moved, tokens.modality), free)
        highest = max(int(moved.max()), free - 1)
        width, limit = len(cache) + len(ids), self._context
        if limit is not None and max(width, highest + 1, int(positions[-1]) + 1) + max_new_tokens > limit:
            raise TooBig(
                f"the stream has {len(cache)} tokens and {highest} positions, the question {len(ids)} and the answer "
                f"up to {max_new_tokens}, but the context is {limit}: let the policy hold less, or lower max_new_tokens"
            )
        return question_row(state.layout, cache, ids, positions), state.assembler.end

    def _with_late_lines(self, state: State, lead: int) -> tuple[StreamCache, int]:
        """The cache with lines for which no unit is there yet, behind it; and the new value of `State.lead`."""
        number = state.assembler.unit
        lines = state.seen_lines(number, self.host.processor, self._context)
        if lines is None:
            return state.cache, lead
        cache, count = state.cache.fork(), len(lines.ids)
        begin = state.layout.origin + state.start_of(number) + max(0, lead)
        check_context(self._context, len(cache) + count, begin + count)
        table: Any = adapter_for(self.host.thinker).parts.language_model
        embeds = table.get_input_embeddings()(lines.ids.to(self.host.device))
        cache.append(embeds, torch.arange(begin, begin + count).expand(3, -1))
        return cache, max(0, lead) + count

    def _answer(self, answer: Generated, end: float, begin: float, now: float) -> StreamAnswer:
        first = now - begin - answer.seconds["decode"]
        return StreamAnswer(answer.text, end, first, now - begin, answer.tokens.generated, self.report, answer.thinking)

    def forget(self) -> None:
        """Drop the questions and answers that ``follow_up`` would continue."""
        with self._lock:
            self._turns = []

    # --- what is held

    @property
    def unit_seconds(self) -> float | None:
        """Seconds of a unit; None until the first image came."""
        return None if self._state is None else float(self._state.layout.unit_seconds)

    @property
    def budget(self) -> Budget | None:
        """What is kept of each modality: the method's budget for whole units. None until the first image came."""
        return None if self._state is None else self._state.encoder.budget

    @property
    def report(self) -> StreamReport:
        """What the session has read, holds, and dropped."""
        with self._lock:
            return StreamReport.empty() if self._state is None else self._state.report

    def _check_open(self) -> None:
        if self._closed:
            raise UsageError("the stream is closed: open another one with Pipeline.stream")
        if self._is_asked:
            raise UsageError("on_text can't feed or ask while the answer is generated: do so afterwards")
