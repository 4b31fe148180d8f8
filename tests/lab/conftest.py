"""Fixtures for tests of training: an untrained nano and the features of a few clips."""

import pytest
import torch

from omnisift.lab.training.feature_cache import FeatureCache, encode_features
from omnisift.lab.training.nano_model import build_model, build_processor
from omnisift.lab.training.packed import Writer, clip_layout
from omnisift.lab.training.tokenizer import build_tokenizer
from omnisift.world import vocabulary


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer():
    return build_tokenizer(vocabulary())


@pytest.fixture(scope="session")
def processor(tokenizer, tmp_path_factory):
    """As a user gets it: saved and loaded again."""
    from transformers import AutoProcessor

    folder = tmp_path_factory.mktemp("nano")
    build_model(tokenizer).save_pretrained(folder)
    build_processor(tokenizer).save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def model(tokenizer):
    return build_model(tokenizer).eval()


@pytest.fixture(scope="session")
def features(tokenizer) -> FeatureCache:
    return encode_features(build_model(tokenizer).eval(), "train", 20, decoded_share=0.0)


@pytest.fixture(scope="session")
def writer(tokenizer):
    return Writer(tokenizer)


@pytest.fixture(scope="session")
def layout(tokenizer):
    return clip_layout(build_model(tokenizer), tokenizer)
