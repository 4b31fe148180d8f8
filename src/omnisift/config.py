"""The options that commands, engines, plugins and training share: how a prompt is compressed, how a clip is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from omnisift.errors import BudgetError, UsageError
from omnisift.utils.names import AUTO
from omnisift.utils.parsing import shown
from omnisift.utils.suggest import check_choice, meant

# `omnisift --help` is built from these fields, so that this module must not import torch or PyAV when it is imported.
if TYPE_CHECKING:
    from typing_extensions import Self

    from omnisift.budget import Budget
    from omnisift.media.subtitles import TextKind


class _Options:
    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the record from plain values, for example from JSON.

        Raises:
            UsageError: a key is not one of the fields.
        """
        known = option_names(cls)
        unknown = sorted(values.keys() - set(known))
        if unknown:
            listed = f"{', '.join(known)}{meant(unknown[0], known)}"
            raise UsageError(f"{cls.__name__} has no option {unknown[0]!r}; it has: {listed}")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class CompressionConfig(_Options):
    """Which method compresses a prompt, and how many tokens stay. Other records of settings extend it."""

    compressor: str = AUTO
    """A method as `make_compressor` takes it, with its options, or a pair; ``full`` or ``none`` keeps every token.
    ``auto`` is ``omnisift`` for a model with a selector and ``resift`` for all others and for the bundled ones."""
    retain: float | None = None
    """Fraction of video and audio tokens kept together, in (0, 1], split as `Budget` says; 0.25 if none is given."""
    retain_video: float | None = None
    """Fraction of video tokens kept; given together with ``retain_audio`` instead of ``retain``."""
    retain_audio: float | None = None
    """Fraction of audio tokens kept."""
    tokens: int | None = None
    """Video and audio tokens kept of each clip, exactly, whatever its length; instead of a fraction."""
    compress_audio: bool = False
    """Whether audio outside a video is compressed too; else it is kept in full."""
    selector: str | None = None
    """Folder of selector weights; None looks into the model's own checkpoint."""
    seed: int = 0
    """Random seed, for methods that sample."""

    @property
    def compression(self) -> dict[str, Any]:
        """The values as keyword arguments of `omnisift.load` and `omnisift.attach`."""
        return {name: getattr(self, name) for name in option_names(CompressionConfig)}

    @property
    def keeps_all(self) -> bool:
        """Whether no method runs and every token is kept."""
        from omnisift.compressors import reads_all_tokens

        return reads_all_tokens(self.compressor)

    @property
    def budget(self) -> Budget:
        """What is kept: what was given, or `omnisift.budget.DEFAULT_RETAIN`; everything where `keeps_all`.

        Raises:
            BudgetError: a value is out of range, or the combination is incomplete or ambiguous.
        """
        from omnisift.budget import Budget

        given = Budget.from_options(self.retain, self.retain_video, self.retain_audio, self.tokens, self.compress_audio)
        return Budget(retain=1.0) if self.keeps_all else given

    def check(self) -> None:
        """Check the values before a model is loaded.

        Raises:
            BudgetError: a value is out of range, or the combination is incomplete or ambiguous.
            CompressorError: ``auto`` has options or is part of a pair.
            UsageError: a selector is given and the method takes none.
        """
        from omnisift.compressors import check_selector, resolve_method

        if not isinstance(self.compressor, str):
            raise UsageError(
                f"compressor must be the name of a method, got {type(self.compressor).__name__}: "
                "omnisift.attach takes a Compressor"
            )
        self.budget  # noqa: B018 - raises
        resolve_method(self.compressor)
        check_selector(self.selector, self.compressor)


@dataclass(frozen=True, kw_only=True)
class EncodingOptions(_Options):
    """Which tokens of a video the vision encoder computes. By default all of them."""

    retain_encoded: float | None = None
    """Fraction of the tokens of every frame that are encoded, in (0, 1], chosen by their pixels. The others are dropped
    before, so it is at least the fraction of video that is kept. None encodes all."""
    still_threshold: float | None = None
    """Windows of a frame whose patches differ from the last encoded ones by at most this mean difference of 8-bit
    values are not encoded again, for fixed cameras and screens. None encodes all."""

    @property
    def encoding(self) -> dict[str, Any]:
        """The values as keyword arguments of `omnisift.load` and `omnisift.Pipeline.with_compressor`."""
        return {name: getattr(self, name) for name in option_names(EncodingOptions)}

    def check_encoding(self, *, compresses: bool) -> None:
        """Check the values before a clip is read.

        Args:
            compresses: whether a method compresses the prompt.

        Raises:
            BudgetError: ``retain_encoded`` is out of range.
            UsageError: ``still_threshold`` is out of range, both are given, or nothing is compressed.
        """
        share, threshold = self.retain_encoded, self.still_threshold
        if share is None and threshold is None:
            return
        if share is not None and threshold is not None:
            raise UsageError("retain_encoded and still_threshold were both given; give one of them")
        if not compresses:
            raise UsageError("retain_encoded and still_threshold need a compressor; name one, or leave them out")
        if share is not None and not (_is_number(share) and 0 < share <= 1):
            raise BudgetError(
                f"retain_encoded is the fraction of tokens that are encoded, in (0, 1], got {shown(share)}"
            )
        if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 255):
            raise UsageError(f"still_threshold is a difference of 8-bit values, from 0 to 255, got {shown(threshold)}")


@dataclass(frozen=True, kw_only=True)
class ReadOptions(_Options):
    """How a clip is read. Other records of settings extend it."""

    fps: float = 2.0
    """Frames sampled per second; lowered for the whole clip where ``max_frames`` caps it."""
    max_frames: int = 256
    """Maximum number of frames."""
    max_pixels: int | None = None
    """Maximum pixels per frame; None means the paper's 320 x 28 x 28 or the processor's limit."""
    sampling: str = "time"
    """``time``, or ``qwen`` for the index rule of published results."""
    max_decoded_pixels: int = 2_000_000_000_000
    """Maximum pixels of all frames that are decoded for one clip; the default is four hours of 1080p at 60 frames per
    second, if every frame must be decoded."""
    read_timeout: float = 3600.0
    """Maximum seconds to read one clip."""

    @property
    def reading(self) -> dict[str, Any]:
        """The values as keyword arguments of `omnisift.Pipeline.read` and `omnisift.Pipeline.ask`."""
        return {name: getattr(self, name) for name in option_names(ReadOptions)}

    def check(self) -> None:
        """Check the values before a clip is read.

        Raises:
            UsageError: a value is out of range.
        """
        from omnisift.media import smart_size
        from omnisift.media.sampling import check_numbers
        from omnisift.media.work import check_budget

        check_choice("sampling", self.sampling, ("time", "qwen"))
        check_numbers(self.fps, self.max_frames, 0.0, None, 1.0)
        check_budget(self.max_decoded_pixels, self.read_timeout)
        if self.max_pixels is not None:
            smart_size(28, 28, min_pixels=1, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class TextOptions(_Options):
    """Whether a clip's subtitles are put into the prompt, and how many of their tokens stay."""

    text: TextKind = None
    """``subtitles`` reads the lines of the file beside the clip, or else of its first text track; None reads none."""
    retain_text: float | None = None
    """Fraction of the tokens of subtitles that is kept, in (0, 1]; None keeps all that `Budget` allows."""

    def check_text(self) -> None:
        """Check the values before a clip is read.

        Raises:
            BudgetError: ``retain_text`` is out of range.
            UsageError: ``text`` is nothing that can be read, or ``retain_text`` is given without it.
        """
        from omnisift.budget import Budget
        from omnisift.media.subtitles import check_text

        check_text(self.text)
        if self.text is None and self.retain_text is not None:
            raise UsageError("retain_text is for the tokens of subtitles, which text='subtitles' reads: add it")
        Budget(retain=1.0, retain_text=self.retain_text)


@dataclass(frozen=True, kw_only=True)
class ServedReadOptions(ReadOptions):
    """How a clip of a stranger is read: with tighter limits on the work. Other records of settings extend it."""

    max_decoded_pixels: int = 100_000_000_000
    """As in `ReadOptions`; the default is half an hour of 1080p at 25 frames per second."""
    read_timeout: float = 60.0


WORK_LIMITS = ("max_decoded_pixels", "read_timeout")
"""Fields of `ReadOptions` that bound the work and don't change what is read."""


def option_names(record: type) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [field.name for field in fields(record)]


def parse_yaml(text: str, source: str) -> Any:
    """Parse YAML text.

    Args:
        text: the text.
        source: where it came from, for the message.

    Raises:
        UsageError: it is not YAML, is nested too deeply, gives a key twice, or has a value that Python can't hold.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses a key that a mapping gives twice; YAML does too, but its library keeps the last value."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
                if (key.tag, key.value) in seen:
                    problem = f"the key {shown(key.value)} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add((key.tag, key.value))
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
    except RecursionError:
        reason = "it is nested too deeply"
    except (ValueError, OverflowError) as error:  # such as a date that does not exist, or a number of 5000 digits
        reason = str(error)
    raise UsageError(f"{source} is not YAML: {reason}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
