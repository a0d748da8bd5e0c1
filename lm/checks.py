"""What is checked when a model is loaded: its files, its weights, and that it is a causal LM.

transformers loads many a folder that holds something else, and runs it as another model.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from lm.forward import PROBE, input_device

# Difference in log P (nats) that rounding may make, in epsilons of the dtype: in single precision
# and above, and in half. The bundled model shows 200, and 60 to 80 in half precision.
SLACK, HALF_SLACK = 8192, 100
# What transformers raises where a model does not fit a way of running it. An error of our own is
# one of these too, so that what was raised is always shown.
MISFITS = (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)
MODEL_FILES = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin", ".gguf")
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
OTHER_HEADS = ("Classification", "QuestionAnswering", "MaskedLM")  # in names of architectures
# Of wrappers in which a model was when it was saved: torch.compile, DataParallel
WRAPPED = re.compile(r"((?:_orig_mod\.|module\.)+)")
# The causal mask, and what it hides with, as older versions of transformers stored them
MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")


def check_files(name: str, folder: Path, gguf: str | None = None) -> None:
    """UserError for a folder that holds an adapter, or a pointer in the place of a file."""
    adapter = folder / "adapter_config.json"
    if adapter.exists() and (folder / "config.json").exists():
        raise UserError(
            f"'{name}' holds both a whole model and a PEFT adapter.\n"
            "Move the adapter_* files to another folder, and name it with --adapter to apply them."
        )
    if adapter.exists() and gguf is None:
        raise UserError(
            f"'{name}' is a PEFT adapter, not a whole model.\n"
            f"Run again with --model {_base_of(adapter)} --adapter {name}."
        )
    check_pointers(name, folder, gguf)


def check_pointers(name: str, folder: Path, gguf: str | None = None) -> None:
    """UserError where Git LFS has left a pointer in the place of a file."""
    for file in [folder / gguf] if gguf else sorted(folder.iterdir()):
        if file.suffix in MODEL_FILES and file.is_file():
            with open(file, "rb") as content:
                if content.read(len(POINTER)) == POINTER:
                    raise UserError(
                        f"'{name}': {file.name} is a pointer of Git LFS, not the file itself.\n"
                        "Run `git lfs pull` in that folder, or download the model again."
                    )


def _base_of(adapter: Path) -> str:
    """The base model that an adapter's configuration names."""
    try:
        named = json.loads(adapter.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = None
    base = named.get("base_model_name_or_path") if isinstance(named, dict) else None
    return base or "BASE"


def check_weights(name: str, model, report: Mapping[str, Any]) -> None:
    """UserError where a model was made for another task, or its file's weights are not the model's.

    `report` is what transformers says of the load. Weights that it ignores are not in it; buffers
    that a file holds and the model computes are no matter either.
    """
    made_as = " ".join(model.config.architectures or ())
    if any(head in made_as for head in OTHER_HEADS):
        raise UserError(f"'{name}' ({made_as}) is not a causal language model.")
    buffers = {buffer for buffer, _ in model.named_buffers()}
    unexpected = sorted(
        key for key in report["unexpected_keys"] if key not in buffers and not MASK.search(key)
    )
    wrapped = [found[1] for key in unexpected if (found := WRAPPED.match(key))]
    if wrapped and len(wrapped) == len(unexpected):
        raise UserError(
            f"'{name}': the names of its weights begin with '{wrapped[0]}', which torch.compile or "
            "DataParallel put there.\nSave the model that is inside the wrapper."
        )
    if report["missing_keys"]:
        raise UserError(
            f"'{name}' is not a causal language model: its files lack "
            f"{_some(sorted(report['missing_keys']))}."
        )
    if unexpected:
        raise UserError(
            f"'{name}' holds weights that its config.json has no place for: {_some(unexpected)}.\n"
            "Without them it is another model; does its config.json belong to it?"
        )


def _some(keys: Sequence[str]) -> str:
    """How many weights, and the names of the first."""
    count = "1 weight" if len(keys) == 1 else f"{len(keys)} weights"
    return f"{count}, such as {', '.join(keys[:3])}"


def check_causal(name: str, model) -> None:
    """UserError where a later token changes what the model says after an earlier one (BERT)."""
    ids = torch.tensor([PROBE], device=input_device(model))
    with torch.inference_mode():
        whole, part = (
            model(ids[:, :n], use_cache=False).logits[0, 3].float()  # some have no cache to use
            for n in (len(PROBE), 4)
        )
    slack = 1e-3 if model.dtype == torch.float32 else 0.1  # half precision depends on the length
    if (whole - part).norm() > slack * part.norm():
        raise UserError(
            f"'{name}' ({type(model).__name__}) is not a causal language model: "
            "later tokens change earlier predictions."
        )


def check_tokens(model, tokenizer, used: Sequence[int]) -> None:
    """UserError where a token that a prompt can hold has no row in the embeddings.

    `used` are the special tokens of prompts: texts have none, see `Renderer.escape`, so that others
    (a token for padding, say) may lie beyond the embeddings.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    known = {index for index in tokenizer.get_vocab().values() if index not in special}
    beyond = sorted(index for index in known | set(used) if index >= rows)
    if beyond:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(beyond[:3])))
        raise UserError(
            f"the tokenizer has tokens beyond the model's {rows} embeddings ({len(beyond)}), "
            f"such as {names}.\nTokenizer and model do not belong together, or the embeddings were "
            "not resized when tokens were added."
        )


def slack_of(dtype: torch.dtype) -> float:
    """How far two roads to one log P may lie apart (nats)."""
    return (HALF_SLACK if dtype.itemsize < 4 else SLACK) * torch.finfo(dtype).eps


def in_a_line(error: Exception) -> str:
    """What was raised, cut short."""
    return f"{' '.join(f'{type(error).__name__}: {error}'.split()):.100}"
