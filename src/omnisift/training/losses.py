"""What a model is trained on: the answers of the data, or its own distributions with all tokens."""

from __future__ import annotations

ANSWERS, SELF_DISTILLATION = "answers", "self_distillation"
LOSSES = (ANSWERS, SELF_DISTILLATION)
"""``answers``: cross-entropy of the answers. ``self_distillation``: KL divergence from the model before training, which
reads all tokens, to the model that reads the compressed prompt, at every token of the answers."""
DATA, MODEL = "data", "model"
ANSWER_SOURCES = (DATA, MODEL)
"""Whose answers are learned: those of the data, or the greedy ones of the model before training with all tokens."""
