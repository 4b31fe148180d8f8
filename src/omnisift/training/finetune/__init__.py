"""Fine-tune a model under compression, on Hugging Face's Trainer (docs/fine-tuning.md)."""

from omnisift.training.finetune.recipe import TrainRecipe, load_train_recipe
from omnisift.training.finetune.run import TrainReport, fine_tune
from omnisift.training.finetune.sifted import Sifted

__all__ = ["Sifted", "TrainRecipe", "TrainReport", "fine_tune", "load_train_recipe"]
