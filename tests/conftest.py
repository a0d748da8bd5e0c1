"""Shared by all tests: no Hub, no bars, no verdicts and speeds; one thread for tiny models."""

import os
import shutil
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import pytest
import tiny
import torch
import transformers

from lm import speeds, verdicts

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
pytest.register_assert_rewrite("runs", "small_results")  # else they do not say what differs
# None is kept, unless a test says where
verdicts.folder = lambda: Path(os.devnull, "verdicts")
speeds.folder = lambda: Path(os.devnull, "speeds")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a tiny Llama with its tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def copy(model, tmp_path):
    """The same folder, for a test that changes it."""
    return shutil.copytree(model, tmp_path / "model")
