"""`Compression`: what was kept of one prompt. Data only, all on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from omnisift.tokens import Modality


@dataclass(frozen=True, repr=False)
class Compression:
    """Which tokens of a prompt were kept. ``B`` rows of ``S`` prompt tokens, padding included.

    Logits and hidden states of the compressed call have length ``K``, the largest kept length of the batch. Token ``j``
    of row ``b`` is the ``j``-th kept token of that row in the prompt; padding is not counted in either.
    """

    modality: Tensor
    """[B, S] int8: `Modality` of each token. Images count as TEXT, and so does audio outside a video unless it is
    compressed: they are never dropped."""
    keep: Tensor
    """[B, S] bool: False where the token was dropped. Padding is True."""
    scores: Tensor | None = None
    """[B, S] float32, higher is kept, NaN where not scored; None if the method has no scores."""

    def __repr__(self) -> str:
        text = f", {self.kept_text} of {self.n_text} text tokens" if self.n_text else ""
        return (
            f"Compression(kept {self.kept_video} of {self.n_video} video tokens, "
            f"{self.kept_audio} of {self.n_audio} audio tokens{text}; {self.retained_ratio:.1%})"
        )

    def _repr_html_(self) -> str:
        """A small table for notebooks."""
        counts = [("video", self.n_video, self.kept_video), ("audio", self.n_audio, self.kept_audio)]
        counts += [("text", self.n_text, self.kept_text)] if self.n_text else []
        counts.append(("all" if self.n_text else "both", *self._total))
        rows = "".join(
            f"<tr><td>{name}</td><td>{n}</td><td>{k}</td><td>{k / max(1, n):.1%}</td></tr>" for name, n, k in counts
        )
        return f"<table><tr><th>tokens</th><th>prompt</th><th>kept</th><th>share</th></tr>{rows}</table>"

    @property
    def n_video(self) -> int:
        """Video tokens of the prompt, all rows."""
        return sum(self.n_video_rows)

    @property
    def n_audio(self) -> int:
        """Audio tokens of clips, all rows."""
        return sum(self.n_audio_rows)

    @property
    def kept_video(self) -> int:
        """Video tokens that were kept, all rows."""
        return sum(self.kept_video_rows)

    @property
    def kept_audio(self) -> int:
        """Audio tokens of clips that were kept, all rows."""
        return sum(self.kept_audio_rows)

    @property
    def n_text(self) -> int:
        """Subtitle tokens of clips, all rows."""
        return sum(self.n_text_rows)

    @property
    def kept_text(self) -> int:
        """Subtitle tokens of clips that were kept, all rows."""
        return sum(self.kept_text_rows)

    @property
    def n_video_rows(self) -> list[int]:
        """`n_video` of each row."""
        return self._count(Modality.VIDEO, kept=False)

    @property
    def n_audio_rows(self) -> list[int]:
        """`n_audio` of each row."""
        return self._count(Modality.AUDIO, kept=False)

    @property
    def kept_video_rows(self) -> list[int]:
        """`kept_video` of each row."""
        return self._count(Modality.VIDEO, kept=True)

    @property
    def kept_audio_rows(self) -> list[int]:
        """`kept_audio` of each row."""
        return self._count(Modality.AUDIO, kept=True)

    @property
    def n_text_rows(self) -> list[int]:
        """`n_text` of each row."""
        return self._count(Modality.SUBTITLE, kept=False)

    @property
    def kept_text_rows(self) -> list[int]:
        """`kept_text` of each row."""
        return self._count(Modality.SUBTITLE, kept=True)

    @property
    def retained_ratio(self) -> float:
        """Measured fraction of video, audio and subtitle tokens that were kept, 0 to 1."""
        total, kept = self._total
        return kept / max(1, total)

    @property
    def _total(self) -> tuple[int, int]:
        """All tokens that the budget counts, and those of them that were kept."""
        return self.n_video + self.n_audio + self.n_text, self.kept_video + self.kept_audio + self.kept_text

    def _count(self, modality: Modality, *, kept: bool) -> list[int]:
        mask = self.modality == int(modality)
        counts: list[int] = (mask & self.keep if kept else mask).sum(dim=1).tolist()
        return counts
