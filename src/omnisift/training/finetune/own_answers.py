"""The model's own answers, with all tokens and before training, as what the rows of a run teach."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omnisift.errors import UsageError
from omnisift.pipeline.generation import greedy_arguments, until_stop
from omnisift.pipeline.loading import Host
from omnisift.training.data import Collator, Sample, Turn
from omnisift.training.data.unanswered import NO_ANSWER
from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.recipe import TrainRecipe
from omnisift.training.finetune.run_folder import OWN_ANSWERS, is_new
from omnisift.training.finetune.validation import answer_spans, cut_prompts
from omnisift.utils.jsonl import JsonLines
from omnisift.utils.parsing import is_text

_POLL_SECONDS = 1.0
"""How often a process looks for what others write."""


def with_own_answers(
    recipe: TrainRecipe,
    host: Host,
    model: CompressedModel,
    samples: Sequence[Sample],
    collator: Collator,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Sample], dict[str, str]]:
    """Let the untrained model answer the last question of every sample greedily, with all tokens.

    Answers are kept in the run's folder, so that each row is answered once; the processes of a run share the work.

    Args:
        recipe: the run's settings.
        host: the model and its processor.
        model: what will be trained; not yet wrapped for several processes.
        samples: the training data.
        collator: as for training.
        on_progress: called with the stage ``"answering"``.

    Returns:
        The samples that have an answer, of which only this one is learned; and sample id -> why another has none.

    Raises:
        UsageError: no sample has an answer, or the file of answers holds something else.
    """
    lines = JsonLines(Path(recipe.output_dir) / OWN_ANSWERS)
    asked = {_key(question): question for question in map(_question, samples)}
    world, rank = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", "1"), ("RANK", "0")))
    while rank and is_new(lines.path.parent):
        time.sleep(_POLL_SECONDS)  # until the first process has checked and made the folder
    known = _known(lines)
    mine = [key for key in list(asked)[rank::world] if key not in known]
    for number, key in enumerate(mine, start=1):
        lines.append({"key": key, **_answer(host, model, asked[key], collator, recipe)})
        if on_progress is not None and not rank:
            on_progress("answering", number, len(mine))
    while asked.keys() - (known := _known(lines)).keys():
        time.sleep(_POLL_SECONDS)  # another process answers these
    answered, unanswered = [], dict[str, str]()
    for sample in samples:
        question = _question(sample)
        found = known[_key(question)]
        if "answer" in found:
            answered.append(replace(question, turns=(*question.turns[:-1], Turn("assistant", found["answer"]))))
        else:
            unanswered[sample.id] = found["skipped"]
    if not answered:
        raise UsageError(f"no row has an answer of the model; the first: {next(iter(unanswered.values()))}")
    return answered, unanswered


def _question(sample: Sample) -> Sample:
    """The sample up to its last question, with an answer in place of which the model's own is put."""
    last = max(number for number, turn in enumerate(sample.turns) if turn.role == "user")
    asked = tuple(replace(turn, learned=turn.role != "assistant") for turn in sample.turns[: last + 1])
    return replace(sample, turns=(*asked, Turn("assistant", NO_ANSWER)))


def _key(question: Sample) -> str:
    """Digest of everything that the answer depends on, besides the run."""
    return hashlib.sha256(repr(replace(question, id="")).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def _known(lines: JsonLines) -> dict[str, dict[str, str]]:
    """Key -> ``answer``, or ``skipped`` with the reason.

    Raises:
        UsageError: a line is not one that `with_own_answers` writes.
    """
    known = {}
    for number, line in lines.records():
        kinds = [{"key", "answer"}, {"key", "skipped"}]
        if not isinstance(line, dict) or line.keys() not in kinds or not all(map(is_text, line.values())):
            raise UsageError(f"{lines.path}:{number} is no answer of a run; delete the line")
        known[line["key"]] = line
    return known


def _answer(
    host: Host, model: CompressedModel, question: Sample, collator: Collator, recipe: TrainRecipe
) -> dict[str, str]:
    batch = collator([question])
    reason = batch.pop("skipped").get(question.id)
    if reason is not None:
        return {"skipped": reason}
    device = next(model.thinker.parameters()).device
    batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    ((begin, _),) = answer_spans(batch["labels"])
    texts = cut_prompts(batch, [begin], host.stop_tokens["pad_token_id"])
    prompt = {name: value for name, value in batch.items() if name not in ("labels", "frame_seconds", *texts)}
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=recipe.in_bfloat16)
    with model.untrained() as thinker, autocast:
        arguments: dict[str, Any] = {**greedy_arguments(thinker), **host.stop_tokens}
        output = thinker.generate(**prompt | texts, max_new_tokens=recipe.max_new_tokens, **arguments)
    tokens = until_stop(output[0, texts["input_ids"].shape[1] :], host.stop_tokens["eos_token_id"])
    text = host.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return {"answer": text} if text else {"skipped": "the model's own answer is empty"}
