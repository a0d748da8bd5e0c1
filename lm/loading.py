"""Loading a Hugging Face causal LM by name or path, with plain words where that fails."""

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from core import hub
from core.errors import UserError
from lm.bundled import BUNDLED, bundled_path
from lm.forward import PROBE, input_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_FILES = (".json", ".jinja", ".model", ".txt", ".safetensors", ".bin", ".gguf")
HASHED_ENDS = 2**16  # bytes of a file's beginning and end
UNKNOWN = "'{name}' is neither a folder here nor a model on the Hub that you can read."
PICKLED = (
    "'{name}' has no weights in safetensors.\n"
    "If they are in pytorch_model.bin, which can hold code, and you trust their authors, "
    "run again with --allow_pickle."
)
WITHOUT_HUB = (
    f"Use a local folder, --model {BUNDLED}, or a cache filled elsewhere "
    "(HF_HOME, with HF_HUB_OFFLINE=1)."
)
GGUF = ".gguf"
# What transformers raises for files that are not as it expects them
LOADING_ERRORS = (OSError, ValueError, LookupError, ImportError, RuntimeError, SafetensorError)
LOADING_ERRORS += (EOFError, UnpicklingError, struct.error, TypeError, AttributeError)
LOADING_ERRORS += (ArithmeticError, MemoryError)
OTHER_HEADS = ("Classification", "QuestionAnswering", "MaskedLM")  # in names of architectures


class Loaded(NamedTuple):
    """A model as transformers loads it, with its tokenizer."""

    model: Any
    tokenizer: Any
    revision: str | None  # which state of the model it is, see `revision_of`


def load(
    name: str,
    *,
    dtype: str = "auto",
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Loaded:
    """A causal LM by Hub name, path, or BUNDLED; the settings are those of `model.load_model`."""
    where = resolve_device(device)
    if where.type == "cpu":  # grouped keys are read in place, not copied for every head
        os.environ.setdefault("TRANSFORMERS_SDPA_FORCE_GQA", "1")
    transformers.utils.logging.set_verbosity_error()
    huggingface_hub.logging.set_verbosity_error()  # its retries end in an error of our own
    # Else transformers waits for a robot of the Hub to convert pickled weights.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    path, of_file = place_of(name, allow_pickle)
    transformers.utils.logging.disable_progress_bar()  # and with it the one of downloads
    of_file["trust_remote_code"] = trust_remote_code
    wanted_dtype = resolve_dtype(dtype, where)

    def read_files():
        tokenizer = AutoTokenizer.from_pretrained(path, **of_file)
        return tokenizer, *AutoModelForCausalLM.from_pretrained(
            path,
            dtype=wanted_dtype,
            output_loading_info=True,
            device_map=device_map,
            use_safetensors=None if allow_pickle else True,
            **of_file,
        )

    try:
        with pickles(name, allow_pickle):
            tokenizer, model, report = read_files()
        model = (model if device_map else model.to(where)).eval()
    except LOADING_ERRORS as error:
        raise UserError(_why_not_loaded(name, error)) from error
    check_head(model, name, sorted(report["missing_keys"]))
    check_causal(model, name)
    revision = revision_of(path, of_file.get("gguf_file"))
    return Loaded(model, tokenizer, revision)


def revision_of(path: str, gguf: str | None = None) -> str:
    """Which state of a model this is: the Hub's commit, or for a folder of one's own a hash over
    its files, or over the one named by `gguf`.

    Of large files the ends are hashed: training changes all weights, and reading them again would
    take as long as loading them.
    """
    if hub.is_snapshot(Path(path)):
        return Path(path).name
    found = hashlib.sha256()
    files = [Path(path, gguf)] if gguf else Path(path).iterdir()
    for file in sorted(file for file in files if file.suffix in MODEL_FILES and file.is_file()):
        size = file.stat().st_size
        found.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as content:
            found.update(content.read(HASHED_ENDS))
            content.seek(max(0, size - HASHED_ENDS))
            found.update(content.read())
    return f"files {found.hexdigest()[:16]}"


def place_of(name: str, allow_pickle: bool = False) -> tuple[str, dict[str, str]]:
    """Folder of a model, fetched where it is on the Hub, and the file's name where that is GGUF."""
    path = bundled_path() if name == BUNDLED else Path(name)
    if path.suffix == GGUF and os.path.isfile(path):
        return str(path.parent), {"gguf_file": path.name}
    if os.path.isdir(path) and not (path / "config.json").exists():
        files = sorted(path.glob(f"*{GGUF}"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UserError(f"'{name}' holds several models: {names}.\nGive one file as --model.")
        if files:
            return str(path), {"gguf_file": files[0].name}
    if not (name == BUNDLED or os.path.isdir(name)):
        path = hub.fetch_model(_wanted(name), allow_pickle)
    return str(path), {}


@contextmanager
def pickles(name: str, allowed: bool) -> Iterator[None]:
    """Within it whatever would unpickle weights of a model is refused, unless it is allowed.

    `use_safetensors` alone is not enough: a configuration can name a pickled file itself.
    """
    load = torch.load

    def refuse(*arguments, **settings):
        raise UserError(PICKLED.format(name=name))

    torch.load = load if allowed else refuse
    try:
        yield
    finally:
        torch.load = load


def check_head(model, name: str, missing: Sequence[str]) -> None:
    """UserError where a model was made for another task, or its files lack weights."""
    made_as = " ".join(model.config.architectures or ())
    if any(head in made_as for head in OTHER_HEADS):
        raise UserError(f"'{name}' ({made_as}) is not a causal language model.")
    if missing:
        raise UserError(
            f"'{name}' is not a causal language model: its files lack {len(missing)} weights, "
            f"such as {missing[0]}."
        )


def check_causal(model, name: str) -> None:
    """UserError where a later token changes what the model says after an earlier one (BERT)."""
    with torch.inference_mode():
        whole, part = (
            model(torch.tensor([PROBE[:n]], device=input_device(model))).logits[0, 3].float()
            for n in (len(PROBE), 4)
        )
    slack = 1e-3 if model.dtype == torch.float32 else 0.1  # half precision depends on the length
    if (whole - part).norm() > slack * part.norm():
        raise UserError(
            f"'{name}' ({type(model).__name__}) is not a causal language model: "
            "later tokens change earlier predictions."
        )


def resolve_device(device: str) -> torch.device:
    """`auto` is the first accelerator that is there, else the CPU; UserError where it is absent."""
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {device}: not usable here ({reason}).") from error


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """`auto` is float32 on a CPU and the checkpoint's own dtype elsewhere."""
    if dtype == "float16" and device.type == "cpu":
        raise UserError(
            "float16 (--fp16) does not run on a CPU. Use --dtype bfloat16 or float32, or a GPU."
        )
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return DTYPES[dtype]


OF_TRANSFORMERS = {  # part of its message: what is said
    "trust_remote_code": "'{name}' brings code of its own. "
    "If you trust its authors, run again with --trust_remote_code.",
    "Unrecognized configuration class": "'{name}' is not a causal language model that "
    "transformers knows.",
    "file named model.safetensors": PICKLED,
    "out of memory": "'{name}' does not fit into the memory of the device.\n"
    "Use --dtype bfloat16, --device_map auto where there are several devices, or a smaller model.",
    "ignore_mismatched_sizes": "'{name}' has weights of other shapes than its config.json says.",
    "backend tokenizer": "'{name}' has no tokenizer files that can be read.",
}


def _wanted(name: str) -> hub.Wanted:
    return hub.Wanted(f"'{name}'", name, UNKNOWN.format(name=name), WITHOUT_HUB)


def _why_not_loaded(name: str, error: Exception) -> str:
    text = hub.trouble(error, _wanted(name))
    if text is not None:
        return text
    for part, said in OF_TRANSFORMERS.items():
        if part in str(error):
            return said.format(name=name)
    damaged = hub.if_damaged(name, "model")
    return hub.own_words(error, f"'{name}'") + (f"\n{damaged}" if damaged else "")
