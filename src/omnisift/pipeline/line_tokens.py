"""The tokens of a clip's lines of text, and their place in the inputs of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from omnisift.chunks import MICROSECONDS
from omnisift.media.lines import Line
from omnisift.models.layout import PromptLines
from omnisift.utils.questions import check_text
from omnisift.utils.special_tokens import SpecialTokens


@dataclass(frozen=True)
class LineTokens:
    """The lines of one clip, tokenised one by one, so that no line changes the tokens of another."""

    ids: Tensor
    """[1, M] int64."""
    lengths: tuple[int, ...]
    """Tokens of each line."""
    times: tuple[int, ...]
    """When each line begins, in microseconds."""

    @classmethod
    def of(cls, processor: Any, lines: Sequence[Line], source: object) -> LineTokens | None:
        """Tokenise lines; None if there are none.

        Args:
            processor: of the model.
            lines: in order of their times.
            source: where they come from, for the message.

        Raises:
            UsageError: a line contains a special token of the model.
        """
        special = SpecialTokens.of(processor.tokenizer)
        found = list[tuple[int, list[int]]]()
        for line in lines:
            check_text(line.text, f"{source}: the subtitle at {line.start:.1f} s", special)
            ids = processor.tokenizer(f"{line.text}\n", add_special_tokens=False)["input_ids"]
            found.append((round(line.start * MICROSECONDS), ids))
        found = [(time, ids) for time, ids in found if ids]
        if not found:
            return None
        joined = torch.tensor([[token for _, ids in found for token in ids]])
        return cls(joined, tuple(len(ids) for _, ids in found), tuple(time for time, _ in found))

    def inserted(self, inputs: Mapping[str, Any], begin: int) -> tuple[dict[str, Any], PromptLines]:
        """Put the lines into the inputs of one prompt.

        Args:
            inputs: those of ``generate``, [1, S].
            begin: how many of its S tokens are before them: those up to the end of the clip.

        Returns:
            Inputs of [1, S + M], and where the lines are.
        """
        ids = inputs["input_ids"]
        fill = {"input_ids": self.ids.to(ids.dtype), "attention_mask": torch.ones_like(self.ids)}
        longer = dict(inputs)
        for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids"):
            if name in inputs:
                value = inputs[name]
                part = fill.get(name, torch.zeros_like(self.ids)).to(value.dtype)
                longer[name] = torch.cat([value[:, :begin], part, value[:, begin:]], dim=1)
        return longer, PromptLines(begin, self.lengths, self.times)


def closing_marks(processor: Any, after: Sequence[int]) -> int:
    """How many tokens of the text behind a clip are the marks that close it, such as ``<|vision_eos|>``."""
    special = {token for token, known in processor.tokenizer.added_tokens_decoder.items() if known.special}
    return next((place for place, token in enumerate(after) if token not in special), len(after))
