"""Validation during training: loss, and the share of short answers that the model generates, on compressed prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from omnisift.errors import TrainingError
from omnisift.evaluation.public.extractors import normalise_answer
from omnisift.models.prompt_cut import IGNORE_INDEX
from omnisift.models.training_checks import assert_compressed
from omnisift.pipeline.generation import greedy_arguments, until_stop
from omnisift.pipeline.loading import Host
from omnisift.training.data import Collator, Sample
from omnisift.training.finetune.compressed_model import CompressedModel

logger = logging.getLogger(__name__)
SHORT_ANSWER = 32
"""Characters up to which an answer of one line is short: it is then generated and compared word for word."""


def is_short(answer: str) -> bool:
    """Whether an answer is one line of at most `SHORT_ANSWER` characters."""
    text = answer.strip()
    return 0 < len(text) <= SHORT_ANSWER and "\n" not in text


def has_short_answer(sample: Sample) -> bool:
    """Whether the last answer of a conversation that is learned is short."""
    answers = [turn.text for turn in sample.turns if turn.role == "assistant" and turn.learned]
    return bool(answers) and is_short(answers[-1])


class Validation:
    """The validation set of a run. The batches are divided among the processes that train together.

    Args:
        host: the model and its processor.
        samples: the validation data.
        collator: as for training.
        batch_size: samples per forward pass.
        workers: worker processes that read clips ahead.
    """

    def __init__(self, host: Host, samples: Sequence[Sample], collator: Collator, batch_size: int, workers: int):
        self._tokenizer, self._stop_tokens = host.processor.tokenizer, host.stop_tokens
        self._samples, self._collator = samples, collator
        self._batch_size, self._workers = batch_size, workers

    def measure(
        self,
        model: CompressedModel,
        prepare: Callable[[dict[str, Any]], dict[str, Any]],
        autocast: Callable[[], AbstractContextManager[Any]],
        generates: bool = True,
    ) -> dict[str, float]:
        """Measure the model; all processes get the same result.

        Args:
            model: what is trained; it is left in training mode.
            prepare: moves a batch to the model's device.
            autocast: the number type of the computation.
            generates: whether answers are generated.

        Returns:
            ``eval_loss``: mean cross-entropy per token of the answers; ``eval_samples``: number of samples that could
            be used; and, where there are short answers, ``eval_accuracy`` and their number, ``eval_answers``.

        Raises:
            TrainingError: prompts were not compressed, or no sample could be used.
        """
        # Summed loss, labels, samples, correct answers, generated answers.
        sums = torch.zeros(5, dtype=torch.float64)
        model.eval()
        with torch.no_grad():
            for batch in self._batches():
                batch.pop("skipped", None)
                inputs = prepare(batch)
                output = model(**inputs)
                assert_compressed(model.attachment, inputs["input_ids"])
                rows = output.counts > 0
                sums[:3] += torch.stack([output.sums.sum(), output.counts.sum(), rows.sum()]).double().cpu()
                if generates:
                    with autocast():
                        sums[3:] += torch.tensor(self._compare(model, inputs), dtype=torch.float64)
        model.train()
        loss, labels, samples, correct, answers = _sum_over_processes(sums).tolist()
        if not labels:
            raise TrainingError("no sample of eval_data can be used; `omnisift data-check` shows why")
        metrics = {"eval_loss": loss / labels, "eval_samples": samples}
        return metrics | ({"eval_accuracy": correct / answers, "eval_answers": answers} if answers else {})

    def _batches(self) -> Iterator[dict[str, Any]]:
        """The batches of this process. All processes get equally many, since sharded models wait for each other."""
        connected = torch.distributed.is_available() and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if connected else (0, 1)
        indices = list(range(len(self._samples)))
        batches = [indices[start : start + self._batch_size] for start in indices[:: self._batch_size]]
        batches += [[]] * (-len(batches) % world)  # the collator makes one row without labels of an empty batch
        data: Any = self._samples
        loader: Any = DataLoader(
            data,
            batch_sampler=batches[rank::world],
            collate_fn=self._collator,
            num_workers=self._workers,
            generator=torch.Generator(),  # the global one draws the training batches, as without an evaluation
        )
        return iter(loader)

    def _compare(self, model: CompressedModel, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """(correct, all) short answers of a batch, each generated up to the length of the one in the data."""
        ids, spans = inputs["input_ids"], answer_spans(inputs["labels"])
        expected = {
            row: text
            for row, (begin, end) in enumerate(spans)
            if is_short(text := self._tokenizer.decode(ids[row, begin:end], skip_special_tokens=True))
        }
        if not expected:
            return 0, 0
        lengths = {row: spans[row][1] - spans[row][0] for row in expected}  # with the token that ends the turn
        texts = cut_prompts(inputs, [begin for begin, _ in spans], self._stop_tokens["pad_token_id"])
        prompt = {name: value for name, value in inputs.items() if name not in ("labels", "frame_seconds", *texts)}
        output = model.thinker.generate(  # type: ignore[operator]
            **prompt | texts,
            max_new_tokens=max(lengths.values()),
            **greedy_arguments(model.thinker),
            **self._stop_tokens,
        )[:, texts["input_ids"].shape[1] :]
        correct = 0
        for row, text in expected.items():
            answer = until_stop(output[row, : lengths[row]], self._stop_tokens["eos_token_id"])
            generated = self._tokenizer.decode(answer, skip_special_tokens=True)
            correct += normalise_answer(generated) == normalise_answer(text)
        return correct, len(expected)


def answer_spans(labels: Tensor) -> list[tuple[int, int]]:
    """Where the last answer of each row begins and ends; both are the length of the row where there is none.

    Args:
        labels: [B, S] int64, -100 outside of answers.
    """
    spans = []
    for row in (labels != IGNORE_INDEX).tolist():
        end = len(row) - row[::-1].index(True) if True in row else len(row)
        begin = end
        while begin and row[begin - 1]:
            begin -= 1
        spans.append((begin, end))
    return spans


def cut_prompts(inputs: Mapping[str, Any], ends: Sequence[int], pad_token_id: int) -> dict[str, Tensor]:
    """Cut each row where its answer begins, and pad the rows on the left again.

    Args:
        inputs: a batch; those of its tensors that have an entry for each token are cut.
        ends: length of each row's prompt, with its padding.
        pad_token_id: the token of the padding.

    Returns:
        Name -> [B, P] of these tensors.
    """
    masks = [row[:end].bool() for row, end in zip(inputs["attention_mask"], ends, strict=True)]
    width = max(int(mask.sum()) for mask in masks)
    fill = {"input_ids": pad_token_id, "attention_mask": 0, "mm_token_type_ids": 0}

    def cut(name: str) -> Tensor:
        rows = [row[:end][mask] for row, end, mask in zip(inputs[name], ends, masks, strict=True)]
        return torch.stack([F.pad(row, (width - len(row), 0), value=fill[name]) for row in rows])

    return {name: cut(name) for name in fill if name in inputs}


def _sum_over_processes(sums: Tensor) -> Tensor:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return sums
    total = sums.to("cuda" if torch.distributed.get_backend() == "nccl" else "cpu")
    torch.distributed.all_reduce(total)
    return total.cpu()
