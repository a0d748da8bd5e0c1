"""Shared by all tests: no Hub, no progress bars, and one thread, since the models are tiny."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

import torch
import transformers

torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
