"""Load a model once and ask it about media files."""

from omnisift.pipeline.ask import Pipeline, load
from omnisift.pipeline.encoded_clip import EncodedClip
from omnisift.pipeline.prompt import inputs
from omnisift.pipeline.report import Answer, Report

__all__ = ["Answer", "EncodedClip", "Pipeline", "Report", "inputs", "load"]
