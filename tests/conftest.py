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

import experiment
from lm import speeds, verdicts
from run.config import RunConfig

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
# Helpers whose assertions say what differs; before they are imported
pytest.register_assert_rewrite("engines", "pages", "runs", "small_results", "studies")
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


@pytest.fixture(scope="session")
def study(tmp_path_factory):
    """Makes the folder of a run with some flags; each is made once."""
    from studies import run_study

    model, made = tiny.save_model(tmp_path_factory.mktemp("models") / "tiny-llama"), {}

    def studied(flags=""):
        if flags not in made:
            made[flags] = tmp_path_factory.mktemp("study")
            assert run_study(made[flags], model, flags) == 0
        return made[flags]

    return studied


@pytest.fixture(scope="module")
def lm(model):
    """The saved model, as a run loads it."""
    return experiment._load(RunConfig(model=str(model), no_cosine=True, device="cpu"))


@pytest.fixture
def no_model(monkeypatch):
    """Whoever loads a model fails."""
    monkeypatch.setattr(experiment, "_load", lambda config: pytest.fail("a model was loaded"))
