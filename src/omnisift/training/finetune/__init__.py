"""Fine-tune a model under compression, on Hugging Face's Trainer (docs/fine-tuning.md)."""

from omnisift.training.finetune.compressed_model import CompressedModel
from omnisift.training.finetune.plan import RunPlan, plan_run
from omnisift.training.finetune.recipe import TrainRecipe, load_train_recipe
from omnisift.training.finetune.run import TrainReport, fine_tune

__all__ = ["CompressedModel", "RunPlan", "TrainRecipe", "TrainReport", "fine_tune", "load_train_recipe", "plan_run"]
