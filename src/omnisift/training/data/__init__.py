"""Training data: read, check and convert conversations about clips, and collate them into batches."""

from omnisift.training.data.cache import ClipCache
from omnisift.training.data.collator import Collator
from omnisift.training.data.encoding import check_answers_follow, encode_sample
from omnisift.training.data.files import DataRows, load_samples, read_rows, save_folder, save_samples
from omnisift.training.data.samples import Reading, Sample, Turn

__all__ = [
    "ClipCache",
    "Collator",
    "DataRows",
    "Reading",
    "Sample",
    "Turn",
    "check_answers_follow",
    "encode_sample",
    "load_samples",
    "read_rows",
    "save_folder",
    "save_samples",
]
