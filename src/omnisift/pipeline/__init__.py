"""A media file and a question in, an answer out: `load` a model once, then `Pipeline.ask` it."""

from omnisift.pipeline.ask import Pipeline, load
from omnisift.pipeline.report import Answer, Report

__all__ = ["Answer", "Pipeline", "Report", "load"]
